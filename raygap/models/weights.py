"""Weights that an encoder begins with: a library's pretrained ones, or a state dict of one's own.

A file is torch's (read without pickle's code), or safetensors; also a best.pt of raygap's, of which the encoder of the
same modality is taken. A first layer for three channels is brought to one by the mean over them.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from raygap.config import TIMM, WAVEFORM
from raygap.errors import UserError, first_line
from raygap.extras import need
from raygap.locks import lock

URLS = ("http://", "https://", "file://")
WRAPPERS = ("state_dict", "model", "network")
"""Under which training code keeps a state dict among other things."""
_HASH = re.compile(r"-([0-9a-f]{8,})\.")
SHOWN = 5


def is_file(weights: str) -> bool:
    """Whether they are a file or URL, not a name of the library's."""
    return "/" in weights or "." in weights


def load_weights(encoder: nn.Module, name: str, weights: str, modality: str) -> str:
    """Give an encoder its weights; returns a line on what was loaded, what is missing and what was not expected.

    Raises UserError for weights that are not there, are no state dict, or are another network's.
    """
    what = f"model.{modality}.weights {weights}"
    if not is_file(weights):
        if name in WAVEFORM:
            return _load_torchaudio(encoder, name, weights, what)
        if name.startswith(TIMM):
            return _load_timm(encoder, name.removeprefix(TIMM), what)
        if not hasattr(encoder, "expects"):
            raise UserError(f"{what}: {name} has no pretrained weights; give a file with a state dict, or none")
        weights = library_weights(name, weights, what).url
    path = fetch(weights, what) if weights.startswith(URLS) else Path(weights)
    return _load(encoder, read_state(path, what), what, modality)


def library_weights(name: str, weights: str, what: str) -> Any:
    """torchvision's description of weights by their name. Raises UserError with those that there are."""
    from torchvision.models import get_model_weights

    known = get_model_weights(name).__members__
    if weights not in known:
        raise UserError(f"{what}: {name} has {', '.join(known)}, or a file with a state dict")
    return known[weights]


def _load_timm(encoder: nn.Module, name: str, what: str) -> str:
    import timm

    folder = _weights_folder()
    with (folder / f".timm-{name}.lock").open("a") as file:
        lock(file, wait=True)
        try:
            channels = next(p.shape[1] for p in encoder.parameters() if p.ndim > 1)
            pretrained = timm.create_model(name, pretrained=True, num_classes=0, in_chans=channels)
        except Exception as error:
            raise UserError(
                f"{what}: timm:{name} cannot be fetched ({first_line(error)}); give a file with its state dict instead"
            ) from None
    encoder.get_submodule("net").load_state_dict(pretrained.state_dict())
    return f"{what}: all of timm's {name} loaded"


def _load_torchaudio(encoder: nn.Module, name: str, weights: str, what: str) -> str:
    import torchaudio

    if weights != "DEFAULT":
        raise UserError(f"{what}: {name} has DEFAULT, or a file with a state dict")
    with (_weights_folder() / f".torchaudio-{name}.lock").open("a") as file:
        lock(file, wait=True)
        try:
            pretrained = getattr(torchaudio.pipelines, name.upper()).get_model()
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{what}: {name} cannot be fetched ({first_line(error)}); give a file with its state dict instead"
            ) from None
    encoder.get_submodule("net").load_state_dict(pretrained.state_dict())
    return f"{what}: all of torchaudio's {name} loaded"


def _weights_folder() -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(url: str, what: str) -> Path:
    """The file of a URL, fetched once a machine, where torch.hub keeps such files; checked if its name has a digest.

    Raises UserError, which says which file to put where, if it cannot be reached.
    """
    folder = _weights_folder()
    path = folder / Path(urlparse(url).path).name
    digest = _HASH.search(path.name)
    with (folder / f".{path.name}.lock").open("a") as file:
        lock(file, wait=True)
        if not path.exists():
            try:
                torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"{what}: {url} cannot be fetched ({first_line(error)}); put {path.name} into {folder}"
                ) from None
        elif digest and not sha256(path).startswith(digest[1]):
            raise UserError(f"{what}: {path}: not the file of that name (another sha256); delete it")
    return path


def sha256(path: Path) -> str:
    """Digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a state dict by name. Raises UserError if the file holds anything else."""
    if not path.is_file():
        raise UserError(f"{what}: {path}: no such file")
    if path.suffix == ".safetensors":
        need("safetensors", f"{what}:")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{what}: not a state dict that can be read without running code of its own ({first_line(error):.80}); "
            "save it as torch.save(network.state_dict(), FILE), or as safetensors"
        ) from None
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"{what}: no state dict (names with tensors); save it as torch.save(network.state_dict(), FILE)"
        )
    return state


def _load(encoder: nn.Module, state: dict[str, Tensor], what: str, modality: str) -> str:
    own = encoder.state_dict()
    prefix = f"{modality}_encoder."
    if any(name.startswith(prefix) for name in state):  # of a network of raygap's
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if not own.keys() & state.keys():
        state = {f"net.{name}": value for name, value in state.items()}
    # A counter of batches that nothing here reads; old files lack it.
    wanted = [name for name in own if not name.endswith("num_batches_tracked")]
    found, missing = ([name for name in wanted if (name in state) is there] for there in (True, False))
    unexpected = [name.removeprefix("net.") for name in state if name not in own]
    if len(missing) > len(found):
        raise UserError(
            f"{what}: weights of another network: of {len(wanted)} tensors {len(missing)} are missing, such as "
            f"{missing[0].removeprefix('net.')}"
        )
    averaged = 0
    for name in found:
        value, here = state[name], own[name].shape
        if value.ndim >= 4 and value.shape[1] == 3 and here[1] == 1 and value.shape[2:] == here[2:]:
            state[name] = value = value.float().mean(1, keepdim=True)
            averaged += 1
        if value.shape != here:
            raise UserError(
                f"{what}: weights of another network: {name.removeprefix('net.')} is {tuple(value.shape)} there, and "
                f"{tuple(here)} here"
            )
    encoder.load_state_dict({name: state[name] for name in own.keys() & state.keys()}, strict=False)
    mean = f", {averaged} of them by the mean of 3 channels" if averaged else ""
    missing = [name.removeprefix("net.") for name in missing]
    return f"{what}: {len(found)} tensors loaded{mean}; missing: {_named(missing)}; not expected: {_named(unexpected)}"


def _named(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more
