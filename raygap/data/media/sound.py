"""Sound out of media files."""

import functools
import io
import itertools
import mmap
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import Flags

from raygap.data.media.files import SEEK_BEYOND, BadClip, clock_zero, open_media, rewind
from raygap.data.media.waveform import Piece, joined, usable

SOUND_FILES = (".wav", ".flac", ".ogg")

# Seconds by which a time stamp may lie beside the end of the sound before it; more is a hole, or an overlap. Recorders
# stamp less exactly than that. A block that is lost is a hole whatever its length.
JITTER = 0.02
# Seconds: in formats whose time stamps may start anew, a jump back by more than the one or ahead by more than the other
# is such a start, and no time goes by. As FFmpeg's own tool has it.
JUMP_BACK, JUMP_AHEAD = 0.1, 10.0
# Samples that coders put before the sound, at most (MP3; AAC has 1024), where the file does not say how many.
PRIMING = 1105
# Share of a sound's energy: as much at either end may be an echo of the coder in what it filled up.
EDGE = 2e-4
# Codecs of wav files whose last block is filled up, which FFmpeg lets one see.
IN_BLOCKS = ("MS_ADPCM", "IMA_ADPCM", "GSM610", "MPEG_LAYER_III")
# How files begin that can be strung together, one behind the other; of these libsndfile reads the first alone.
BEGINNINGS = {b"OggS": rb"OggS\x00\x02", b"fLaC": rb"fLaC\x00\x00\x00\x22", b"RIFF": rb"RIFF....WAVE"}


@dataclass(frozen=True)
class Sound:
    """The sound of a clip."""

    samples: np.ndarray
    """float32 (n,), full scale 1, at the rate that was asked for."""
    begins: float
    """When it begins, in seconds from the file's beginning: later than the clip where it is silent until then."""
    ends: float | None
    """When the sound of the whole file ends, likewise; None if that is not known."""
    note: str = ""
    """What a user would want to know of how it was chosen."""


def decode_audio(container: InputContainer, start: float | None, end: float | None, sample_rate: int) -> np.ndarray:
    """The clip's sound, channels averaged, resampled to `sample_rate` Hz: float32 (n,), full scale 1."""
    return hear(container, start, end, sample_rate).samples


def decode_audio_file(path: Path, start: float | None, end: float | None, sample_rate: int) -> np.ndarray:
    """The same from a file of its own."""
    return hear_file(path, start, end, sample_rate).samples


def hear(container: InputContainer, start: float | None, end: float | None, sample_rate: int) -> Sound:
    """The clip's sound out of the track that FFmpeg holds for the best, or out of another if that has none there.

    Channels are averaged; where they cancel out, since one is another's inverse, the loudest is taken. Holes in the
    time stamps are silence, overlaps are cut, and what the coder filled up is left off as far as the file tells of it.
    The container is one just opened. `start` and `end` are in seconds from the beginning of the file, None for its
    beginning and its end; `end` may lie beyond the file's.

    Raises BadClip: corrupt, no audio stream, too short, or silent.
    """
    tracks = container.streams.audio
    if not tracks:
        raise BadClip("no audio stream")
    best = container.streams.best("audio") or tracks[0]
    reasons: list[str] = []
    for track in (best, *(track for track in tracks if track.index != best.index)):
        try:
            if reasons:
                rewind(container, track)
            sound = _hear_track(container, cast(AudioStream, track), start or 0.0, end, sample_rate)
        except BadClip as error:
            reasons.append(str(error))
        except av.FFmpegError as error:
            reasons.append(f"unreadable: {error.strerror}")
        except IndexError:  # PyAV's, at a packet of a stream that a damaged file did not announce
            reasons.append("unreadable: damaged")
        else:
            # What reads on from here, as for the picture, finds nothing behind the end.
            with suppress(av.FFmpegError):
                rewind(container, track)
            number, first = (tracks.index(one) + 1 for one in (track, best))
            other = f"sound of track {number}, as track {first} is {reasons[0]}" if reasons else ""
            return replace(sound, note="; ".join(filter(None, (other, sound.note))))
    raise BadClip(reasons[0])


def _hear_track(
    container: InputContainer, stream: AudioStream, start: float, end: float | None, sample_rate: int
) -> Sound:
    if stream.codec_context is None:
        raise BadClip("unreadable: sound in a codec that FFmpeg does not know")
    stream.codec_context.thread_count = 1
    zero = clock_zero(container)
    track = _read_track(container, stream, start, end, zero)
    if not track.pieces:
        raise BadClip("too short: no sound" if start == 0 else f"too short: no sound after {start:g} s")
    sound, rate, note = joined(track.pieces, sample_rate)
    content = len(sound) - _filling(sound, track.filled)
    last = min((round((time - track.first) * rate) for time in (end, track.ends) if time is not None), default=None)
    sound = sound[max(round((start - track.first) * rate), 0) : last]
    sound = usable(sound, rate, sample_rate, min(content, len(sound)))
    # Sound that begins later than the clip does: until then it is silent.
    sound = np.pad(sound, (max(round((track.first - start) * sample_rate), 0), 0))
    ends = _track_end(container, stream, zero) if track.ends is None else track.ends
    return Sound(sound, max(start, track.first), ends, note)


@dataclass
class _Track:
    """What was read of a track. Times are in seconds from the file's beginning."""

    pieces: list[Piece]
    first: float = 0.0
    """When the first piece begins."""
    ends: float | None = None
    """When the track ends; None: it goes on behind what was asked for."""
    filled: int = 0
    """Samples in a block, the last of which the coder may have filled up, as it may have put some before the first;
    0: it has not, or what it added is left off."""


def _read_track(container: InputContainer, stream: AudioStream, start: float, end: float | None, zero: float) -> _Track:
    """The stream's sound from `start` to `end`, in whole blocks: one piece behind the other, silence in the holes."""
    flags: Any = container.format.flags  # a number; PyAV's stubs say that nothing fits it
    starts_anew = bool(flags & Flags.ts_discont.value)
    # Raw streams have no time stamps: FFmpeg counts the blocks, by the rate that they begin with.
    counted = bool(flags & Flags.generic_index.value) and not starts_anew
    to_float: dict[tuple[str, str, int], av.AudioResampler] = {}
    track = _Track([])
    read = passed = 0
    expected = shift = block = 0.0
    for frame in _sound_from(container, stream, start + zero):
        rate, length = frame.sample_rate, frame.samples / frame.sample_rate
        tick = float(frame.time_base or stream.time_base)
        lasts = (frame.duration or 0) * tick
        block = max(block, length)
        tolerance = max(min(0.75 * block, JITTER), 2 * tick)
        time = expected if frame.time is None else frame.time - zero + shift
        beside = time - expected
        jump = starts_anew and not -JUMP_BACK <= beside <= JUMP_AHEAD
        if read and abs(beside) > tolerance and (counted or jump):
            shift, time = shift - beside, expected
        read += 1
        if end is not None and time >= end:
            if track.pieces and end - expected > tolerance:
                track.pieces.append(_silence(end - expected, track.pieces[-1].rate))
            return track
        if time + length <= start:
            passed, expected = passed + 1, time + length
            continue
        if not track.pieces:
            track.first = expected = time
        samples = _floats(frame, to_float)
        if time - expected > tolerance:
            track.pieces.append(_silence(time - expected, rate))
            expected = time + length
        elif expected - time > tolerance:
            samples = samples[:, round((expected - time) * rate) :]
            expected = max(expected, time + length)
        else:
            expected += length
        track.pieces.append(Piece(rate, samples))
    track.ends = expected
    if track.pieces:
        # Seconds that the last block holds of the sound, by its own word or by the stream's, which may end before it.
        holds = [lasts] if lasts else []
        if stream.start_time is not None and stream.duration:
            holds.append(float((stream.start_time + stream.duration) * stream.time_base) - zero - time)
        surplus = max((length - held for held in holds if -length < held < length - 2 * tick), default=0.0)
        if surplus:
            track.ends -= surplus
        elif not passed and length == block and stream.codec_context.codec.lossy:
            track.filled = frame.samples
    return track


def _silence(seconds: float, rate: int) -> Piece:
    return Piece(rate, np.zeros((1, round(seconds * rate)), np.float32))


def _floats(frame: av.AudioFrame, resamplers: dict[tuple[str, str, int], av.AudioResampler]) -> np.ndarray:
    """float32 (channels, n). Only that: FFmpeg's own mixing to mono would make stereo sound louder than mono."""
    if frame.format.name == "fltp":  # as most decoders give it
        return frame.to_ndarray()
    kind = frame.format.name, frame.layout.name, frame.sample_rate
    resampler = resamplers.setdefault(kind, av.AudioResampler(format="fltp"))
    return np.concatenate([part.to_ndarray() for part in resampler.resample(frame)], axis=1)


def _filling(sound: np.ndarray, block: int) -> int:
    """How many samples at the ends of a sound hold so little that they may be what the coder added."""
    if not block:
        return 0
    energy = np.cumsum(np.square(sound, dtype=np.float64))
    begins, ends = np.searchsorted(energy, [EDGE * energy[-1], (1 - EDGE) * energy[-1]])
    return int(min(begins, PRIMING) + min(len(sound) - 1 - ends, block))


def _sound_from(container: InputContainer, stream: AudioStream, time: float) -> Iterator[av.AudioFrame]:
    """The frames from about this time on, in the file's own count, or from the first."""
    if container.format.name == "wav" and stream.codec_context.name == "aac":
        # It is cut into packets anywhere, and no place in it can be sought: the decoder finds the blocks in one packet.
        whole = b"".join(bytes(packet) for packet in container.demux(stream))
        return itertools.chain.from_iterable(map(stream.codec_context.decode, (av.Packet(whole), None)))
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


def _track_end(container: InputContainer, stream: AudioStream, zero: float) -> float | None:
    """When the track ends, in seconds from the file's beginning, without decoding it; None if that is not known."""
    if stream.duration and container.format.name != "aac":  # whose length is a guess from its first blocks
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    with suppress(av.FFmpegError, IndexError):
        if container.duration:  # the last second of the file, where the track has one
            file_end = ((container.start_time or 0) + container.duration) / av.time_base
            container.seek(int((file_end - 1) / stream.time_base), stream=stream)
            end = _last_end(container, stream)
            if end is not None:
                return end - zero
        rewind(container, stream)
        end = _last_end(container, stream)
        return None if end is None else end - zero
    return None


def _last_end(container: InputContainer, stream: AudioStream) -> float | None:
    packets = container.demux(stream)
    ends = [packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None]
    return float(max(ends) * stream.time_base) if ends else None


def hear_file(path: Path, start: float | None, end: float | None, sample_rate: int) -> Sound:
    """The same from a file of its own. Libsndfile reads wav, flac and ogg, FFmpeg all others, and what that refuses."""
    if path.suffix.lower() in SOUND_FILES:
        with suppress(soundfile.LibsndfileError):  # many codecs stand in wav files, and many files are named wrongly
            sound = _read_with_libsndfile(path, start or 0.0, end, sample_rate)
            if sound:
                return sound
    with open_media(path) as container:
        return hear(container, start, end, sample_rate)


def _read_with_libsndfile(path: Path, start: float, end: float | None, sample_rate: int) -> Sound | None:
    """None for what FFmpeg shall read. Raises BadClip and LibsndfileError."""
    borders = _borders(path, path.stat().st_mtime_ns) if path.is_file() else ()
    if len(borders) > 2:
        sound, rate, note = joined([_whole(path, *part) for part in itertools.pairwise(borders)], sample_rate)
        ends = len(sound) / rate
        sound = sound[round(start * rate) : None if end is None else round(end * rate)]
        return Sound(usable(sound, rate, sample_rate), start, ends, note)
    with soundfile.SoundFile(path) as file:
        if file.subtype in IN_BLOCKS:
            return None
        first = min(round(start * file.samplerate), file.frames)
        count = -1 if end is None else max(round(end * file.samplerate) - first, 0)
        file.seek(first)
        piece = Piece(file.samplerate, file.read(count, dtype="float32", always_2d=True).T)
        sound, rate, note = joined([piece], sample_rate)
        return Sound(usable(sound, rate, sample_rate), start, file.frames / rate, note)


@functools.lru_cache(maxsize=1)  # clips of one recording come one after the other
def _borders(path: Path, changed: int) -> tuple[int, ...]:
    """Where in it the files begin that it is strung together from, and its end."""
    with path.open("rb") as file:
        beginning = BEGINNINGS.get(file.read(4))
        if beginning is None:
            return ()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return *(found.start() for found in re.finditer(beginning, content, re.DOTALL)), len(content)


def _whole(path: Path, first: int, last: int) -> Piece:
    """The sound of one of the files that a file is strung together from: its bytes from `first` to `last`."""
    with path.open("rb") as file:
        file.seek(first)
        samples, rate = soundfile.read(io.BytesIO(file.read(last - first)), dtype="float32", always_2d=True)
    return Piece(rate, samples.T)
