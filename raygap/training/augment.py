"""What is changed at random of a training batch, but for crops and mirror images (raygap/data/augment.py).

Each clip's changes follow from the seed, the epoch and its place in the epoch's order (of features: the step), whoever
trains it and in whatever batch. Sound: first gain, then noise, then masks. Frames: one policy for all of a clip. Then
mixup (Zhang et al., ICLR 2018), with clips of the same batch: with several workers each reads the partners it lacks.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raygap.config import MODALITIES, TrialConfig
from raygap.data.batches import Batch, cut_up
from raygap.data.store import Store
from raygap.methods.base import Mixed
from raygap.models.network import Dropped, Network
from raygap.rng import generator

DECIBEL = {"stft": math.log(10) / 20, "mel": math.log(10) / 10, "psd": math.log(10) / 10, "fbank": math.log(10) / 10}
"""What one adds to a spectrogram's natural logarithms: of magnitudes (stft), else of energies."""
OPERATIONS = 2
"""Of RandAugment a clip, as in its paper and torchvision."""


class Augmentation:
    """The changes of the clips of one epoch, whose order has `count` places."""

    def __init__(self, config: TrialConfig, store: Store, epoch: int, count: int) -> None:
        self.config, self.settings, self.epoch, self.count = config, config.augment, epoch, count
        self.statistics = store.header["statistics"]
        self.media = config.prepare.input == "media"
        self.policy = _policy(config) if self.media else None
        self.partners = self._partners() if self.settings.mixup else None
        """Of each place those of the clips that it is mixed with, (count, 1), or of audio and visual (count, 2)."""

    def __call__(self, batch: Batch) -> tuple[Batch, Mixed | None]:
        """The batch, of its own clips alone, with sound and frames changed; and how it is mixed."""
        if self.media:
            audio, visual = self._sound(batch.audio, batch.places), self._frames(batch.visual, batch.places)
            batch = replace(batch, audio=audio, visual=visual)
        return (batch, None) if self.partners is None else self._mixed(batch)

    def _partners(self) -> np.ndarray:
        names = MODALITIES if self.settings.mixup_partner == "own" else ("both",)
        partners = np.empty((self.count, len(names)), np.int64)
        for number, part in enumerate(cut_up(self.count, self.config.optimizer.batch_size)):
            for column, name in enumerate(names):
                draw = generator(self.config.seed, f"mixup partner {name}", self.epoch, number)
                partners[part, column] = draw.permutation(part)
        return partners

    def _mixed(self, batch: Batch) -> tuple[Batch, Mixed]:
        places, device = batch.places[batch.own], batch.labels.device
        draw, alpha = generator(self.config.seed, "mixup share", self.epoch), self.settings.mixup
        drawn = draw.beta(alpha, alpha, self.partners.shape).astype(np.float32)[places]
        shares = torch.from_numpy(np.maximum(drawn, 1 - drawn)).to(device)
        own, partners = (torch.from_numpy(clips).to(device) for clips in (batch.own, batch.partners))
        inputs, mixed = {"audio": batch.audio, "visual": batch.visual}, Mixed({}, {})
        for column, name in enumerate(MODALITIES):
            column = min(column, shares.shape[1] - 1)
            mixed.share[name], mixed.labels[name] = shares[:, column], batch.labels[partners[:, column]]
            inputs[name] = self._blend(inputs[name][own], inputs[name][partners[:, column]], shares[:, column])
        index, labels = batch.index[own], batch.labels[own]
        return Batch(index, inputs["audio"], inputs["visual"], labels, batch.clips, batch.whole, places), mixed

    def _blend(self, one: Tensor, other: Tensor, share: Tensor) -> Tensor:
        blended = torch.lerp(other, one, share.view(-1, *[1] * (one.ndim - 1)))
        if not self.media and one.ndim == 3:  # of a step of features the last number says that it is there
            blended[..., -1] = torch.maximum(one[..., -1], other[..., -1])
        return blended

    def _drawn(self, purpose: str, places: np.ndarray, each: int = 1) -> np.ndarray:
        """Uniform in [0, 1), (B, each)."""
        return generator(self.config.seed, f"augment {purpose}", self.epoch).random((self.count, each))[places]

    def _seeds(self, purpose: str, places: np.ndarray) -> list[int]:
        """A seed a clip, for generators of torch's."""
        draw = generator(self.config.seed, f"augment {purpose}", self.epoch)
        return draw.integers(2**62, size=self.count)[places].tolist()

    def _sound(self, audio: Tensor, places: np.ndarray) -> Tensor:
        """Spectrograms (B, 1, F, S), or waveforms (B, 1, 1, samples)."""
        settings = self.settings
        if settings.gain and self.config.prepare.sound_scaling != "clip":
            audio = self._louder(audio, settings.gain * (2 * self._drawn("gain", places) - 1))
        if settings.noise:
            audio = audio + settings.noise * audio.std((1, 2, 3), keepdim=True) * self._noise(audio, places)
        for axis, longest, purpose in ((3, settings.time_mask, "time"), (2, settings.frequency_mask, "frequency")):
            if longest:
                drawn = self._drawn(f"{purpose} mask", places, 2 * settings.masks)
                audio = masked(audio, axis, longest, drawn)
        return audio

    def _louder(self, audio: Tensor, decibels: np.ndarray) -> Tensor:
        gains = torch.as_tensor(decibels, dtype=torch.float32, device=audio.device)[:, :, None, None]
        kind = self.config.prepare.spectrogram
        if kind == "waveform":
            return audio * 10 ** (gains / 20)
        return audio + gains * (DECIBEL[kind] / self.statistics["spectrogram_std"])

    def _noise(self, audio: Tensor, places: np.ndarray) -> Tensor:
        source = torch.Generator(audio.device)
        noise = torch.empty_like(audio)
        for clip, seed in zip(noise, self._seeds("noise", places), strict=True):
            clip.normal_(generator=source.manual_seed(seed))
        return noise

    def _frames(self, visual: Tensor, places: np.ndarray) -> Tensor:
        """(B, T, 3, H, W), standardised; the policy takes bytes."""
        if self.policy is None:
            return visual
        mean, deviation = (
            torch.tensor(self.statistics[f"frame_{name}"], device=visual.device).view(3, 1, 1)
            for name in ("mean", "std")
        )
        changed = torch.empty_like(visual)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own stream, on the CPU
            for clip, new, seed in zip(visual, changed, self._seeds("frames", places), strict=True):
                torch.manual_seed(seed)
                pixels = (clip * deviation + mean).round().clamp(0, 255).to(torch.uint8)
                new.copy_((self.policy(pixels).float() - mean) / deviation)
        return changed


def _policy(config: TrialConfig) -> Callable[[Tensor], Tensor] | None:
    if config.augment.frames == "none":
        return None
    # Here, not above: it takes a second to import.
    from torchvision.transforms import v2

    if config.augment.frames == "trivialaugment":
        return v2.TrivialAugmentWide()
    return v2.RandAugment(OPERATIONS, config.augment.magnitude)


def masked(sound: Tensor, axis: int, longest: float, drawn: np.ndarray) -> Tensor:
    """Stretches along an axis of (B, 1, F, S), a pair of `drawn` (B, 2 * masks) each, replaced by the clip's mean.

    SpecAugment (Park et al., Interspeech 2019): a stretch's length is uniform from 0 to `longest` of the axis, its
    place uniform among those that hold it.
    """
    size = sound.shape[axis]
    lengths = np.floor(drawn[:, 0::2] * (int(longest * size) + 1)).astype(np.int64)
    starts = np.floor(drawn[:, 1::2] * (size - lengths + 1)).astype(np.int64)
    at = np.arange(size)
    hidden = ((at >= starts[..., None]) & (at < (starts + lengths)[..., None])).any(1)  # (B, size)
    shape = [len(sound), 1, 1, 1]
    shape[axis] = size
    where = torch.from_numpy(hidden).to(sound.device).view(shape)
    return torch.where(where, sound.mean((1, 2, 3), keepdim=True), sound)


def dropped(config: TrialConfig, network: Network, batch: Batch, epoch: int, number: int) -> Dropped | None:
    """What a step drops of the features: single ones with model.dropout, from all that reads them; and those of a whole
    modality with augment.drop_audio or drop_visual, never both of a clip's, from what the fusion reads.
    """
    share, audio, visual = config.model.dropout, config.augment.drop_audio, config.augment.drop_visual
    if not (share or audio or visual):
        return None
    places = batch.places - number * config.optimizer.batch_size

    def draw(purpose: str, each: int) -> Tensor:
        numbers = generator(config.seed, purpose, epoch, number).random((batch.whole, each), dtype=np.float32)
        return torch.from_numpy(numbers[places]).to(batch.audio.device)

    found = Dropped()
    if share:
        found.features = {m: (draw(f"dropout {m}", size) >= share) / (1 - share) for m, size in network.sizes.items()}
    if audio or visual:
        drawn = draw("modality dropout", 1)
        found.fused = {"audio": drawn >= audio, "visual": drawn < 1 - visual}
    return found
