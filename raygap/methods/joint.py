"""Joint training: the fused cross-entropy alone. Separate heads, if any, are probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raygap.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Terms
    from raygap.models.outputs import Outputs


class Joint(Method):
    """CE(fused) in every stage."""

    probe_heads = True
    plain_unimodal = False
    mixes = True

    def plain_terms(self, outputs: Outputs, labels: Tensor) -> Terms:
        """CE(fused), and the probes' own losses where there are separate heads."""
        terms = {"fusion": self.cross_entropy(outputs.fused, labels).mean()}
        if self.config.model.readout == "heads":
            terms["audio"] = self.cross_entropy(outputs.audio, labels, "audio").mean()
            terms["visual"] = self.cross_entropy(outputs.visual, labels, "visual").mean()
        return terms

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The same."""
        return self.plain_terms(outputs, labels)
