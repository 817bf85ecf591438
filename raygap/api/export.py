"""raygap.export: a trained network as one file for other programs."""

from pathlib import Path

from raygap.api.arguments import checked
from raygap.tasks import export as task


@checked
def export(source: Path, to: task.Format, *, out: Path | None = None) -> Path:
    """Write what `predict` answers by, from a best.pt or a sweep's run folder, and a model card beside it.

    The arguments are those of `raygap export`: `to` is torch, onnx or safetensors, `out` ends in .pt2, .onnx or
    .safetensors. Returns the file that was written. Raises UserError where the network cannot be written so.
    """
    return task.export(source, to, task.check_export(source, to, out)).file
