"""What does a trial cost beside its training, and does it stay the same over a long sweep?

python benchmarks/many_trials.py --out /tmp/many --trials 1000 --results benchmarks/results/many_trials.md

A real sweep of trials of one epoch over 24 tiny clips, two at a time; every tenth is made to fail, as by a loss that
is not finite. Measured are:

* turn-around: from the last result of a trial to the first epoch of the next one in the same process, by the
  process's own clock. In it lie the way of the result to Tune and the study, the next suggestion, and the next
  trial's configuration, network and optimiser;
* the cost of a trial by hundreds, by the clock, and beside it what Optuna's sampler takes of it for its suggestion,
  which models all trials before; in all, the CPU time of the sweep's own process, in which Tune, the search and the
  bookkeeping run;
* the processes that ran the trials: as many as run at a time, if none was started anew after a failure;
* what the trials leave on the disk.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import optuna
import ray
import typer
from optuna.trial import TrialState
from pages import write_page

from raygap.config import Prepare
from raygap.data.clips import Clip, ClipList
from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.store import StoreWriter
from raygap.errors import TrainingDiverged
from raygap.search import sweep
from raygap.search.plan import Plan, make_folder, write_plan
from raygap.search.study import TRIAL_NUMBER
from raygap.search.trial import SweepTrial
from raygap.training import run
from raygap.training.trainer import Trainer

SETTINGS = Prepare(frame_size=8, seconds=0.5, n_mels=8, n_fft=512, hop_length=1000)
FIXED = {
    "prepare.frame_size": 8,
    "model.width": 4,
    "epochs": 1,
    "warmup.epochs": 0,
    "optimizer.batch_size": 16,
    "method": "unimodal_losses",
}
SPACE = {"loss.unimodal_weight": {"uniform": [0.1, 2.0]}, "loss.fusion_weight": {"uniform": [0.1, 2.0]}}
HUNDRED = 100


def write_store(folder: Path, train: int = 16, val: int = 8) -> Path:
    """A store of random clips of two classes: nothing is learnt here."""
    splits = ["train"] * train + ["val"] * val
    clips = tuple(Clip(f"clip{i}", Path(f"{i}.mp4"), None, f"class{i % 2}", split) for i, split in enumerate(splits))
    folder.mkdir(parents=True)
    writer, draw = StoreWriter(folder, len(clips), SETTINGS), np.random.default_rng(0)
    for row in range(len(clips)):
        writer.write(
            row,
            draw.integers(0, 255, frames_shape(SETTINGS), np.uint8),
            draw.normal(size=spectrogram_shape(SETTINGS)).astype(np.float16),
        )
    statistics = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0, "frame_mean": [128.0] * 3, "frame_std": [64.0] * 3}
    writer.finish(ClipList("tiny", clips, ("class0", "class1"), Path()), "tiny", statistics, {})
    return folder


def diverging() -> Iterator[dict[str, Any]]:
    """In place of a trial's epochs."""
    raise TrainingDiverged("made to fail")
    yield


class NotingTrainer(Trainer):
    """Notes when the last epoch in this process began."""

    began = 0.0

    def train_epoch(self) -> dict[str, Any]:
        """As Trainer."""
        NotingTrainer.began = time.time()
        return super().train_epoch()


class TimedTrial(SweepTrial):
    """A trial that notes when its epoch began and its result was there, in a file a process."""

    def setup(self, config: dict[str, Any], **others: Any) -> None:
        """As SweepTrial."""
        run.Trainer = NotingTrainer
        super().setup(config, **others)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """As SweepTrial, but for every tenth."""
        made = super().reset_config(new_config)
        if new_config[TRIAL_NUMBER] % 10 == 9:
            self.results = diverging()
        return made

    def step(self) -> dict[str, Any]:
        """As SweepTrial."""
        began = time.time()
        result = super().step()
        # Before the process that drives the sweep hears of it.
        with (self.folder / f"epochs-{os.getpid()}.txt").open("a") as file:
            file.write(f"{max(began, NotingTrainer.began)} {time.time()}\n")
        return result


@dataclass(frozen=True)
class Epochs:
    """Epochs of one process, in their order: beginnings, and when their results were there; seconds since 1970."""

    began: np.ndarray
    ended: np.ndarray

    def turn_arounds(self) -> np.ndarray:
        """Seconds from the end of each trial to the beginning of the next; trials have one epoch each."""
        return self.began[1:] - self.ended[:-1]


def read_epochs(folder: Path) -> list[Epochs]:
    """What the processes of a sweep have noted."""
    return [Epochs(*np.loadtxt(file, ndmin=2).T) for file in sorted(folder.glob("epochs-*.txt"))]


def by_hundreds(moments: np.ndarray, began: float) -> Iterator[tuple[int, float]]:
    """Last trial of each hundred, and seconds a trial in it; `moments` are those at which trials ended, ascending."""
    for last in range(HUNDRED, len(moments) + 1, HUNDRED):
        first = began if last == HUNDRED else moments[last - HUNDRED - 1]
        yield last, (moments[last - 1] - first) / HUNDRED


def timed_ask(seconds: list[float]) -> Callable[..., optuna.trial.Trial]:
    """Optuna's Study.ask, which notes the CPU seconds of each suggestion."""

    def ask(study: optuna.Study, *arguments: Any, **options: Any) -> optuna.trial.Trial:
        began = time.process_time()
        trial = plain(study, *arguments, **options)
        seconds.append(time.process_time() - began)
        return trial

    plain = optuna.Study.ask
    return ask


def left_behind(folder: Path) -> tuple[int, int]:
    """Files and bytes."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return len(files), sum(file.stat().st_size for file in files)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the store and the sweep; it must not exist.")],
    trials: Annotated[int, typer.Option(min=HUNDRED)] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 2,
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Run the sweep and print what it cost."""
    store, folder = write_store(out / "store"), out / "run"
    plan = Plan("tiny", None, trials, FIXED, SPACE, "", test_seeds=0)
    make_folder(folder, new=True)
    write_plan(plan, folder)
    ray.init(num_cpus=concurrency, log_to_driver=False, logging_level=logging.ERROR)
    suggestions: list[float] = []
    began, cpu = time.time(), time.process_time()
    with (
        mock.patch.object(sweep, "SweepTrial", TimedTrial),
        mock.patch.object(optuna.Study, "ask", timed_ask(suggestions)),
    ):
        study = sweep.run_trials(plan, folder, store, concurrency)
    wall, cpu = time.time() - began, time.process_time() - cpu
    processes = read_epochs(folder)
    turns = 1000 * np.concatenate([process.turn_arounds() for process in processes])
    ended = np.sort(np.concatenate([process.ended for process in processes]))
    failed = sum(trial.state == TrialState.FAIL for trial in study.trials)
    lines = [
        f"`python benchmarks/many_trials.py --out DIR --trials {trials}`\n",
        f"{trials} trials of one epoch, {concurrency} at a time, {failed} of them failed as planned: {wall:.0f} s, of "
        f"which {ended[0] - began:.0f} s up to the end of the first; {len(processes)} processes ran them.\n",
        f"CPU time of the sweep's own process: {1000 * cpu / trials:.0f} ms a trial.\n",
        f"Turn-around: median {np.median(turns):.0f} ms, 95 % below {np.quantile(turns, 0.95):.0f} ms, largest "
        f"{turns.max():.0f} ms.\n",
        "| trials | ms on the clock a trial | of them Optuna's suggestion |",
        "|---|---|---|",
    ]
    for last, clock in by_hundreds(ended, ended[0]):
        asked = np.mean(suggestions[last - HUNDRED : last])
        lines.append(f"| {last - HUNDRED + 1} to {last} | {1000 * clock:.0f} | {1000 * asked:.0f} |")
    lines += ["", "| left behind | files a trial | kB a trial |", "|---|---|---|"]
    for name in ("trials", "tune", "study.journal"):
        count, size = left_behind(folder / name) if (folder / name).is_dir() else (1, (folder / name).stat().st_size)
        lines.append(f"| {name} | {count / trials:.2f} | {size / trials / 1000:.1f} |")
    print("\n".join(lines))
    write_page(results, "Many trials", lines)


if __name__ == "__main__":
    typer.run(main)
