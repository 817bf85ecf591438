"""Pictures and sound out of media files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import soundfile
from av.container import InputContainer
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from raygap.config import Prepare

# Seconds: in a file that does not list its key frames, longer jumps ahead than this seek, shorter ones decode on.
SEEK_BEYOND = 5.0
# Seconds by which a key frame must precede what is sought: indices hold decoding times, which run a few frames ahead.
KEY_MARGIN = 0.25
# Seconds, and frames, before a wanted frame from which on all are decoded; earlier ones only if others refer to them.
DECODE_ALL_FROM = 0.7, 4
# Sound that never exceeds this share of full scale (-80 dB) is silence: a dead microphone, or none at all.
SILENT_PEAK = 1e-4
# Seconds: less sound than this holds nothing to learn from.
SHORTEST_SOUND = 0.2

SOUND_FILES = (".wav", ".flac", ".ogg")


class BadClip(Exception):
    """A clip that cannot be used; the message is the reason, in a few words."""


def frames_shape(settings: Prepare) -> tuple[int, int, int, int]:
    """(T, H, W, 3) of every clip's frames with these settings."""
    return settings.frames, settings.frame_size, settings.frame_size, 3


def decode_frames(
    path: Path, start: float | None, end: float | None, frames: int, size: int
) -> tuple[np.ndarray, float]:
    """RGB frames nearest to the middles of `frames` equal stretches of the clip, and the clip's length in seconds.

    The frames are uint8 (frames, size, size, 3), each squeezed to a square. `start` and `end` are in seconds from the
    beginning of the file, None for its beginning and its end. Nothing is decoded but what lies between the last key
    frame before a wanted frame and that frame.

    Raises BadClip: unreadable, corrupt, no video stream, no frames, or too short to reach one of the stretches.
    """
    with _open(path) as container:
        if not container.streams.video:
            raise BadClip("no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # preparation already runs a process a core
        zero = (container.start_time or 0) / av.time_base
        begin = start or 0.0
        stop = _video_end(container) - zero
        stretch = ((stop if end is None else end) - begin) / frames
        if stretch <= 0:
            raise BadClip(f"too short: no video after {begin:g} s")
        # How far behind the last frame a middle may lie: within its stretch, or while that frame is on show.
        reach = max(stretch / 2, 1 / float(stream.guessed_rate or frames / stretch))
        all_from = max(DECODE_ALL_FROM[0], DECODE_ALL_FROM[1] / float(stream.guessed_rate or 1))
        pictures = np.empty((frames, size, size, 3), np.uint8)
        decoded = _timed(container, zero)
        before = after = next(decoded, None)
        if after is None:
            raise BadClip("no frames")
        for i in range(frames):
            middle = begin + (i + 0.5) * stretch
            if _pays_to_seek(stream, after[0], middle, zero):
                container.seek(int((middle - KEY_MARGIN + zero) / stream.time_base), stream=stream)
                decoded = _timed(container, zero)
                before = after = next(decoded, None) or after
            while after[0] < middle:
                stream.codec_context.skip_frame = "NONREF" if middle - after[0] > all_from else "DEFAULT"
                following = next(decoded, None)
                if following is None:
                    break
                before, after = after, following
            if middle - after[0] > reach:
                raise BadClip(f"too short: video ends at {after[0]:.1f} s")
            nearest = min(before, after, key=lambda timed: abs(timed[0] - middle))[1]
            square = nearest.reformat(size, size, format="rgb24", interpolation=Interpolation.AREA)
            pictures[i] = square.to_ndarray()
        return pictures, (stop if end is None else min(end, stop)) - begin


def _pays_to_seek(stream: VideoStream, now: float, wanted: float, zero: float) -> bool:
    """Whether a key frame lies between `now` and `wanted`: decoding may then go on from it."""
    entry = stream.index_entries.search_timestamp(int((wanted - KEY_MARGIN + zero) / stream.time_base))
    if entry < 0:
        return wanted - now > SEEK_BEYOND
    return stream.index_entries[entry].timestamp * float(stream.time_base) - zero > now


def file_seconds(path: Path) -> float | None:
    """How long a file says it is, in seconds; None if it does not say, or cannot be read."""
    try:
        with _open(path) as container:
            return container.duration / av.time_base if container.duration else None
    except BadClip:
        return None


def _timed(container: InputContainer, zero: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """The decoded frames from here on, with their times in seconds since `zero`."""
    for frame in container.decode(video=0):
        if frame.time is None:
            raise BadClip("no time stamps")
        yield frame.time - zero, frame


def _video_end(container: InputContainer) -> float:
    """Where the video ends, in seconds on the file's own clock."""
    stream = container.streams.video[0]
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if container.duration:
        return ((container.start_time or 0) + container.duration) / av.time_base
    # Neither is written down, as in a recording that was cut off: read through, without decoding.
    end = max(
        (packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None), default=0
    )
    container.seek(0)
    return float(end * stream.time_base)


def decode_audio(path: Path, start: float | None, end: float | None, sample_rate: int) -> np.ndarray:
    """The clip's sound, channels averaged, resampled to `sample_rate` Hz: float32 (n,), full scale 1.

    `start` and `end` are in seconds from the beginning of the file, None for its beginning and its end; `end` may lie
    beyond the file's. wav, flac and ogg files are read with libsndfile, all others with FFmpeg.

    Raises BadClip: unreadable, corrupt, no audio stream, too short, or silent.
    """
    read = _read_sound_file if path.suffix.lower() in SOUND_FILES else _read_container
    sound, rate = read(path, start or 0.0, end)
    if len(sound) < SHORTEST_SOUND * rate:
        raise BadClip(f"too short: {len(sound) / rate:.2f} s of sound")
    peak = float(np.abs(sound).max())
    if not np.isfinite(peak):
        raise BadClip("corrupt: sound is not finite")
    if peak < SILENT_PEAK:
        raise BadClip("silent")
    return sound if rate == sample_rate else _resample(sound, rate, sample_rate)


def _read_sound_file(path: Path, start: float, end: float | None) -> tuple[np.ndarray, int]:
    try:
        with soundfile.SoundFile(path) as file:
            first = min(round(start * file.samplerate), file.frames)
            count = -1 if end is None else max(round(end * file.samplerate) - first, 0)
            file.seek(first)
            return file.read(count, dtype="float32", always_2d=True).mean(axis=1), file.samplerate
    except soundfile.LibsndfileError as error:
        raise BadClip(f"unreadable: {error.error_string}") from None


def _read_container(path: Path, start: float, end: float | None) -> tuple[np.ndarray, int]:
    with _open(path) as container:
        if not container.streams.audio:
            raise BadClip("no audio stream")
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        zero = (container.start_time or 0) / av.time_base
        if start > SEEK_BEYOND:
            # A second early: the first frames after a seek are not exact in every codec.
            container.seek(int((start - 1 + zero) / stream.time_base), stream=stream)
        # To floats only; FFmpeg's own mixing to mono would make stereo sound louder than mono.
        to_float = av.AudioResampler(format="fltp")
        first, parts = None, []
        for frame in container.decode(stream):
            time = (frame.time or 0.0) - zero
            if end is not None and time >= end:
                break
            if time + frame.samples / frame.sample_rate <= start:
                continue
            first = time if first is None else first
            # Most decoders give floats already.
            parts += [
                part.to_ndarray() for part in ([frame] if frame.format.name == "fltp" else to_float.resample(frame))
            ]
        if not parts:
            raise BadClip("too short: no sound" if start == 0 else f"too short: no sound after {start:g} s")
        rate = stream.codec_context.sample_rate
        sound = np.concatenate(parts, axis=1).mean(axis=0)
        last = None if end is None else round((end - first) * rate)
        return sound[max(round((start - first) * rate), 0) : last], rate


def _resample(sound: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    # FFmpeg's resampler for both readers; torchaudio's is as good, but would be one more way to sound different.
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    parts = resampler.resample(frame) + resampler.resample(None)
    return np.concatenate([part.to_ndarray()[0] for part in parts])


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """An open container; whatever FFmpeg says while it is open becomes BadClip."""
    try:
        # Titles in odd encodings are no reason to leave a clip out.
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams:  # an index that was cut off
                raise BadClip("unreadable: no streams")
            yield container
    except av.FFmpegError as error:
        raise BadClip(f"unreadable: {error.strerror}") from None
