"""What becomes of decoded sound: its channels mixed, brought to one rate, and looked at for whether it can be used."""

import itertools
from typing import NamedTuple

import av
import numpy as np

from raygap.data.media.files import BadClip

# Samples that are resampled at once: they and their copies stay in the processor's caches.
RESAMPLE_AT_ONCE = 16_384
# Sound that never exceeds this share of full scale (-80 dB) is silence: a dead microphone, or none at all.
SILENT_PEAK = 1e-4
# Seconds: less sound than this holds nothing to learn from. Spoken digits are as short as 0.14 s; a key's click is not.
SHORTEST_SOUND = 0.12
# Channels whose sum has less than this share of their powers (-20 dB) cancel each other out: one of them is inverted.
# Channels that have nothing to do with each other keep all of it.
CANCELLED = 0.01
INVERTED = "one channel is another's inverse: the loudest is taken, not their mean"


class Piece(NamedTuple):
    """Decoded sound of one rate and one number of channels: float32 (channels, n), full scale 1."""

    rate: int
    samples: np.ndarray


def joined(pieces: list[Piece], sample_rate: int) -> tuple[np.ndarray, int, str]:
    """Pieces that follow one another as mono float32 (n,), its rate, and a note if there is something to be said of it.

    The rate is their own; where they differ, it is `sample_rate`.
    """
    mixed, note = _mixed([piece.samples for piece in pieces])
    rates = [piece.rate for piece in pieces]
    if len(set(rates)) == 1:
        return np.concatenate(mixed), rates[0], note
    parts = []
    for rate, run in itertools.groupby(zip(rates, mixed, strict=True), key=lambda timed: timed[0]):
        parts.append(resample(np.concatenate([sound for _, sound in run]), rate, sample_rate))
    return np.concatenate(parts), sample_rate, note


def _mixed(pieces: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    """The mean of the channels of each piece; the loudest channel, and a note, where the mean cancels out."""
    means = [piece[0] if len(piece) == 1 else piece.mean(axis=0) for piece in pieces]
    powers, of_sums = np.zeros(max(map(len, pieces))), 0.0
    for piece, mean in zip(pieces, means, strict=True):
        if len(piece) > 1:
            powers[: len(piece)] += np.square(piece).sum(axis=1)
            of_sums += len(piece) ** 2 * float(np.square(mean).sum())
    if not of_sums < CANCELLED * powers.sum():
        return means, ""
    loudest = int(powers.argmax())
    return [piece[loudest] if loudest < len(piece) else piece[0] for piece in pieces], INVERTED


def usable(sound: np.ndarray, rate: int, sample_rate: int, content: int | None = None) -> np.ndarray:
    """The sound at the other rate, if it is one to learn from; `content` is how many of its samples are no filling."""
    content = len(sound) if content is None else content
    if content < SHORTEST_SOUND * rate:
        raise BadClip(f"too short: {content / rate:.2f} s of sound")
    peak = max(float(sound.max()), -float(sound.min()))
    if not np.isfinite(peak):
        raise BadClip("corrupt: sound is not finite")
    if peak < SILENT_PEAK:
        raise BadClip("silent")
    return resample(sound, rate, sample_rate)


def resample(sound: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Mono float32 (n,) at another rate."""
    if rate == sample_rate or not len(sound):
        return sound
    # FFmpeg's resampler for both readers; torchaudio's is as good, but would be one more way to sound different.
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
    parts = []
    for first in range(0, len(sound), RESAMPLE_AT_ONCE):
        part = np.ascontiguousarray(sound[None, first : first + RESAMPLE_AT_ONCE])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate = rate
        parts += resampler.resample(frame)
    return np.concatenate([part.to_ndarray()[0] for part in (*parts, *resampler.resample(None))])
