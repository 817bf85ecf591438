"""Media files as FFmpeg opens them, and what pictures and sound share: their clock, seeking, what makes a clip bad."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

# Seconds: what lies further ahead than this is sought; up to it, reading on costs less.
SEEK_BEYOND = 5.0


class BadClip(Exception):
    """A clip that cannot be used; the message is the reason, in a few words."""


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
        empty = path.is_file() and not path.stat().st_size
        raise BadClip("unreadable: the file is empty" if empty else f"unreadable: {error.strerror}") from None


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS has left a pointer here for a file that was not pulled."""
    try:
        with path.open("rb") as file:
            return file.read(40).startswith(b"version https://git-lfs.github.com/spec/")
    except OSError:  # FFmpeg will say it
        return False


def file_seconds(path: Path) -> float | None:
    """How long a file says it is, in seconds; None if it does not say, or cannot be read."""
    try:
        with open_media(path) as container:
            return container.duration / av.time_base if container.duration else None
    except BadClip:
        return None


def rewind(container: InputContainer, stream: VideoStream | AudioStream) -> None:
    beginning = stream.start_time or 0
    try:  # a second before, where that is allowed: some formats land behind what is sought
        container.seek(int(beginning - 1 / stream.time_base), stream=stream)
    except PermissionError:
        container.seek(beginning, stream=stream)


def picture_stream(container: InputContainer) -> VideoStream:
    """The file's moving picture. Raises BadClip if it has none, or none that can be decoded."""
    attached = Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not moving:
        raise BadClip("no video stream, only a cover picture" if container.streams.video else "no video stream")
    known = [stream for stream in moving if stream.codec_context]
    if not known:
        raise BadClip("unreadable: video in a codec that FFmpeg does not know")
    return known[0]


def clock_zero(container: InputContainer) -> float:
    """What the times of clips are counted from, in the picture as in the sound: seconds on the file's own clock.

    It is when the first frame is shown; where nothing is shown, the beginning of the file.
    """
    try:
        return shown(container).begin
    except BadClip:
        return (container.start_time or 0) / av.time_base


@dataclass(frozen=True)
class Shown:
    """When a file's picture is shown, in seconds on the file's own clock, by its packets. What headers say is counted
    from zero in one format and from the beginning in another, and is often an estimate."""

    begin: float
    end: float
    lacks: float
    """Seconds by which the file is shorter than it says: 0, or about that, unless it was cut off."""


@functools.lru_cache(maxsize=1)  # the sound of a clip asks, then its picture
def shown(container: InputContainer) -> Shown:
    """Raises BadClip: unreadable, no video stream, no frames, or none with a time."""
    # In a container of its own: after a rewind, some formats begin elsewhere in the sound than at first.
    with open_media(Path(container.name)) as other:
        stream = picture_stream(other)
        stream.codec_context.thread_count = 1
        tick = float(stream.time_base)
        begin = _first_shown(other, stream) * tick
        starts = (other.start_time or 0) / av.time_base
        ends = starts + (other.duration or 0) / av.time_base
        end = whole_end = begin
        if ends - begin > SEEK_BEYOND:
            other.seek(int((ends - 1) / stream.time_base), stream=stream)
            end, whole_end = _last_shown(other, stream, begin)
        if end == begin:  # a short file, one that does not say how long it is, or one that says nothing of its picture
            rewind(other, stream)
            end, whole_end = _last_shown(other, stream, begin)
        if stream.duration:
            lacks = ((stream.start_time or 0) + stream.duration) * tick - end
        else:  # of all streams; some count it from zero, others from the beginning
            lacks = min(ends, ends - starts) - whole_end
        return Shown(begin, end, max(lacks, 0.0))


def _first_shown(container: InputContainer, stream: VideoStream) -> int:
    """In ticks of the stream. What stands before the first key frame is not decoded, what an edit cuts is not shown."""
    key = first = None
    for packet in container.demux(stream):
        if not packet.size or (key is None and not packet.is_keyframe):
            continue
        time = packet_time(packet)
        key = time if key is None else key
        if packet.pts is None:  # times of decoding alone, as in avi: ask the decoder
            rewind(container, stream)
            frame = next(container.decode(stream), None)
            if frame is None:
                raise BadClip("no frames")
            return time if frame.pts is None else frame.pts
        if first is not None and (packet.is_keyframe or (packet.dts is not None and packet.dts >= first)):
            break  # nothing behind it is shown earlier
        if time >= key and not packet.is_discard:
            first = time if first is None else min(first, time)
    if first is None:
        raise BadClip("no frames" if key is None else "no frames that are shown")
    return first


def _last_shown(container: InputContainer, stream: VideoStream, begin: float) -> tuple[float, float]:
    """When the picture ends, and when the last of all streams does, from here on; `begin` if there is nothing."""
    lasts = 1 / float(stream.guessed_rate or 25)  # of frames that do not say how long
    end = whole_end = begin
    for packet in container.demux():
        if not packet.size or packet.is_discard or (packet.pts is None and packet.dts is None):
            continue
        ends = float((packet_time(packet) + (packet.duration or 0)) * packet.time_base)
        whole_end = max(whole_end, ends)
        if packet.stream_index == stream.index:
            end = max(end, ends if packet.duration else ends + lasts)
    return end, whole_end


def packet_time(packet: av.Packet) -> int:
    """When it is shown, in ticks of its stream, as far as the file says."""
    time = packet.dts if packet.pts is None else packet.pts
    if time is None:
        raise BadClip("no time stamps: bare pictures; put them into a file such as mp4 or mkv, which holds their times")
    return time
