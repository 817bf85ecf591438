"""Code of one's own by name: `package.module:Name`, from the working directory or an installed package."""

import ast
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from raygap.errors import UserError, first_line

LOADED: dict[str, str] = {}
"""The module of each name that this process has loaded."""


def is_plugin(name: str) -> bool:
    """Whether a name points to code outside raygap."""
    return ":" in name


def file_name(name: str) -> str:
    """A name as part of a file's or folder's: a colon means something to scp, object stores and other systems."""
    return name.replace(":", ".")


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
    except (Exception, SystemExit) as error:  # a user's own code may raise anything, a script may end itself
        raise UserError(f"{what} {path}: cannot be imported ({in_words(error)})") from None
    if not hasattr(module, name):
        raise UserError(f"{what} {path}: {getattr(module, '__file__', None) or module_name} has no {name!r}")
    LOADED[path] = module_name
    return getattr(module, name)


def in_words(error: BaseException) -> str:
    """One line on what a user's own code has raised, and where in it."""
    said = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    last = frames[-1] if frames else None
    if last is None or last.filename == __file__ or isinstance(error, SyntaxError):  # which names its line itself
        return said
    return f"{said}, in {last.filename}, line {last.lineno}"


def own_code(module_name: str) -> dict[str, Path]:
    """The file of a loaded module, and those of the code beside it that it works with, by where they lie in the folder
    that it is imported from.

    That is its whole package, and what any of these files imports from the folder that the package, or a lone module,
    lies in. Of an installed one it is the package alone. What was typed into a session has no file.
    """
    root, found = _place(module_name)
    files: dict[str, Path] = {}
    while found:
        file = found.pop()
        inside = file.relative_to(root).as_posix()
        if inside in files:
            continue
        files[inside] = file
        for name in () if is_installed(module_name) else _imports(file):
            found += [beside] if (beside := root / f"{name}.py").is_file() else _python_files(root / name)
    return files


def is_installed(module_name: str) -> bool:
    """Whether a loaded module is from an installed package."""
    root, _ = _place(module_name)
    return root.name in ("site-packages", "dist-packages")


def _place(module_name: str) -> tuple[Path, list[Path]]:
    """The folder that a module is imported from, and the files of its package, or its own."""
    top = sys.modules[module_name.partition(".")[0]]
    if hasattr(top, "__path__"):
        package = Path(next(iter(top.__path__)))
        return package.parent, _python_files(package)
    file = Path(getattr(top, "__file__", None) or "")
    return file.parent, [file] if file.is_file() else []


def _python_files(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*.py") if not any(part.startswith(".") for part in f.relative_to(folder).parts)]


def _imports(file: Path) -> set[str]:
    """Names of the packages that a file imports, raygap's own apart."""
    names: set[str] = set()
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # so it is not imported
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:  # others lie in the same package
            names.add(str(node.module).partition(".")[0])
    return names - {"raygap"}
