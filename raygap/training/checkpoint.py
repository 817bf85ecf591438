"""Checkpoints: tensors, numpy arrays and primitives in one file, written whole or not at all, read without pickle."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raygap.errors import UserError
from raygap.extras import need

SAFETENSORS = ".safetensors"


def save(state: Any, path: Path) -> None:
    """Write atomically: a kill at any moment leaves the old file or the new one."""
    write_whole(path, dumps(state))


def load(path: Path, device: torch.device | str = "cpu", mend: str = "delete it to train again") -> Any:
    """Read what save wrote, or export_tensors. Raises UserError if there is none, or it is damaged; OSError if it
    cannot be read.
    """
    try:
        if path.suffix == SAFETENSORS:
            return _import_tensors(path, device)
        return loads(path.read_bytes(), device)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except UserError:
        raise
    except Exception as error:
        passing = isinstance(error, OSError) and not isinstance(error, PermissionError | IsADirectoryError)
        if passing or isinstance(error, torch.OutOfMemoryError):  # says nothing of the file
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable checkpoint ({reason}); {mend}") from None


def export_tensors(state: dict[str, Any], path: Path) -> None:
    """Write what a best.pt holds as safetensors: the network's tensors by name, the rest as JSON in the metadata."""
    need("safetensors", f"{path}:")
    from safetensors.torch import save

    tensors = {name: tensor.contiguous().clone() for name, tensor in state["network"].items()}
    rest = {name: value for name, value in state.items() if name != "network"}
    write_whole(path, save(tensors, {"raygap": json.dumps(rest)}))


def _import_tensors(path: Path, device: torch.device | str) -> dict[str, Any]:
    need("safetensors", f"{path}:")
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(device)) as file:
        rest = json.loads((file.metadata() or {})["raygap"])
        return {**rest, "network": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118 (no mapping)


def dumps(state: Any) -> bytes:
    """A checkpoint as bytes."""
    buffer = io.BytesIO()
    torch.save(_to_tensors(state), buffer)
    return buffer.getvalue()


def loads(content: bytes, device: torch.device | str = "cpu") -> Any:
    """Inverse of dumps."""
    return _to_arrays(torch.load(io.BytesIO(content), map_location=device, weights_only=True))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, and durably."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)  # half a file would keep a full disk full
        raise


def _to_tensors(state: Any) -> Any:
    # torch.load(weights_only=True) admits no numpy arrays, so they travel as marked tensors.
    if isinstance(state, dict):
        return {key: _to_tensors(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_to_tensors(value) for value in state]
    if isinstance(state, np.ndarray):
        return {"__numpy__": torch.from_numpy(np.ascontiguousarray(state))}
    return state.item() if isinstance(state, np.generic) else state


def _to_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        if set(state) == {"__numpy__"}:
            return state["__numpy__"].cpu().numpy()
        return {key: _to_arrays(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_to_arrays(value) for value in state]
    return state
