"""A notebook of a script: a cell for what stands between two lines `# %% Words`; the words and docstring are text.

`python tests/notebook.py` writes examples/sweep_from_python.ipynb anew.
"""

import ast
import json
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "examples" / "sweep_from_python.py"


def notebook(script: str) -> str:
    """The notebook's file, without outputs."""
    _, _, rest = script.partition('"""\n')
    cells = [_text(ast.get_docstring(ast.parse(script)) or "")]
    for number, part in enumerate(rest.split("# %% ")):
        if number:
            words, _, part = part.partition("\n")
            cells.append(_text(words))
        cells.append({"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], **_source(part)})
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    whole = {"cells": numbered, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _text(words: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, **_source(words)}


def _source(text: str) -> dict[str, list[str]]:
    return {"source": text.strip().splitlines(keepends=True)}


if __name__ == "__main__":
    SCRIPT.with_suffix(".ipynb").write_text(notebook(SCRIPT.read_text(encoding="utf-8")), encoding="utf-8")
