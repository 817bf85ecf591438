"""Media files as FFmpeg opens them, and what pictures and sound share: their clock, seeking, what makes a clip bad."""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
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


def rewind(container: InputContainer, stream: Stream) -> None:
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


def is_still(container: InputContainer) -> bool:
    """Whether it is a picture, not a film: shown at any time, for as long as one likes."""
    return container.format.name == "image2" or container.format.name.endswith("_pipe")


def clock_zero(container: InputContainer) -> float:
    """What the times of clips are counted from, in the picture as in the sound: seconds on the file's own clock.

    It is when the first frame is shown; where nothing is shown, the beginning of the file.
    """
    try:
        return shown(container).begin
    except (BadClip, IndexError):  # the latter is PyAV's, at a packet of a stream that a damaged file did not announce
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
    """Read it from the packets, without decoding. Raises BadClip: no video stream, no frames, or none with a time."""
    stream = picture_stream(container)
    if not container.format.name.startswith("mov,"):
        # In a container of its own: these formats may begin elsewhere in the sound after a rewind than at first.
        with open_media(Path(container.name)) as other:
            stream = picture_stream(other)
            stream.codec_context.thread_count = 1
            return _read_shown(other, stream)
    try:
        return _read_shown(container, stream)
    except av.FFmpegError as error:
        raise BadClip(f"unreadable: {error.strerror}") from None
    finally:
        rewind(container, (*container.streams.audio, stream)[0])


def _read_shown(container: InputContainer, stream: VideoStream) -> Shown:
    tick = float(stream.time_base)
    begin = _first_shown(container, stream) * tick
    starts = (container.start_time or 0) / av.time_base
    ends = starts + (container.duration or 0) / av.time_base
    # What a stream says of itself is compared with that stream, what the file says with all of them.
    compared = (stream,) if stream.duration else tuple(container.streams)
    lasts = {}
    if ends - begin > SEEK_BEYOND:
        container.seek(int((ends - 1) / stream.time_base), stream=stream)
        lasts = _last_shown(container, stream, compared)
    if stream.index not in lasts:  # a short file, one that does not say how long it is, or not of its picture
        rewind(container, stream)
        lasts = _last_shown(container, stream, compared)
    end = lasts.get(stream.index, begin)
    if stream.duration:
        lacks = ((stream.start_time or 0) + stream.duration) * tick - end
    else:  # some count from zero, others from the beginning
        lacks = min(ends, ends - starts) - max(lasts.values(), default=end)
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


def _last_shown(container: InputContainer, stream: VideoStream, compared: tuple[Stream, ...]) -> dict[int, float]:
    """When the picture and the other streams end, in seconds, by the streams' indices, read from here on."""
    lasts: dict[int, int] = {}
    # Of frames that do not say how long they are shown.
    usual = round(1 / float(stream.guessed_rate or 25) / float(stream.time_base))
    picture = stream.index
    for packet in container.demux(*compared):
        time, index = packet.dts if packet.pts is None else packet.pts, packet.stream_index
        if time is None or packet.is_discard:
            continue
        end = time + (packet.duration or (usual if index == picture else 0))
        if end > lasts.get(index, -math.inf):
            lasts[index] = end
    return {index: end * float(container.streams[index].time_base) for index, end in lasts.items()}


def packet_time(packet: av.Packet) -> int:
    """When it is shown, in ticks of its stream, as far as the file says."""
    time = packet.dts if packet.pts is None else packet.pts
    if time is None:
        raise BadClip("no time stamps: bare pictures; put them into a file such as mp4 or mkv, which holds their times")
    return time
