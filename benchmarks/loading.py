"""How fast are preparation and batches, beside the way of the published code bases? Same clips, same run.

python benchmarks/loading.py --out /tmp/loading --results benchmarks/results/loading.md

Two layouts of generated media: AVE's (10 s of 640x360 h264 at 30 frames/s, a key frame every 5 s, AAC at 44.1 kHz) and
CREMA-D's (2.5 s of 480x360 flv1 and wav at 16 kHz), each prepared with its own recipe from search_spaces/.

* Preparation beside a loop that decodes every frame of a clip to RGB, keeps a frame a second as JPEG, and writes the
  sound as wav where it is not one already, as the published scripts do (they use OpenCV; PyAV runs the same FFmpeg).
  The published way has no spectrograms then: it computes them in every epoch, and raygap's preparation does it once.
* An epoch's training batches beside a torch Dataset that for each item opens the JPEGs, crops, flips and normalises
  them, resamples the sound if its file has another rate, and computes the spectrogram, as the published code does
  (torchaudio in place of librosa); with a DataLoader, in one process and with all cores. Both give float32 tensors.
  `batches, for a GPU` is what is left to raygap's CPU beside one: the bytes are gathered there, and cropped, scaled and
  made floats on the GPU. `batches, a constant written` is no loader: it writes one number into memory for as many
  float32 tensors, and nothing else. No loader that hands out float32 tensors is faster.

Each figure is the median of three repetitions in one process of its own, after a first one that is not counted (for
preparation: of three preparations); the time for starting processes and importing is left out on both sides. CPU time
is that of all processes together. Memory is the proportional set size of all processes of the measurement, the largest
of samples.
"""

import contextlib
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import av
import numpy as np
import soundfile
import typer
from av.video.reformatter import VideoReformatter
from pages import write_page
from PIL import Image

from raygap.config import Augment, Prepare
from raygap.data.clips import Clip
from raygap.data.readers import read_clips
from raygap.schema import from_mapping

# torch, Ray and what imports them is imported where it is used: a measured process holds no more than its way needs.

BATCH = 64
TIMES = 3
DISTINCT = 8
"""Different clips of each layout; the others are copies of their files."""


def write_layouts(folder: Path, clips: int) -> dict[str, Path]:
    """Write both layouts; returns their roots by data set."""
    ave, cremad = folder / "AVE_Dataset", folder / "CREMA-D"
    for made in (ave / "AVE", cremad / "VideoFlash", cremad / "AudioWAV"):
        made.mkdir(parents=True)
    originals: list[list[Path]] = []
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i in range(clips):
        split = {0: "val", 1: "test"}.get(i // 2, "train")
        lists[split].append(f"{('Bus', 'Cat')[i % 2]}&video{i:06d}&good&0&10")
        video = ave / "AVE" / f"video{i:06d}.mp4"
        name = f"{1001 + i // 2}_DFA_{('ANG', 'SAD')[i % 2]}_XX"
        flash, sound = cremad / "VideoFlash" / f"{name}.flv", cremad / "AudioWAV" / f"{name}.wav"
        if i < DISTINCT:
            originals.append([video, flash, sound])
            options = {"preset": "veryfast", "g": "150"}
            write_video(video, "libx264", 640, 360, 10.0, i, options, with_sound=True)
            write_video(flash, "flv", 480, 360, 2.5, i, {"b": "1000000"}, with_sound=False)
            soundfile.write(sound, noise(i, 2.5, 16_000), 16_000)
        else:
            for source, target in zip(originals[i % DISTINCT], (video, flash, sound), strict=True):
                shutil.copyfile(source, target)
    for split, lines in lists.items():
        (ave / f"{split}Set.txt").write_text("\n".join(lines))
    return {"ave": ave, "cremad": cremad}


def noise(seed: int, seconds: float, rate: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def write_video(
    path: Path,
    codec: str,
    width: int,
    height: int,
    seconds: float,
    seed: int,
    options: dict[str, str],
    with_sound: bool,
) -> None:
    """A texture that wanders, under film grain."""
    draw = np.random.default_rng(seed)
    texture = draw.integers(0, 255, (height // 12 + 40, width // 12 + 40, 3), dtype=np.uint8)
    texture = np.kron(texture, np.ones((12, 12, 1), np.uint8))
    grain = draw.integers(0, 10, (height * 2, width * 2, 1), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=44_100, layout="mono") if with_sound else None
        for t in range(round(30 * seconds)):
            y, x = int(150 + 140 * np.sin(t / 40 + seed)), int(150 + 140 * np.cos(t / 57 + seed))
            dy, dx = draw.integers(0, height), draw.integers(0, width)
            picture = texture[y : y + height, x : x + width] // 2 + grain[dy : dy + height, dx : dx + width]
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode())
        if audio:
            frame = av.AudioFrame.from_ndarray(noise(seed, seconds, 44_100)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


class Cost(NamedTuple):
    """What one clip takes."""

    clock: float
    cpu: float
    """Seconds, of all processes together."""


class Watch:
    """Clock and CPU time of this process and all under it, from here on."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), cpu_seconds(os.getpid())

    def cost(self, clips: int) -> Cost:
        return Cost((time.perf_counter() - self.began[0]) / clips, (cpu_seconds(os.getpid()) - self.began[1]) / clips)


def median(costs: list[Cost]) -> Cost:
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


def family(parent: int) -> list[int]:
    """The process and all under it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat_of(int(folder.name))[1]), []).append(int(folder.name))
    found = [parent]
    for process in found:
        found += children.get(process, [])
    return found


def stat_of(process: int) -> list[str]:
    """Fields of /proc/<process>/stat from the third on: state, parent, ..."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(parent: int) -> float:
    """CPU time of a process and all under it, ended ones included."""
    ticks = 0
    for process in family(parent):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, stat_of(process)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(parent: int) -> float:
    """MiB that a process and all under it hold, shared pages counted once."""
    total = 0
    for process in family(parent):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


# The published way: JPEGs and wav files.


def extract(clip: Clip, folder: Path) -> None:
    """Decode all of a clip; keep a frame a second as JPEG, and its sound as wav."""
    target = folder / clip.id
    target.mkdir(parents=True, exist_ok=True)
    convert = VideoReformatter()  # one for all frames, as cv2.VideoCapture has
    with av.open(str(clip.video)) as container:
        container.streams.video[0].thread_type = "NONE"
        rate = round(float(container.streams.video[0].guessed_rate))
        for i, frame in enumerate(container.decode(video=0)):
            picture = convert.reformat(frame, format="rgb24").to_ndarray()
            if i % rate == 0:
                Image.fromarray(picture).save(target / f"{i // rate:05d}.jpg", quality=95)
    if clip.audio:
        shutil.copyfile(clip.audio, target / "sound.wav")
        return
    with av.open(str(clip.video)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        parts = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    soundfile.write(target / "sound.wav", np.concatenate(parts), 16_000)


def extract_all(clips: tuple[Clip, ...], folder: Path, workers: int) -> Cost:
    """The loop over all clips."""
    costs = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_start, range(4 * workers)))
        for _ in range(TIMES):
            watch = Watch()
            list((pool.map if workers > 1 else map)(extract, clips, [folder] * len(clips)))
            costs.append(watch.cost(len(clips)))
    return median(costs)


def _start(number: int) -> None:
    time.sleep(0.2)  # so that each worker gets one, and is up


class PublishedDataset:
    """Opens JPEGs and computes a spectrogram for each item."""

    def __init__(self, clips: list[Clip], folder: Path, settings: Prepare) -> None:
        from torchaudio.transforms import Resample, Spectrogram
        from torchvision import transforms

        self.clips, self.folder, self.settings = clips, folder, settings
        self.picture = transforms.Compose(
            [
                transforms.RandomResizedCrop(settings.frame_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        self.resample = Resample(16_000, settings.sample_rate)
        self.stft = Spectrogram(settings.n_fft, hop_length=settings.hop_length, power=1, pad_mode="constant")

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch

        folder, settings = self.folder / self.clips[index].id, self.settings
        sound = self.resample(torch.from_numpy(soundfile.read(folder / "sound.wav", dtype="float32")[0]))
        wanted = round(settings.seconds * settings.sample_rate)
        tiled = sound.repeat(-(-wanted // len(sound)))[:wanted].clip(-1, 1)
        spectrogram = (self.stft(tiled) + 1e-7).log()
        names = sorted(name for name in os.listdir(folder) if name.endswith(".jpg"))
        names = [names[i * len(names) // settings.frames] for i in range(settings.frames)]
        return spectrogram, torch.stack([self.picture(Image.open(folder / name).convert("RGB")) for name in names])


def published_epochs(clips: list[Clip], folder: Path, settings: Prepare, workers: int) -> Cost:
    """An epoch."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    loader = DataLoader(
        PublishedDataset(clips, folder, settings),
        BATCH,
        shuffle=True,
        num_workers=workers if workers > 1 else 0,
        multiprocessing_context="spawn" if workers > 1 else None,
        persistent_workers=workers > 1,
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return repeated(epoch, len(clips))


def repeated(epoch: Callable[[], None], clips: int) -> Cost:
    """Of an epoch of so many clips, after a first one."""
    costs = []
    for _ in range(1 + TIMES):
        watch = Watch()
        epoch()
        costs.append(watch.cost(clips))
    return median(costs[1:])


# raygap's way.


def prepare_all(dataset: str, root: Path, settings: Prepare, cache: Path, workers: int) -> Cost:
    """From the first clips to the last."""
    from raygap.data.prepare import prepare

    clip_list = read_clips(dataset, root)
    costs: list[Cost] = []
    for number in range(TIMES):
        watches: list[Watch] = []

        def progress(done: int, total: int, watches: list[Watch] = watches) -> None:
            if done == workers:  # all workers are up
                watches.append(Watch())
            elif done == total:
                costs.append(watches[0].cost(total - workers))

        prepare(clip_list, settings, cache / str(number), workers=workers, progress=progress)
    return median(costs)


def raygap_epochs(store: Path, workers: int, times: int) -> Cost:
    """An epoch over the training clips; `workers` are threads."""
    import torch

    from raygap.data.batches import batches, epoch_order
    from raygap.data.store import Store

    torch.set_num_threads(workers)
    data = Store.open(store)
    rows = np.tile(data.rows("train"), times)
    options = {"batch_size": BATCH, "device": torch.device("cpu"), "augment": Augment(crop=0.6), "seed": 0, "epoch": 0}

    def epoch() -> None:
        for _ in batches(data, rows, order=epoch_order(len(rows), 0, 0), **options):
            pass

    return repeated(epoch, len(rows))


def reading_epochs(store: Path, times: int) -> Cost:
    """An epoch's gathering alone: bytes from the store into a batch, as a GPU is handed them."""
    from raygap.data.batches import epoch_order
    from raygap.data.store import Store

    data = Store.open(store)
    rows = np.tile(data.rows("train"), times)
    order = rows[epoch_order(len(rows), 0, 0)]
    arrays = [np.asarray(data.frames), np.asarray(data.spectrograms)]
    buffers = [np.empty((BATCH, *array.shape[1:]), array.dtype) for array in arrays]

    def epoch() -> None:
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            for array, buffer in zip(arrays, buffers, strict=True):
                np.take(array, chosen, axis=0, out=buffer[: len(chosen)], mode="clip")

    return repeated(epoch, len(rows))


def writing_epochs(store: Path, times: int) -> Cost:
    """An epoch that fills tensors of the same size with a constant, in memory that it has written to before."""
    import torch

    from raygap.data.store import Store

    torch.set_num_threads(1)
    data = Store.open(store)
    clips = len(data.rows("train")) * times
    buffers = [torch.empty(BATCH, *array.shape[1:]) for array in (data.frames, data.spectrograms)]

    def epoch() -> None:
        for first in range(0, clips, BATCH):
            for buffer in buffers:
                for clip in buffer[: clips - first]:
                    clip.fill_(1.0)

    return repeated(epoch, clips)


def _child(connection: Any, function: Callable[..., Cost], arguments: tuple) -> None:
    connection.send(function(*arguments))


def alone(function: Callable[..., Cost], *arguments: Any) -> tuple[Cost, float]:
    """Cost, and MiB at most, of a call in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    most = 0.0
    while not ours.poll(0.5):
        most = max(most, memory(process.pid))
    cost = ours.recv()
    process.join()
    return cost, most


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(dataset: str, root: Path, out: Path, cores: int, times: int) -> Iterator[list[str]]:
    """Rows of the table for one data set."""
    from raygap.search.space import load_space

    settings = from_mapping(load_space(dataset, None, None).fixed).prepare
    clip_list = read_clips(dataset, root)
    count, training = len(clip_list.clips), [clip for clip in clip_list.clips if clip.split == "train"]
    files = out / f"{dataset}-files"
    for workers in (1, cores):
        cache = out / f"{dataset}-cache-{workers}"
        plain = alone(extract_all, clip_list.clips, files, workers)
        yield _row(dataset, "preparation", workers, plain, alone(prepare_all, dataset, root, settings, cache, workers))
    (store,) = (cache / "0").glob(f"{dataset}-*")
    for workers in (1, cores):
        plain = alone(published_epochs, training, files, settings, workers)
        yield _row(dataset, "batches", workers, plain, alone(raygap_epochs, store, workers, times))
        if workers == 1:
            yield _row(dataset, "batches, for a GPU", workers, plain, alone(reading_epochs, store, 20 * times))
            yield _row(dataset, "batches, a constant written", workers, plain, alone(writing_epochs, store, times))
    yield [dataset, "kB a clip", "", f"{size(files) / count / 1000:.0f}", f"{size(store) / count / 1000:.0f}", "", ""]


def _row(dataset: str, what: str, workers: int, plain: tuple[Cost, float], ours: tuple[Cost, float]) -> list[str]:
    cells = [
        f"{1 / cost.clock:.1f} clips/s, {1000 * cost.cpu:.2f} ms CPU, {memory:.0f} MiB"
        for cost, memory in (plain, ours)
    ]
    ratios = [f"{theirs / max(own, 1e-9):.1f}x" for theirs, own in zip(plain[0], ours[0], strict=True)]
    return [dataset, what, str(workers), *cells, *ratios]


def main(
    out: Annotated[Path, typer.Option(help="Folder for media and stores; it must not exist.")],
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    clips: Annotated[int, typer.Option(min=16, help="Clips of each layout.")] = 64,
    times: Annotated[int, typer.Option(min=1, help="raygap's epoch goes so often over the clips: it is short.")] = 20,
) -> None:
    """Measure and print a table."""
    out.mkdir(parents=True)
    cores = len(os.sched_getaffinity(0))
    lines = ["| data | what | processes | published way | raygap | clock | CPU |", "|---|---|---|---|---|---|---|"]
    for dataset, root in write_layouts(out, clips).items():
        for row in measure(dataset, root, out, cores, times):
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    command = f"python benchmarks/loading.py --out DIR --clips {clips} --times {times}"
    about = f"`{command}`\n\n{clips} clips of each layout; {cores} cores used, PyAV {av.__version__}.\n"
    write_page(results, "Loading", [about, *lines])


if __name__ == "__main__":
    typer.run(main)
