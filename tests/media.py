"""Real media files for tests: small, with known pictures and tones."""

import csv
import multiprocessing
import os
import signal
from fractions import Fraction
from pathlib import Path, PosixPath

import av
import numpy as np
import soundfile

FPS = 25
RED, GREEN, BLUE, WHITE = (230, 20, 20), (20, 200, 20), (20, 60, 230), (230, 230, 230)


def solid(*colours: tuple[int, int, int], seconds: float = 1.0, height: int = 32, width: int = 32) -> np.ndarray:
    """Pictures of plain colours, one after the other over `seconds`: uint8 (T, height, width, 3) at FPS."""
    count = round(seconds * FPS)
    which = np.arange(count) * len(colours) // count
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = np.array(colours, np.uint8)[which][:, None, None]
    return frames


def tone(*frequencies: float, seconds: float = 1.0, rate: int = 16_000, peak: float = 0.5) -> np.ndarray:
    """Sine tones, one after the other over `seconds`: float32 (n,)."""
    time = np.arange(round(seconds * rate)) / rate
    which = np.minimum((time / seconds * len(frequencies)).astype(int), len(frequencies) - 1)
    return (peak * np.sin(2 * np.pi * np.array(frequencies)[which] * time)).astype(np.float32)


def write_mp4(
    path: Path,
    frames: np.ndarray | None,
    sound: np.ndarray | None,
    *,
    rate: int = 16_000,
    index_first: bool = False,
    key_every: int | None = None,
    times: list[float] | None = None,
    codec: str = "libx264",
    sound_starts: float = 0.0,
) -> Path:
    """h264 (or another codec) and AAC; sound (n,) or (n, channels). None leaves a stream out. `index_first` survives a
    cut at the end; `key_every` is the number of frames from one key frame to the next; `times` are the frames' own, and
    `sound_starts` that of the first sound, in seconds."""
    options = {"movflags": "faststart"} if index_first else {}
    return _write(path, frames, codec, sound, "aac", rate, options, key_every, times, sound_starts)


def write_flv(path: Path, frames: np.ndarray | None, sound: np.ndarray | None = None, *, rate: int = 22_050) -> Path:
    """Sorenson Spark (flv1) and MP3."""
    return _write(path, frames, "flv", sound, "mp3", rate, {})


def write_wav(path: Path, sound: np.ndarray, *, rate: int = 16_000) -> Path:
    """16 bit; sound (n,) or (n, channels)."""
    soundfile.write(path, sound, rate)
    return path


def truncate(path: Path, share: float) -> Path:
    """Keep the first `share` of the file's bytes."""
    os.truncate(path, int(path.stat().st_size * share))
    return path


def _write(
    path: Path,
    frames: np.ndarray | None,
    video_codec: str,
    sound: np.ndarray | None,
    audio_codec: str,
    rate: int,
    options: dict[str, str],
    key_every: int | None = None,
    times: list[float] | None = None,
    sound_starts: float = 0.0,
) -> Path:
    with av.open(str(path), "w", options=options) as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream(video_codec, rate=FPS)
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
            video.bit_rate = 500_000
            if times:
                video.codec_context.time_base = Fraction(1, 90_000)
            if key_every:
                video.codec_context.gop_size = key_every
        if sound is not None:
            channels = sound[:, None] if sound.ndim == 1 else sound
            audio = container.add_stream(audio_codec, rate=rate, layout="mono" if channels.shape[1] == 1 else "stereo")
        if video is not None:
            for i, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                if times:
                    frame.pts, frame.time_base = round(times[i] * 90_000), Fraction(1, 90_000)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(channels.T, np.float32), format="fltp", layout=audio.layout.name
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, round(sound_starts * rate), Fraction(1, rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def write_manifest(folder: Path, rows: list[dict[str, object]]) -> Path:
    """`folder`/manifest.csv with the columns of the first row."""
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_data_set(folder: Path, *, train: int = 4, val: int = 1, test: int = 1) -> Path:
    """A data set of two classes, `low` (red, 440 Hz) and `high` (blue, 1760 Hz), with so many clips a class."""
    rows = []
    for label, colour, frequency in (("low", RED, 440), ("high", BLUE, 1760)):
        for split, count in (("train", train), ("val", val), ("test", test)):
            for i in range(count):
                name = f"{label}-{split}-{i}.mp4"
                write_mp4(folder / name, solid(colour), tone(frequency + 10 * i))
                rows.append({"video": name, "label": label, "split": split})
    write_manifest(folder, rows)
    return folder


class CrashingPath(PosixPath):
    """A path that kills the worker process that opens it, as a decoder with a bug does."""

    def __str__(self) -> str:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__str__()


class HangingPath(PosixPath):
    """A path at which the worker process that opens it stays for ever."""

    def __str__(self) -> str:
        if multiprocessing.parent_process() is not None:
            signal.pause()
        return super().__str__()


class RayCrashingPath(PosixPath):
    """The same for a Ray task."""

    def is_file(self) -> bool:
        import ray

        if ray.get_runtime_context().get_task_id() is not None:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().is_file()
