"""An encoder of your own: `python examples/own_encoder.py` checks it and trains it for a second.

From the folder of this file it is `python .../launch/sweep.py --dataset demo --set model.encoder=own_encoder:make`.
"""

import tempfile
from pathlib import Path

from torch import Tensor, nn

from raygap.config import Model
from raygap.schema import from_mapping
from raygap.testing import SMALL, check_encoder, write_store
from raygap.training.trainer import Trainer


class Patches(nn.Module):
    """Cuts its input into patches, and is the mean of what two layers make of them."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.out_features = features  # raygap reads it
        self.patches = nn.Conv2d(channels, features, kernel_size=4, stride=4)
        self.layers = nn.Sequential(nn.GELU(), nn.Linear(features, features), nn.Dropout(0.1), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, height, width) -> (B, features); of a spectrogram height is frequency, width is time."""
        return self.layers(self.patches(x).flatten(2).transpose(1, 2)).mean(1)


def make(model: Model, channels: int) -> nn.Module:
    """One modality's encoder: raygap calls this with 1 channel for sound, and with 3 for pictures."""
    return Patches(channels, 4 * model.width)


if __name__ == "__main__":
    check_encoder(make)
    config = from_mapping(SMALL | {"model.encoder": f"{__name__}:make"})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, write_store(Path(folder) / "store"))
        while not trainer.finished:
            metrics = trainer.train_epoch()
            print(f"epoch {metrics['epoch']}, {metrics['stage']}: val_accuracy {metrics['val_accuracy']:.2f}")
