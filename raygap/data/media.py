"""Pictures and sound out of media files."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from raygap.config import Prepare

# Seconds: what lies further ahead than this is sought; up to it, reading on costs less.
SEEK_BEYOND = 5.0
# Seconds by which a key frame must precede what is sought: indices hold decoding times, which run a few frames ahead.
KEY_MARGIN = 0.25
# Samples that are resampled at once: they and their copies stay in the processor's caches.
RESAMPLE_AT_ONCE = 16_384
# Sound that never exceeds this share of full scale (-80 dB) is silence: a dead microphone, or none at all.
SILENT_PEAK = 1e-4
# Seconds: less sound than this holds nothing to learn from. Spoken digits are as short as 0.14 s; a key's click is not.
SHORTEST_SOUND = 0.12

SOUND_FILES = (".wav", ".flac", ".ogg")

# One for all clips of a process, as clips of one size share its tables; not for threads.
_scaler = VideoReformatter()


class BadClip(Exception):
    """A clip that cannot be used; the message is the reason, in a few words."""


def frames_shape(settings: Prepare) -> tuple[int, int, int, int]:
    """(T, H, W, 3) of every clip's frames with these settings."""
    return settings.frames, settings.frame_size, settings.frame_size, 3


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """An open container; whatever FFmpeg says while it is open becomes BadClip."""
    try:
        # Titles in odd encodings are no reason to leave a clip out.
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams:  # an index that was cut off
                raise BadClip("unreadable: no streams")
            yield container
    except av.FFmpegError as error:
        raise BadClip(f"unreadable: {error.strerror}") from None


def file_seconds(path: Path) -> float | None:
    """How long a file says it is, in seconds; None if it does not say, or cannot be read."""
    try:
        with open_media(path) as container:
            return container.duration / av.time_base if container.duration else None
    except BadClip:
        return None


def decode_frames(
    container: InputContainer, start: float | None, end: float | None, settings: Prepare
) -> tuple[np.ndarray, float]:
    """The clip's frames as the settings say, and its length in seconds.

    The frames are uint8 (T, H, W, 3), RGB, each squeezed to a square: those nearest to the middles of T equal stretches
    of the clip, or, with a frame_rate, to T times at that rate around the clip's middle. `start` and `end` are in
    seconds from the beginning of the file, None for its beginning and its end.

    Raises BadClip: corrupt, no video stream, no frames, or too short to reach one of these times.
    """
    if not container.streams.video:
        raise BadClip("no video stream")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # preparation already runs a process a core
    stream.codec_context.open(strict=False)  # before skip_frame is set: some decoders would never let go of it
    zero = (container.start_time or 0) / av.time_base
    begin, stop = start or 0.0, _video_end(container) - zero
    seconds = (stop if end is None else end) - begin
    if seconds <= 0:
        raise BadClip(f"too short: no video after {begin:g} s")
    # How far behind the last frame a time may lie: within its stretch, or while that frame is on show.
    stretch = seconds / settings.frames
    reach = max(stretch / 2, 1 / float(stream.guessed_rate or 1 / stretch))
    tick = float(stream.time_base)
    times = [(begin + time + zero) / tick for time in frame_times(seconds, settings)]
    pictures, size = np.empty(frames_shape(settings), np.uint8), settings.frame_size
    for i, frame in enumerate(_nearest_frames(container, stream, times, reach / tick)):
        pictures[i] = _scaler.reformat(frame, size, size, format="rgb24", interpolation=Interpolation.AREA).to_ndarray()
    return pictures, (stop if end is None else min(end, stop)) - begin


def frame_times(seconds: float, settings: Prepare) -> list[float]:
    """When, in a clip of this length, its frames are taken: ascending, in seconds from the clip's beginning."""
    fits = settings.frame_rate and settings.frames - 1 < seconds * settings.frame_rate
    step = 1 / settings.frame_rate if fits else seconds / settings.frames
    return [seconds / 2 + (i - (settings.frames - 1) / 2) * step for i in range(settings.frames)]


def _nearest_frames(
    container: InputContainer, stream: VideoStream, times: list[float], reach: float
) -> Iterator[av.VideoFrame]:
    """The frame nearest to each of the ascending times; these, and `reach`, are in ticks of the stream.

    Packets are read from key frame to key frame. Only where a frame is wanted are they decoded, up to that frame, and
    without those that no other frame refers to.
    """
    groups, sought = _groups_from(container, stream, times[0]), times[0]
    group = next(groups, None)
    if group is None:
        raise BadClip("no frames")
    while times:
        if sought != times[0] and (times[0] - _time(group[0])) * stream.time_base > SEEK_BEYOND:
            groups, sought = _groups_from(container, stream, times[0]), times[0]
            group = next(groups, group)
        following = next(groups, None)
        if following is None:
            last = max(map(_time, group))
            if times[-1] - last > reach:
                zero = (container.start_time or 0) / av.time_base
                raise BadClip(f"too short: video ends at {last * float(stream.time_base) - zero:.1f} s")
            yield from _decode(stream.codec_context, group, times)
            return
        # Frames behind a key frame in the file may be shown before it, and refer to the group before it.
        key = _time(following[0])
        ahead = max((i for i, packet in enumerate(following) if _time(packet) < key), default=-1)
        group += following[: ahead + 1]
        halfway = (max((time for time in map(_time, group) if time < key), default=key) + key) / 2
        wanted = [time for time in times if time <= halfway]
        yield from _decode(stream.codec_context, group, wanted)
        times = times[len(wanted) :]
        group = following


def _groups_from(container: InputContainer, stream: VideoStream, time: float) -> Iterator[list[av.Packet]]:
    """The groups of packets from the one on in which this time lies, or from the first."""
    margin, beginning = KEY_MARGIN, stream.start_time or 0
    while True:
        sought = int(time - margin / stream.time_base)
        if sought <= beginning:
            _rewind(container, stream)
            return _groups(container, stream)
        container.seek(sought, stream=stream)
        groups = _groups(container, stream)
        group = next(groups, None)
        if group and _time(group[0]) <= time:
            return itertools.chain([group], groups)
        margin *= 4  # a file without an index: the place was a guess


def _rewind(container: InputContainer, stream: VideoStream | AudioStream) -> None:
    beginning = stream.start_time or 0
    try:  # a second before, where that is allowed: some formats land behind what is sought
        container.seek(int(beginning - 1 / stream.time_base), stream=stream)
    except PermissionError:
        container.seek(beginning, stream=stream)


def _groups(container: InputContainer, stream: VideoStream) -> Iterator[list[av.Packet]]:
    """The packets from here on, from each key frame to the next; what stands before the first cannot be decoded."""
    group: list[av.Packet] = []
    for packet in container.demux(stream):
        if packet.is_keyframe and group:
            yield group
            group = []
        if packet.size and (packet.is_keyframe or group):
            group.append(packet)
    if group:
        yield group


def _time(packet: av.Packet) -> int:
    """When it is shown, as far as the file says."""
    time = packet.dts if packet.pts is None else packet.pts
    if time is None:
        raise BadClip("no time stamps")
    return time


def _decode(context: VideoCodecContext, group: list[av.Packet], wanted: list[float]) -> list[av.VideoFrame]:
    """The frame nearest to each of the wanted times, of those in the group, which begins with a key frame."""
    if not wanted:
        return []
    times = [_time(packet) for packet in group]
    shown = sorted(time for time in times if time >= times[0])
    nearest = [min(shown, key=lambda time: abs(time - moment)) for moment in wanted]
    last = max(times.index(time) for time in nearest)
    found = _decode_packets(context, group[: last + 1], wanted, set(nearest))
    if [frame and frame.pts for frame in found] != nearest:  # a decoder that passes over more than it should
        found = _decode_packets(context, group, wanted, None)
    if None in found:
        raise BadClip("no frames")
    return found


def _decode_packets(
    context: VideoCodecContext, packets: list[av.Packet], wanted: list[float], needed: set[int] | None
) -> list[av.VideoFrame | None]:
    """The decoded frame nearest to each of the wanted times. `needed` None: all packets are."""
    found: list[av.VideoFrame | None] = [None] * len(wanted)
    for packet in (*packets, None):
        if packet:
            all_of_it = needed is None or _time(packet) in needed
            context.skip_frame = "DEFAULT" if all_of_it else "NONREF"
        for frame in context.decode(packet):
            if frame.pts is None:
                raise BadClip("no time stamps")
            for i, time in enumerate(wanted):
                if found[i] is None or abs(frame.pts - time) < abs(found[i].pts - time):
                    found[i] = frame
    context.flush_buffers()
    return found


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
    return float(end * stream.time_base)


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
    zero = (container.start_time or 0) / av.time_base
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
        _rewind(container, stream)
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
