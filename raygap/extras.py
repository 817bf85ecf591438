"""Packages that only some need: extras of pyproject.toml, imported where they are used, after a check."""

from importlib.metadata import PackageNotFoundError, version

from raygap.errors import UserError

EXTRAS: dict[str, tuple[str, ...]] = {
    "report": ("jinja2", "matplotlib", "plotly"),
    "wandb": ("wandb", "wandb-workspaces"),
    "h5": ("h5py",),
    "safetensors": ("safetensors",),
    "timm": ("timm",),
    "onnx": ("onnx", "onnxscript"),
}
"""Packages of each extra, by the names under which they are installed."""


def lacking(extra: str, what: str) -> str:
    """What is missing for `what` and how to have it, in a line; empty where all of the extra is installed."""
    absent = [package for package in EXTRAS[extra] if not _installed(package)]
    return f"{what} needs {', '.join(absent)}: pip install 'raygap[{extra}]'" if absent else ""


def need(extra: str, what: str) -> None:
    """Raise UserError where the extra is not installed; before anything of it is imported."""
    if line := lacking(extra, what):
        raise UserError(line)


def _installed(package: str) -> bool:
    # Not find_spec: W&B's client leaves folders of its own name, which look like packages.
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
