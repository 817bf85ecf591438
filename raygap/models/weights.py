"""Weights that an encoder begins with: a library's pretrained ones, or a state dict of one's own.

A file is torch's (read without pickle's code), or safetensors; also a best.pt of raygap's, of which the encoder of the
same modality is taken. A first layer for three channels is brought to one by the mean over them.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from raygap.config import TIMM, URLS, WAVEFORM, is_weights_file
from raygap.errors import UserError, first_line
from raygap.extras import need
from raygap.locks import lock

WRAPPERS = ("state_dict", "model", "network")
"""Under which training code keeps a state dict among other things."""
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=\d)")
"""Of names in torchvision's files, which its own loader rewrites: norm.1 is norm1."""
_HASH = re.compile(r"-([0-9a-f]{8,})\.")
SHOWN = 5


def load_weights(encoder: nn.Module, name: str, weights: str, modality: str) -> str:
    """Give an encoder its weights; returns a line on what was loaded, what is missing and what was not expected.

    Raises UserError for weights that are not there, are no state dict, or are another network's.
    """
    what = f"model.{modality}.weights {weights}"
    if is_weights_file(weights):
        path = fetch(weights, _file_name(weights), what) if weights.startswith(URLS) else Path(weights)
    elif name.startswith(TIMM):
        return _load_timm(encoder, name.removeprefix(TIMM), weights, what)
    else:
        url = _address(encoder, name, weights, what)
        path = fetch(url, _last_part(url), what)
    return _load(encoder, read_state(path, what), what, modality)


def _address(encoder: nn.Module, name: str, weights: str, what: str) -> str:
    """The URL of torchaudio's or torchvision's weights by their name."""
    if name in WAVEFORM:
        from raygap.models.waveform import BUNDLES, FOLDER

        if weights != "DEFAULT":
            raise UserError(f"{what}: {name} has DEFAULT, or a file with a state dict")
        beside: str = library_weights("resnet18", "DEFAULT", what).url
        return urlparse(beside)._replace(path=FOLDER + BUNDLES[name].file).geturl()
    if not hasattr(encoder, "expects"):
        raise UserError(f"{what}: {name} has no pretrained weights; give a file with a state dict, or none")
    url: str = library_weights(name, weights, what).url
    return url


def library_weights(name: str, weights: str, what: str) -> Any:
    """torchvision's description of weights by their name. Raises UserError with those that there are."""
    from torchvision.models import get_model_weights

    known = get_model_weights(name).__members__
    if weights not in known:
        raise UserError(f"{what}: {name} has {', '.join(known)}, or a file with a state dict")
    return known[weights]


def _load_timm(encoder: nn.Module, name: str, weights: str, what: str) -> str:
    import timm

    if weights != "DEFAULT":
        raise UserError(f"{what}: timm:{name} has DEFAULT (others by their tag, as timm:NAME.TAG), or a file")
    with (_weights_folder() / ".timm.lock").open("a") as file:
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


def _weights_folder() -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _last_part(url: str) -> str:
    return Path(urlparse(url).path).name


def _file_name(url: str) -> str:
    """Under which a URL's file is kept: many are called model.safetensors, and only a digest tells them apart."""
    name = _last_part(url)
    return name if _HASH.search(name) else f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def fetch(url: str, name: str, what: str) -> Path:
    """The file of a URL, fetched once a machine and kept under this name where torch.hub keeps such files; checked if
    the name has a digest.

    Raises UserError, which says which file to put where, if it cannot be reached.
    """
    folder = _weights_folder()
    path = folder / name
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
        raise UserError(f"{what}: no such file")
    if path.suffix == ".safetensors":
        need("safetensors", f"{what}:")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of the pickle's protocol
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
    state = {_DENSENET.sub(r"\1", name.removeprefix("module.")): value for name, value in state.items()}
    if not own.keys() & state.keys():
        state = {f"net.{name}": value for name, value in state.items()}
    averaged = 0
    for name in (name for name in own if name in state):
        value, here = state[name], own[name].shape
        if value.ndim >= 4 and value.shape[1] == 3 and here[1] == 1 and value.shape[2:] == here[2:]:
            state[name] = value = value.float().mean(1, keepdim=True)
            averaged += 1
        if value.shape != here:
            raise UserError(
                f"{what}: weights of another network: {name.removeprefix('net.')} is {tuple(value.shape)} there, and "
                f"{tuple(here)} here"
            )
    try:
        # By torch's own function, all of them: modules know their tensors by the names of earlier versions too.
        missed, unexpected = encoder.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{what}: weights of another network ({str(error).splitlines()[-1].strip()})") from None
    # A counter of batches that nothing here reads; old files lack it.
    wanted, missing = ([one for one in names if not one.endswith("num_batches_tracked")] for names in (own, missed))
    if 2 * len(missing) > len(wanted):
        raise UserError(
            f"{what}: weights of another network: of {len(wanted)} tensors {len(missing)} are missing, such as "
            f"{missing[0].removeprefix('net.')}"
        )
    mean = f", {averaged} of them by the mean of 3 channels" if averaged else ""
    loaded = f"{len(wanted) - len(missing)} tensors loaded{mean}"
    return f"{what}: {loaded}; missing: {_named(missing)}; not expected: {_named(unexpected)}"


def _named(names: list[str]) -> str:
    names = [name.removeprefix("net.") for name in names]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more
