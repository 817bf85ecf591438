"""A training method of your own, with a setting: `python examples/own_method.py` checks it and trains it for a second.

From the folder of this file it is `python .../launch/sweep.py --dataset demo --method own_method:Apart`.
"""

import tempfile
from pathlib import Path

from pydantic import Field

from raygap.config import LATER, Section
from raygap.methods.unimodal_losses import UnimodalLosses
from raygap.schema import from_mapping
from raygap.testing import SMALL, check_method, write_store
from raygap.training.trainer import Trainer


class Settings(Section):
    """What is set of it: `--set apart.weight=0.1`, or searched by a --space file."""

    weight: float = Field(0.01, ge=0, le=10, json_schema_extra=LATER)
    """Weight of the squared distance between both modalities' logits; LATER: it changes nothing of the warm-up."""


class Apart(UnimodalLosses):
    """The sum of the fused and both unimodal cross-entropies, and a term that pulls the modalities together."""

    sections = UnimodalLosses.sections | {"apart": Settings}

    def adaptive_terms(self, outputs, labels, index):
        """Loss terms of a batch; the loss is their sum."""
        distance = (outputs.audio - outputs.visual).float().square().mean()
        return super().adaptive_terms(outputs, labels, index) | {"apart": self.config.apart.weight * distance}


if __name__ == "__main__":
    check_method(Apart)
    config = from_mapping(SMALL | {"method": f"{__name__}:Apart", "apart.weight": 0.001})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, write_store(Path(folder) / "store"))
        while not trainer.finished:
            metrics = trainer.train_epoch()
            print(f"epoch {metrics['epoch']}, {metrics['stage']}: val_accuracy {metrics['val_accuracy']:.2f}")
