"""Frames out of media files."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from raygap.config import Prepare
from raygap.data.extracted import pictures_in, rate_of
from raygap.data.media.files import (
    SEEK_BEYOND,
    BadClip,
    clock_zero,
    is_still,
    open_media,
    packet_time,
    picture_stream,
    rewind,
    shown,
)

# Seconds by which a key frame must precede what is sought: indices hold decoding times, which run a few frames ahead.
KEY_MARGIN = 0.25
# Decoders that mark no frame as damaged, but say so of a packet when they are told to be strict.
STRICT = ("hevc", "mjpeg")
# Seconds by which a frame may be shown beside a damaged one and stand in for it.
STANDS_IN = 0.2
# Packets of a damaged clip that are decoded, at most, to tell how many of its frames are.
TOLD_OF = 1500

# One for all clips of a process, as clips of one size share its tables; not for threads.
_scaler = VideoReformatter()


class _Undecoded(Exception):
    """The decoder gives no frame, or reports errors on the way to it."""


def frames_shape(settings: Prepare) -> tuple[int, int, int, int]:
    """(T, H, W, 3) of every clip's frames with these settings."""
    return settings.frames, settings.frame_size, settings.frame_size, 3


def decode_frames(
    container: InputContainer, start: float | None, end: float | None, settings: Prepare
) -> tuple[np.ndarray, float | None]:
    """The clip's frames as the settings say, and its length in seconds; None of a still picture, which has no times.

    The frames are uint8 (T, H, W, 3), RGB, upright, each squeezed to a square: those nearest to the middles of T equal
    stretches of the clip, or, with a frame_rate, to T times at that rate around the clip's middle. `start` and `end`
    are in seconds from the first frame, None for the beginning and the end of the file.

    Raises BadClip: corrupt, no video stream, no frames, too short to reach one of these times, or damaged there.
    """
    if is_still(container):
        start = end = None
    stream = picture_stream(container)
    context = stream.codec_context
    context.thread_count = 1  # preparation already runs a process a core
    if context.name in STRICT:
        context.options = {"err_detect": "explode"}
    context.open(strict=False)  # before skip_frame is set: some decoders would never let go of it
    file = shown(container)
    begin, stop = start or 0.0, file.end - file.begin
    seconds = (stop if end is None else end) - begin
    if seconds <= 0:
        raise BadClip(f"too short: no video after {begin:g} s")
    # How far behind the last frame a time may lie: within its stretch, or while that frame is on show.
    stretch = seconds / settings.frames
    reach = max(stretch / 2, 1 / float(stream.guessed_rate or 1 / stretch))
    if end is None and file.lacks > reach:
        raise BadClip(f"too short: video ends at {stop:.1f} s of {stop + file.lacks:.1f} s")
    tick = float(stream.time_base)
    times = [(file.begin + begin + time) / tick for time in frame_times(seconds, settings)]
    pictures, size = np.empty(frames_shape(settings), np.uint8), settings.frame_size
    for seek in (True, False):
        try:
            for i, frame in enumerate(_nearest_frames(container, stream, times, reach / tick, seek)):
                square = _scaler.reformat(frame, size, size, format="rgb24", interpolation=Interpolation.AREA)
                pictures[i] = _upright(square.to_ndarray(), frame)
            break
        except _Undecoded as error:
            if seek:  # some streams have key frames from which the picture only begins to be refreshed: read on to them
                continue
            bad, count = _count_damaged(container, stream, times[0], times[-1])
            if not bad:
                raise BadClip(str(error)) from None
            raise BadClip(
                f"damaged: the decoder reports errors in {bad} of {count} frames ({bad / count:.0%})"
            ) from None
    return pictures, None if is_still(container) else (stop if end is None else min(end, stop)) - begin


def decode_folder(
    folder: Path, start: float | None, end: float | None, settings: Prepare
) -> tuple[np.ndarray, float | None]:
    """The same of a folder of frames: those shown at these times, and the length, where a folder's name says the rate.

    Else they are spread over all frames that there are, and the length is None. Raises BadClip as decode_frames does.
    """
    files, rate = pictures_in(folder), rate_of(folder)
    if rate:
        # A last second that is not whole has no frame of its own in some of these folders.
        begin, stop = start or 0.0, len(files) / rate if end is None else min(end, len(files) / rate)
        if stop <= begin:
            raise BadClip(f"too short: no frame after {begin:g} s")
        seconds = stop - begin
        numbers = [(begin + time) * rate for time in frame_times(seconds, settings)]
    else:
        seconds = None
        numbers = [(i + 0.5) * len(files) / settings.frames for i in range(settings.frames)]
    pictures, one = np.empty(frames_shape(settings), np.uint8), settings.model_copy(update={"frames": 1})
    for i, number in enumerate(numbers):
        file = files[min(int(number), len(files) - 1)]
        try:
            with open_media(file) as container:
                pictures[i] = decode_frames(container, None, None, one)[0][0]
        except BadClip as error:
            raise BadClip(f"frame {file.name}: {error}") from None
    return pictures, seconds


def _upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """A picture of this frame, turned and mirrored as the file's display matrix says, by right angles."""
    matrix: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # PyAV's stub has int alone
    if matrix is None:
        return picture
    # To the right it shows a x + c y, downwards b x + d y.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)
    if abs(b) > abs(a):
        picture, right, down = picture.swapaxes(0, 1), c, b
    else:
        right, down = a, d
    return picture[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def frame_times(seconds: float, settings: Prepare) -> list[float]:
    """When, in a clip of this length, its frames are taken: ascending, in seconds from the clip's beginning."""
    fits = settings.frame_rate and settings.frames - 1 < seconds * settings.frame_rate
    step = 1 / settings.frame_rate if fits else seconds / settings.frames
    return [seconds / 2 + (i - (settings.frames - 1) / 2) * step for i in range(settings.frames)]


def _nearest_frames(
    container: InputContainer, stream: VideoStream, times: list[float], reach: float, seek: bool
) -> Iterator[av.VideoFrame]:
    """The frame nearest to each of the ascending times; these, and `reach`, are in ticks of the stream.

    Packets are read from key frame to key frame. Only where a frame is wanted are they decoded, up to that frame, and
    without those that no other frame refers to.
    """
    groups, sought = _groups_from(container, stream, times[0] if seek else -math.inf), times[0]
    before: list[av.Packet] = []
    group = next(groups, None)
    if group is None:
        raise BadClip("no frames")
    near = float(STANDS_IN / stream.time_base)
    while times:
        if seek and sought != times[0] and (times[0] - packet_time(group[0])) * stream.time_base > SEEK_BEYOND:
            groups, sought = _groups_from(container, stream, times[0]), times[0]
            before, group = [], next(groups, group)
        following = next(groups, None)
        if following is None:
            last = max(map(packet_time, group))
            if times[-1] - last > reach:
                ends = last * float(stream.time_base) - clock_zero(container)
                raise BadClip(f"too short: video ends at {ends:.1f} s")
            yield from _decode(stream.codec_context, before, group, times, near)
            return
        # Frames behind a key frame in the file may be shown before it, and refer to the group before it.
        key = packet_time(following[0])
        ahead = max((i for i, packet in enumerate(following) if packet_time(packet) < key), default=-1)
        group += following[: ahead + 1]
        halfway = (max((time for time in map(packet_time, group) if time < key), default=key) + key) / 2
        wanted = [time for time in times if time <= halfway]
        yield from _decode(stream.codec_context, before, group, wanted, near)
        times = times[len(wanted) :]
        before, group = group, following


def _groups_from(container: InputContainer, stream: VideoStream, time: float) -> Iterator[list[av.Packet]]:
    """The groups of packets from the one on in which this time lies, or from the first."""
    margin, beginning = KEY_MARGIN, stream.start_time or 0
    while True:
        sought = time - margin / stream.time_base
        if sought <= beginning:
            rewind(container, stream)
            return _groups(container, stream)
        container.seek(int(sought), stream=stream)
        groups = _groups(container, stream)
        group = next(groups, None)
        if group and packet_time(group[0]) <= time:
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


def _decode(
    context: VideoCodecContext, before: list[av.Packet], group: list[av.Packet], wanted: list[float], near: float
) -> list[av.VideoFrame]:
    """The frame nearest to each of the wanted times, of those in the group, which begins with a key frame.

    `before` is the group before it, or nothing. Raises _Undecoded if the decoder gives none, or reports errors on the
    way to one, as what follows in the group may refer to what they spoiled, and no frame before them is as `near`.
    """
    if not wanted:
        return []
    times = [packet_time(packet) for packet in group]
    visible = sorted(packet_time(packet) for packet in group if not packet.is_discard)  # an edit may cut some
    visible = [time for time in visible if time >= times[0]]
    if not visible:
        raise _Undecoded("no frames")
    nearest = [min(visible, key=lambda time: abs(time - moment)) for moment in wanted]
    packets = group[: max(times.index(time) for time in nearest) + 1]
    found, sound = _decode_packets(context, packets, 0, wanted, set(nearest))
    if sound < len(packets) or [frame and frame.pts for frame in found] != nearest:
        # A decoder that passes over more than it should, and may find fault with what is left.
        found, sound = _decode_packets(context, packets, 0, wanted, None)
    if before and (sound < len(packets) or [frame and frame.pts for frame in found] != nearest):
        # A key frame from which the picture only begins to be refreshed.
        found, sound = _decode_packets(context, before + packets, len(before), wanted, None)
    if sound < len(packets):
        found = _decode_packets(context, packets[:sound], 0, wanted, None)[0] if sound else [None]
        if not all(frame and abs(frame.pts - time) <= near for frame, time in zip(found, wanted, strict=True)):
            raise _Undecoded("damaged: the decoder reports errors")
    if None in found:
        raise _Undecoded("no frames")
    return found


def _decode_packets(
    context: VideoCodecContext, packets: list[av.Packet], first: int, wanted: list[float], needed: set[int] | None
) -> tuple[list[av.VideoFrame | None], int]:
    """The decoded frame nearest to each of the wanted times, and how many packets were sound until one was not.

    The packets before the `first` only prepare the decoder, and do not count. `needed` None: all frames are.
    """
    found: list[av.VideoFrame | None] = [None] * len(wanted)
    counted = packets[first:]
    places = {packet_time(packet): i for i, packet in enumerate(counted)}
    key, sound = packet_time(counted[0]), len(counted)
    for i, packet in enumerate((*packets, None)):
        if packet:
            all_of_it = needed is None or packet_time(packet) in needed
            context.skip_frame = "DEFAULT" if all_of_it else "NONREF"
        frames, error = _frames_of(context, packet)
        # What is shown before the key frame may refer to what was not decoded, and nothing behind refers to it.
        if error and i >= first and (packet is None or packet_time(packet) >= key):
            sound = min(sound, i - first)
        for frame in frames:
            if frame.pts is None:
                raise BadClip("no time stamps")
            if frame.is_corrupt and frame.pts >= key:
                sound = min(sound, places.get(frame.pts, len(counted) - 1))
            for j, time in enumerate(wanted):
                if found[j] is None or abs(frame.pts - time) < abs(found[j].pts - time):
                    found[j] = frame
    context.flush_buffers()
    return found, sound


def _frames_of(context: VideoCodecContext, packet: av.Packet | None) -> tuple[list[av.VideoFrame], bool]:
    """The frames that come of a packet, or, of None, what is left, and whether the packet is damaged."""
    try:
        return context.decode(packet), bool(packet and packet.is_corrupt)
    except (av.InvalidDataError, av.ArgumentError, av.ExternalError):
        return [], True


def _count_damaged(container: InputContainer, stream: VideoStream, first: float, last: float) -> tuple[int, int]:
    """How many frames between these times the decoder reports errors in, and of how many."""
    context = stream.codec_context
    context.flush_buffers()
    context.skip_frame = "DEFAULT"
    groups = itertools.takewhile(lambda group: packet_time(group[0]) <= last, _groups_from(container, stream, first))
    packets = itertools.takewhile(lambda packet: packet.dts is None or packet.dts <= last, itertools.chain(*groups))
    bad = count = 0
    for packet in (*itertools.islice(packets, TOLD_OF), None):
        frames, error = _frames_of(context, packet)
        bad += sum(frame.is_corrupt for frame in frames) or error
        count += max(len(frames), int(error))
    return bad, count
