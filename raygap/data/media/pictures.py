"""Frames out of media files."""

import itertools
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from raygap.config import Prepare
from raygap.data.media.files import SEEK_BEYOND, BadClip, rewind

# Seconds by which a key frame must precede what is sought: indices hold decoding times, which run a few frames ahead.
KEY_MARGIN = 0.25

# One for all clips of a process, as clips of one size share its tables; not for threads.
_scaler = VideoReformatter()


def frames_shape(settings: Prepare) -> tuple[int, int, int, int]:
    """(T, H, W, 3) of every clip's frames with these settings."""
    return settings.frames, settings.frame_size, settings.frame_size, 3


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
            rewind(container, stream)
            return _groups(container, stream)
        container.seek(sought, stream=stream)
        groups = _groups(container, stream)
        group = next(groups, None)
        if group and _time(group[0]) <= time:
            return itertools.chain([group], groups)
        margin *= 4  # a file without an index: the place was a guess


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
