"""Per-clip loss terms, each (B,), in float32. Weighting and averaging are the methods' business."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raygap.models.network import Outputs


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, C), (B,) -> (B,)."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def alignment(outputs: Outputs, labels: Tensor, kind: str) -> Tensor:
    """What alignment costs each clip, (B,). The stronger modality is the one with the higher true-class score.

    kl: KL(stopgrad p_strong || p_weak) over the classes; gap_weak: |stopgrad s_strong - s_weak| of the true-class
    scores; both move the weaker modality alone. gap_both: |s_audio - s_visual|, which may also shrink the gap by
    spoiling the stronger one.
    """
    log_audio, log_visual = outputs.audio.float().log_softmax(1), outputs.visual.float().log_softmax(1)
    true = labels[:, None]
    audio_is_stronger = (log_audio.gather(1, true) >= log_visual.gather(1, true)).detach()
    if kind == "gap_both":
        return (log_audio.gather(1, true).exp() - log_visual.gather(1, true).exp()).abs().squeeze(1)
    strong = torch.where(audio_is_stronger, log_audio, log_visual).detach()
    weak = torch.where(audio_is_stronger, log_visual, log_audio)
    if kind == "kl":
        return (strong.exp() * (strong - weak)).sum(1)
    return (strong.gather(1, true).exp() - weak.gather(1, true).exp()).abs().squeeze(1)


def excess_gap(outputs: Outputs, labels: Tensor, balanced_mean: Tensor) -> Tensor:
    """relu(|gap| - balanced_mean), (B,): how far a clip lies outside the balanced component; moves both modalities."""
    true = labels[:, None]
    audio = outputs.audio.float().softmax(1).gather(1, true)
    visual = outputs.visual.float().softmax(1).gather(1, true)
    return F.relu((audio - visual).abs() - balanced_mean).squeeze(1)
