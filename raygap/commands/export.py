"""Write a trained network as one file for other programs, with a model card beside it.

python launch/export.py runs/demo-gmm_scores-20260101-120000 --to torch
python launch/export.py runs/demo-train-20260101-120000/0/best.pt --to onnx --out digits.onnx
python launch/export.py runs/demo-gmm_scores-20260101-120000 --to safetensors

torch and onnx take decoded frames and spectrograms, in batches of any size, and give probabilities; scaling, correction
and ensemble are inside (docs/export.md). safetensors has the weights and the configuration, and predict takes it.
"""

from pathlib import Path
from typing import Annotated

import typer

from raygap.ending import user_errors
from raygap.tasks.export import Format, check_export, export

EXPORT = "Export"


@user_errors()
def main(
    source: Annotated[Path, typer.Argument(help="A sweep's run folder, or a best.pt.")],
    to: Annotated[Format, typer.Option(help="What is written.", rich_help_panel=EXPORT)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file: .pt2, .onnx or .safetensors.",
            show_default="model.* in the run folder, or beside the best.pt",
            rich_help_panel=EXPORT,
        ),
    ] = None,
) -> None:
    """Write a trained network as one file for other programs, with a model card beside it."""
    written = export(source, to, check_export(source, to, out))
    print(f"network: {written.file}\ncard:    {written.card}")
