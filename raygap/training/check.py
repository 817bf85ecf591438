"""Whether a configuration can be trained at all, before anything is started for it."""

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from raygap.config import FEATURES, MODALITIES, TIMM, WAVEFORM, Model, Prepare, TrialConfig
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.plugins import is_plugin, load_plugin

if TYPE_CHECKING:
    from raygap.data.store import Store

UNTRIED = ("pooled", "small_cnn", "resnet18", *FEATURES)
"""Encoders that take what there is: commands that train no others need no torch so far."""
WAVEFORM_RATE = 16_000
"""Hz, of torchaudio's networks for waveforms."""
SOME_NUMBERS = 8
"""Stands for the length of features where it is not known yet."""


def check_trial(config: TrialConfig, store: "Store | None" = None) -> None:
    """Raise UserError if the method cannot work with its other fields, or an encoder with its input, or its weights are
    not there, or none of it.

    How long features are is known of a `store` alone: before there is one, encoders of one's own, and weights, are not
    tried on them. What was loaded of weights is logged, once a process.
    """
    method, model = find_method(config.method), config.model
    method.check(config)
    names = {modality: model.of(modality).encoder for modality in MODALITIES}
    for modality, name in names.items():
        _check_input(modality, name, config.prepare)
    if set(names.values()) <= set(UNTRIED) and not any(getattr(model, modality).in_use for modality in MODALITIES):
        return
    # What joins them changes nothing of them.
    encoders = model.model_copy(update={"fusion": "concat", "readout": "split"})
    shapes: dict[str, tuple[int, ...]] = {}
    if store and store.features:
        shapes = {"audio": store.spectrograms.shape[1:], "visual": store.frames.shape[1:]}
    sizes = {m: _try_encoder(encoders, m, config.prepare, shapes.get(m)) for m in MODALITIES}
    if method.equal_features(config) and None not in sizes.values():
        from raygap.models.network import equal_size

        equal_size(sizes)


def _check_input(modality: str, name: str, prepare: Prepare) -> None:
    """Raise UserError if an encoder of raygap's is for another kind of input."""
    if is_plugin(name) and not name.startswith(TIMM):
        return
    what, takes = f"model.{modality}.encoder {name}", "features" if name in FEATURES else "media"
    if takes != prepare.input:
        mend = "another" if takes == "features" else f"one of {', '.join(FEATURES)}"
        raise UserError(f"{what}: is for {takes}; with {prepare.input} choose {mend} (model.encoder)")
    if takes == "features":
        return
    waveform = modality == "audio" and prepare.spectrogram == "waveform"
    if name in WAVEFORM and not (waveform and prepare.sample_rate == WAVEFORM_RATE):
        settings = f"prepare.spectrogram=waveform and prepare.sample_rate={WAVEFORM_RATE}"
        raise UserError(f"{what}: is for sound as it is; set {settings}, and another encoder for pictures")
    if waveform and name not in WAVEFORM:
        raise UserError(f"{what}: prepare.spectrogram = waveform needs one of {', '.join(WAVEFORM)}, or your own")


@cache
def _try_encoder(model: Model, modality: str, prepare: Prepare, shape: tuple[int, ...] | None) -> int | None:
    """The length of its feature vectors; None of one of one's own that is for features, whose `shape` is not known."""
    name, of_features = model.of(modality).encoder, prepare.input == "features"
    if of_features and shape is None and is_plugin(name):
        load_plugin(name, "model.encoder")
        return None
    # Here, not above: see UNTRIED.
    import torch

    from raygap.data.media.pictures import frames_shape
    from raygap.data.media.spectrogram import spectrogram_shape
    from raygap.models.encoders import MEDIA, check_shape, make_encoder
    from raygap.models.freezing import frozen_names

    channels = MEDIA[modality]
    if of_features:
        channels = shape[-1] - (len(shape) == 2) if shape else SOME_NUMBERS
    with torch.random.fork_rng(devices=[]):
        encoder = make_encoder(model, modality, channels, weights=shape is not None or not of_features)
    if of_features and shape:
        check_shape(name, encoder, torch.zeros(2, *shape))
    if not of_features:
        _check_pictures(name, getattr(model, modality).weights, getattr(encoder, "expects", None), prepare)
        times, height, width, channels = frames_shape(prepare)
        picture = (
            (times, channels, height, width) if getattr(encoder, "whole_clip", False) else (channels, height, width)
        )
        check_shape(
            name, encoder, torch.zeros(2, *((1, *spectrogram_shape(prepare)) if modality == "audio" else picture))
        )
    if stage := getattr(model, modality).frozen_until:
        frozen_names(encoder, stage, f"model.{modality}.frozen_until")
    if encoder.loaded:
        logging.getLogger("raygap").warning("%s", encoder.loaded)
    return encoder.out_features


def _check_pictures(name: str, weights: str, expects: Any, prepare: Prepare) -> None:
    """Raise UserError unless the store holds pictures as they were when the weights were made."""
    if expects is None:
        return
    wanted = {"frame_size": expects.size, "frame_scaling": "imagenet"}
    wrong = [f"prepare.{field}={value}" for field, value in wanted.items() if getattr(prepare, field) != value]
    if wrong:
        raise UserError(
            f"model.visual.weights {weights}: those of {name} are for pictures of {expects.size} pixels in the scale "
            f"of their training; set {' and '.join(wrong)}"
        )
