"""Which part of an encoder is trained in an epoch: model.*.frozen_epochs and frozen_until."""

from torch import nn

from raygap.config import MODALITIES, Model
from raygap.errors import UserError
from raygap.models.base import Encoder
from raygap.models.network import Network


def freeze(network: Network, model: Model, epoch: int) -> None:
    """Freeze and unfreeze for an epoch (from 0); to be called before network.train(), which minds it.

    What is frozen gets no gradients, and its normalisation keeps its statistics. Raises UserError for an unknown stage.
    """
    for modality in MODALITIES:
        own, encoder = getattr(model, modality), network.get_submodule(f"{modality}_encoder")
        if not own.frozen_epochs and not own.frozen_until:
            continue
        still = frozen_names(encoder, own.frozen_until, f"model.{modality}.frozen_until") if own.frozen_until else set()
        whole = epoch < own.frozen_epochs
        for name, parameter in encoder.named_parameters():
            fixed = f"{modality}_encoder.{name}" in network.fixed  # by an encoder of one's own
            parameter.requires_grad_(not (whole or name in still or fixed))


def frozen_names(encoder: nn.Module, stage: str, what: str) -> set[str]:
    """Names of the parameters up to the last one of a stage, in the order in which the network has them.

    Raises UserError for an unknown stage; `what` is the field's name.
    """
    prefix = "net." if isinstance(encoder, Encoder) and hasattr(encoder, "net") else ""
    names = [name for name, _ in encoder.named_parameters()]
    within = [place for place, name in enumerate(names) if f"{name}.".startswith(f"{prefix}{stage}.")]
    if not within:
        stages = dict.fromkeys(name.removeprefix(prefix).split(".")[0] for name in names)
        raise UserError(f"{what} = {stage}: no such stage with weights; the first names are {', '.join(stages)}")
    return set(names[: within[-1] + 1])
