"""The command `raygap`: `raygap sweep` and the others, each a module of this folder, imported when it is called."""

import difflib
import importlib
import sys

import typer

COMMANDS = {
    "sweep": "search a method's configuration on a data set",
    "train": "train one configuration on several seeds and print the test result with its interval",
    "prepare": "decode a data set once into a packed store",
    "best": "print the best configuration of a sweep or a comparison",
    "report": "write report.html of a sweep or a comparison, and on request its report at W&B",
    "compare": "compare methods at equal budget",
    "diagnose": "say how imbalanced a trained model is, ours or a foreign one's",
    "predict": "print class probabilities of media files",
    "export": "write a trained network for other programs: torch.export, ONNX or safetensors",
    "submit": "send a sweep to a running Ray cluster, follow it, and fetch its results",
    "preflight": "check a Ray cluster before hours are spent on it",
}
"""Also names of modules. In words here, so that --help imports none of them."""

USAGE = "usage: raygap COMMAND [OPTIONS], raygap COMMAND --help, raygap --version\n\n" + "\n".join(
    f"  {name:<10} {words}" for name, words in COMMANDS.items()
)


def run(name: str) -> None:
    """Run a command, which takes its options from the command line; launch/ calls this too."""
    typer.run(importlib.import_module(f"raygap.commands.{name}").main)


def main() -> None:
    """Run the command that the command line names."""
    name, *others = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(USAGE)
    elif name == "--version":
        from raygap.provenance import version_line

        print(version_line())
    elif name in COMMANDS:
        sys.argv = [f"raygap {name}", *others]
        run(name)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: unknown command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
