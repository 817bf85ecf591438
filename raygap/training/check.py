"""Whether a configuration can be trained at all, before anything is started for it."""

from functools import cache

from raygap.config import Model, Prepare, TrialConfig
from raygap.methods import find_method
from raygap.plugins import is_plugin


def check_trial(config: TrialConfig) -> None:
    """Raise UserError if the method cannot work with its other fields, or an encoder of one's own is none."""
    find_method(config.method).check(config)
    if is_plugin(config.model.encoder):
        _try_encoders(config.model, config.prepare)


@cache
def _try_encoders(model: Model, prepare: Prepare) -> None:
    # Here, not above: all but those who bring an encoder do without torch so far.
    import torch

    from raygap.data.media.pictures import frames_shape
    from raygap.data.media.spectrogram import spectrogram_shape
    from raygap.models.encoders import check_shape
    from raygap.models.network import make_network

    network = make_network(model, 2, 0)
    _, height, width, channels = frames_shape(prepare)
    check_shape(model.encoder, network.audio_encoder, torch.zeros(2, 1, *spectrogram_shape(prepare)))
    check_shape(model.encoder, network.visual_encoder, torch.zeros(2, channels, height, width))
