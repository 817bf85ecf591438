"""tcmax: the true pairs of sound, picture and label stand out from all pairs that a batch could have.

Yu, Wu, Yang, Lu: Multimodal Classification via Total Correlation Maximization, ICLR 2026.

With f(a, v)_y the fused logit of class y for the sound of one clip and the picture of another, over a batch of B clips

L = -mean over i of log( exp f(a_i, v_i)_{y_i} / sum over j, k, y of exp f(a_j, v_k)_y ) - log B,

a lower bound on the total correlation of both features and the label, which holds that of joint and of unimodal
training; it is 0 where all of the batch's mass lies on its own clips. It has no hyperparameter. (The paper's constant
is -log(B B classes); that of its code, which is ours, leaves the loss at 0 or above. Neither moves anything.)

Where the fusion is linear f(a, v) is the sum of both summands, and nothing but a (B, B, classes) tensor is added to the
cost; others see B * B pairs. With several workers each pairs the clips of its own part of a batch, as batch
normalisation does. Separate heads are probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raygap.methods.joint import Joint
from raygap.models.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network


@dataclass
class PairedOutputs(Outputs):
    """A batch, and what is said of each sound with each picture."""

    pairs: Tensor
    """(B, B, classes): sound by picture."""


class TCMax(Joint):
    """Total correlation of sound, picture and label in the place of CE(fused)."""

    per_clip_labels = False
    droppable = False

    def outputs(self, network: Network, step: Step) -> PairedOutputs:
        """Adds the logits of all pairs."""
        outputs = super().outputs(network, step)
        return PairedOutputs(
            **vars(outputs), pairs=all_pairs(network.fusion, outputs.audio_features, outputs.visual_features)
        )

    def adaptive_terms(self, outputs: PairedOutputs, labels: Tensor, index: Tensor) -> Terms:
        """The loss of the batch, and the probes' own."""
        return super().adaptive_terms(outputs, labels, index) | {"fusion": total_correlation(outputs.pairs, labels)}


def all_pairs(fusion: Any, audio: Tensor, visual: Tensor) -> Tensor:
    """Fused logits of every sound with every picture: two (B, F) to (B, B, classes)."""
    if hasattr(fusion, "split"):
        summand_audio, summand_visual = fusion.split(audio, visual)
        return summand_audio[:, None] + summand_visual[None]
    clips = len(audio)
    return fusion(audio.repeat_interleave(clips, 0), visual.repeat(clips, 1)).unflatten(0, (clips, clips))


def total_correlation(pairs: Tensor, labels: Tensor) -> Tensor:
    """The loss of logits (B, B, classes) and labels (B,); a scalar, in float32."""
    pairs = pairs.float()
    clips = len(labels)
    own = pairs.diagonal().gather(0, labels[None])
    return pairs.flatten().logsumexp(0) - own.mean() - math.log(clips)
