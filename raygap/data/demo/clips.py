"""The demo data set: 1,280 synthetic clips that reproduce modality imbalance, written as real media files.

Nothing is downloaded. Every clip is an mp4 file of 2 s (64x64 pixels at 10 frames/s as h264, 16 kHz mono sound as AAC),
so the demo runs through the same readers and decoders as a real data set. It takes seconds to generate.

**The clips.** Eight classes (`LABELS`) of 160 clips: 640 clips to train on, 320 each for validation and test. They are
drawn and synthesised by formulas, so the demo shows that a pipeline works and what imbalance looks like; how good a
method is must be judged on real data.

* Sound: a timbre, a pitch contour and a rhythm, with random pitch, tempo, onset, level and background noise of random
  colour. `bell`/`gong` are struck metal whose pitches and decays overlap, and `truck`/`helicopter` are rumbles that
  overlap likewise: sound tells the members of these two pairs apart only a little better than by guessing.
* Picture: a moving silhouette of random place, size, tilt and colour, before a textured background with a
  random rectangle or ellipse. `gong`/`drum` (a disc, with or without a small boss) and `ambulance`/`truck` (a
  box on wheels, with or without a lamp and a small cross) look almost the same.

So each modality knows what the other does not (a gong is told from a bell by the picture and from a drum by the sound),
and neither is enough. Sound is the easier one: a log-mel picture of it is hardly cluttered and always in the same
place, while the silhouette must be found first. That is the imbalance: trained jointly, the network soon relies on the
sound, and the visual encoder learns less than it does when trained alone.

**What is planted.** In every class, 40 % of the TRAINING clips are damaged, in one of three ways:

* `spoiled_picture` (20 %): the picture carries no trace of the class: the background without the silhouette, moving
  stripes, or pixel noise (one third each). The sound is intact.
* `spoiled_sound` (10 %): the sound carries no trace of the class: broadband noise, mains hum, or very faint noise
  (one third each; never digital silence). The picture is intact.
* `mismatched` (10 %): an intact picture of another class, drawn at random among those that do not look almost the
  same. The label is that of the sound.

Validation and test clips are all `clean`. The truth is written to the column `planted` of manifest.csv so that
diagnoses can be scored against it; training never reads it. Both modalities of a clean clip are generated
independently given the class; nothing in a file's name, place in the manifest or length tells class, split or damage.

**What was tuned.** Only the difficulty of each modality alone and of plain training; no imbalance method was looked at.
In 12 epochs of `unimodal_losses` by SGD the sound becomes right on about 80 % of the validation clips and the picture,
which lags behind, on 47 and 63 % (two seeds; 63 % by AdamW on the first): of demo-v2, which had half as many clips to
validate and to test on. Of demo-v1 it was on a third or less, so that nothing could be told of the clips by it.

**Reproducibility.** Every clip follows from (seed, clip index) alone, whatever the number of workers. The same machine
and libraries give the same files; other versions of the codecs may give slightly different ones.
"""

import csv
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from raygap.data.demo.picture import FRAME_RATE, FRAME_SIZE, render_picture
from raygap.data.demo.sound import SAMPLE_RATE, Array, render_sound
from raygap.errors import UserError

# No import of torch here, nor of raygap modules that import it: every worker process would pay for it.

LABELS = ("bell", "gong", "drum", "clock", "ambulance", "truck", "helicopter", "bird")
LOOKS_LIKE = {"gong": "drum", "drum": "gong", "ambulance": "truck", "truck": "ambulance"}
SPLITS = ("train", "val", "test")
PLANTED_SHARES = {"spoiled_picture": 0.2, "spoiled_sound": 0.1, "mismatched": 0.1}
COLUMNS = ("video", "label", "split", "planted")

NAME = "demo-v3"
STALE_SECONDS = 3600.0
"""A temporary folder older than this belongs to a generation that was killed."""


class Clip(NamedTuple):
    """One row of the plan: what clip `index` shows."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    label: str
    split: str
    planted: str


def _write_mp4(path: Path, picture: NDArray[np.uint8], sound: Array) -> None:
    """Write (T, H, W, 3) RGB and (samples,) float32 as one mp4 file, h264 and AAC."""
    with av.open(path, "w", format="mp4") as container:
        # One thread and no look-ahead: the workers already fill the cores, and the file depends on neither.
        options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "22", "threads": "1"}
        video = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        video.width, video.height, video.pix_fmt = FRAME_SIZE, FRAME_SIZE, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 48_000
        for image in picture:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def _write_clip(folder: Path, clip: Clip, seed: int) -> None:
    # A stream of random numbers for each purpose: a change to the picture leaves the sound as it is.
    seen, rng_pair = clip.label, np.random.default_rng([seed, clip.index, 0])
    if clip.planted == "mismatched":
        seen = str(rng_pair.choice([x for x in LABELS if x not in (clip.label, LOOKS_LIKE.get(clip.label))]))
    spoiled_sound = clip.planted == "spoiled_sound"
    spoiled_picture = clip.planted == "spoiled_picture"
    sound = render_sound(clip.label, spoiled_sound, np.random.default_rng([seed, clip.index, 1]))
    picture = render_picture(seen, spoiled_picture, np.random.default_rng([seed, clip.index, 2]))
    _write_mp4(folder / _file_name(clip.index), picture, sound)


def _file_name(index: int) -> str:
    return f"clips/{index:05d}.mp4"


def _plan(clips_per_class: Sequence[int], seed: int) -> list[Clip]:
    """All clips in order of index, the labels and splits shuffled over the indices."""
    rows = []
    for label in LABELS:
        for split, count in zip(SPLITS, clips_per_class, strict=True):
            planted = []
            if split == "train":
                planted = [name for name, share in PLANTED_SHARES.items() for _ in range(round(share * count))]
            rows += [(label, split, name) for name in planted + ["clean"] * (count - len(planted))]
    order = np.random.default_rng([seed]).permutation(len(rows))
    return [Clip(index, *rows[row]) for index, row in enumerate(order)]


def _write_share(folder: Path, clips_per_class: Sequence[int], seed: int, worker: int, workers: int) -> None:
    for clip in _plan(clips_per_class, seed)[worker::workers]:
        _write_clip(folder, clip, seed)


def generate_demo(
    folder: Path,
    *,
    clips_per_class: Sequence[int] = (80, 40, 40),
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write `folder/clips/*.mp4`, then `folder/manifest.csv` (columns video, label, split, planted; relative paths).

    Args:
        folder: Created if missing. manifest.csv appears last: without it the folder is not complete.
        clips_per_class: Clips of each of the 8 classes in train, val and test.
        seed: Everything follows from it and a clip's index; at least 0.
        workers: Processes; the cores this process may use if None. It does not change the result.

    Raises:
        UserError: The folder already holds a manifest.
        RuntimeError: A worker failed; with the end of what it printed.
    """
    folder = Path(folder)
    manifest = folder / "manifest.csv"
    if manifest.exists():
        raise UserError(f"{folder}: already holds a data set; name another folder")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = cpu_count()
    if workers == 1:
        _write_share(folder, clips_per_class, seed, 0, 1)
    else:
        _run_workers(folder, clips_per_class, seed, workers)
    partial = folder / "manifest.csv.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for clip in _plan(clips_per_class, seed):
            rows.writerow((_file_name(clip.index), clip.label, clip.split, clip.planted))
    partial.rename(manifest)


def _run_workers(folder: Path, clips_per_class: Sequence[int], seed: int, workers: int) -> None:
    # Plain child processes running this module, not multiprocessing: a forked child would inherit the threads of torch
    # and Ray, and a spawned one first imports the caller's main module, torch and all, which takes longer than the job.
    package_root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    children = []
    try:
        for worker in range(workers):
            numbers = [str(number) for number in (seed, worker, workers, *clips_per_class)]
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "raygap.data.demo.clips", str(folder), *numbers],
                    env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for child in children:
            _, errors = child.communicate()
            if child.returncode != 0:
                raise RuntimeError(
                    f"a worker that wrote the demo data set failed ({child.returncode}): {errors[-2000:]}"
                )
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def ensure_demo(root: Path | None = None) -> Path:
    """The folder of the demo data set (with manifest.csv), generated on the first call.

    The folder is `demo-v3` in `root`, else in the environment's RAYGAP_CACHE, else in ~/.cache/raygap. It is written
    under a temporary name and then renamed, so it is there either whole or not at all; of two processes that generate
    at once, one wins and both return the same folder.

    Raises:
        UserError: The folder is there but has lost its manifest.
    """
    if root is None:
        root = Path(os.environ.get("RAYGAP_CACHE") or Path.home() / ".cache" / "raygap")
    folder = Path(root) / NAME
    if (folder / "manifest.csv").exists():
        return folder
    if folder.exists():
        raise UserError(f"{folder}: has no manifest.csv; delete the folder and it will be generated again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    temporary = folder.parent / f".{NAME}-{uuid.uuid4().hex}"
    try:
        generate_demo(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "manifest.csv").exists():  # otherwise another process was first: take its folder
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _remove_stale(parent: Path) -> None:
    for leftover in parent.glob(f".{NAME}-*"):
        try:
            stale = time.time() - leftover.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:  # renamed or removed by another process since it was listed
            continue
        if stale:
            shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    _seed, _worker, _workers, *_counts = map(int, sys.argv[2:])
    _write_share(Path(sys.argv[1]), _counts, _seed, _worker, _workers)
