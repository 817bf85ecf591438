"""Sound out of media files."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import InputContainer

from raygap.data.media.files import SEEK_BEYOND, BadClip, clock_zero, open_media, rewind

# Samples that are resampled at once: they and their copies stay in the processor's caches.
RESAMPLE_AT_ONCE = 16_384
# Sound that never exceeds this share of full scale (-80 dB) is silence: a dead microphone, or none at all.
SILENT_PEAK = 1e-4
# Seconds: less sound than this holds nothing to learn from. Spoken digits are as short as 0.14 s; a key's click is not.
SHORTEST_SOUND = 0.12

SOUND_FILES = (".wav", ".flac", ".ogg")


def decode_audio(container: InputContainer, start: float | None, end: float | None, sample_rate: int) -> np.ndarray:
    """The clip's sound, channels averaged, resampled to `sample_rate` Hz: float32 (n,), full scale 1.

    The container is one just opened. `start` and `end` are in seconds from the beginning of the file, None for its
    beginning and its end; `end` may lie beyond the file's.

    Raises BadClip: corrupt, no audio stream, too short, or silent.
    """
    if not container.streams.audio:
        raise BadClip("no audio stream")
    start = start or 0.0
    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1
    if stream.duration and stream.duration * stream.time_base < SHORTEST_SOUND:  # decoded, it is filled up to a block
        raise BadClip(f"too short: {float(stream.duration * stream.time_base):.2f} s of sound")
    zero = clock_zero(container)
    # To floats only; FFmpeg's own mixing to mono would make stereo sound louder than mono.
    to_float = av.AudioResampler(format="fltp")
    first, parts = None, []
    for frame in _sound_from(container, stream, start + zero):
        time = (frame.time or 0.0) - zero
        if end is not None and time >= end:
            break
        if time + frame.samples / frame.sample_rate <= start:
            continue
        first = time if first is None else first
        # Most decoders give floats already.
        parts += [part.to_ndarray() for part in ([frame] if frame.format.name == "fltp" else to_float.resample(frame))]
    if not parts:
        raise BadClip("too short: no sound" if start == 0 else f"too short: no sound after {start:g} s")
    rate = stream.codec_context.sample_rate
    sound = np.concatenate(parts, axis=1)
    sound = sound[0] if len(sound) == 1 else sound.mean(axis=0)
    last = None if end is None else round((end - first) * rate)
    sound = _usable(sound[max(round((start - first) * rate), 0) : last], rate, sample_rate)
    # Sound that begins later than the clip does: until then it is silent.
    return np.pad(sound, (max(round((first - start) * sample_rate), 0), 0))


def _sound_from(container: InputContainer, stream: AudioStream, time: float) -> Iterator[av.AudioFrame]:
    """The frames from about this time on, in the file's own count, or from the first."""
    # A second early at the least: the first frames after a seek are not exact in every codec.
    margin = 1
    while time > SEEK_BEYOND and margin < time:
        container.seek(int((time - margin) / stream.time_base), stream=stream)
        frames = container.decode(stream)
        frame = next(frames, None)
        if frame and (frame.time or 0.0) <= time:
            return itertools.chain([frame], frames)
        margin *= 4  # a file without an index: the place was a guess
    if margin > 1:
        rewind(container, stream)
    return container.decode(stream)


def decode_audio_file(path: Path, start: float | None, end: float | None, sample_rate: int) -> np.ndarray:
    """The same from a file of its own: wav, flac and ogg are read with libsndfile, all others with FFmpeg."""
    if path.suffix.lower() not in SOUND_FILES:
        with open_media(path) as container:
            return decode_audio(container, start, end, sample_rate)
    try:
        with soundfile.SoundFile(path) as file:
            first = min(round((start or 0.0) * file.samplerate), file.frames)
            count = -1 if end is None else max(round(end * file.samplerate) - first, 0)
            file.seek(first)
            sound, rate = file.read(count, dtype="float32", always_2d=True).mean(axis=1), file.samplerate
    except soundfile.LibsndfileError as error:
        raise BadClip(f"unreadable: {error.error_string}") from None
    return _usable(sound, rate, sample_rate)


def _usable(sound: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """The sound at the other rate, if it is one to learn from."""
    if len(sound) < SHORTEST_SOUND * rate:
        raise BadClip(f"too short: {len(sound) / rate:.2f} s of sound")
    peak = max(float(sound.max()), -float(sound.min()))
    if not np.isfinite(peak):
        raise BadClip("corrupt: sound is not finite")
    if peak < SILENT_PEAK:
        raise BadClip("silent")
    return sound if rate == sample_rate else _resample(sound, rate, sample_rate)


def _resample(sound: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    # FFmpeg's resampler for both readers; torchaudio's is as good, but would be one more way to sound different.
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
    parts = []
    for first in range(0, len(sound), RESAMPLE_AT_ONCE):
        part = np.ascontiguousarray(sound[None, first : first + RESAMPLE_AT_ONCE])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate = rate
        parts += resampler.resample(frame)
    return np.concatenate([part.to_ndarray()[0] for part in (*parts, *resampler.resample(None))])
