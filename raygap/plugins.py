"""Code of one's own by name: `package.module:Name`, from the working directory or an installed package."""

import importlib
import os
import sys
from typing import Any

from raygap.errors import UserError, first_line


def is_plugin(name: str) -> bool:
    """Whether a name points to code outside raygap."""
    return ":" in name


def load_plugin(path: str, what: str) -> Any:
    """What `package.module:Name` names; `what` says in an error where the name is from, as "--method".

    Workers on other machines import it by the same name. Raises UserError for a module that cannot be imported, and for
    a name that it does not have.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise UserError(f"{what} {path}: expected package.module:Name")
    # As `python script.py` has its folder in the path, and console scripts and notebooks should too.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        where = f"the working directory {os.getcwd()} and installed packages were searched"
        raise UserError(f"{what} {path}: no module {missing!r}; {where}") from None
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"{what} {path}: cannot be imported ({type(error).__name__}: {first_line(error)})") from None
    if not hasattr(module, name):
        raise UserError(f"{what} {path}: {module.__file__} has no {name!r}")
    return getattr(module, name)
