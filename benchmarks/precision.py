"""bf16, torch.compile and the mixture: what does each cost or gain in an epoch, and in accuracy?

python benchmarks/precision.py --results benchmarks/results/precision.md

* accuracy: the demo with its default configuration, in fp32 and in bf16, over the same seeds; accuracy on test and
  seconds an epoch, as paired differences with their 95 % intervals;
* steps: seconds of a training step of gmm_scores (forward, losses, backward, optimiser) on constant random clips, for
  small_cnn with the demo's clips and for ResNet-18 with frames of 224 pixels; fp32 and bf16, with and without
  torch.compile. What compiling takes is measured too, for the first network of a process and for the next one;
* mixture: seconds of a refit on 20,000 clips, from random starts and from the last fit, beside an epoch of as many
  clips at the step's speed.

Every figure comes from a process of its own with `--threads` threads, or from the GPU where there is one. On a CPU
seconds are CPU time over threads, which other load on the machine disturbs less than the clock.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from pages import write_page

from raygap.config import Prepare, TrialConfig
from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.prepare import prepare
from raygap.data.prepared import default_cache
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.imbalance.mixture import fit_gap_mixture
from raygap.imbalance.scores_mixture import fit_reliability
from raygap.methods.base import Step
from raygap.methods.gmm_scores import GmmScores
from raygap.schema import from_mapping
from raygap.search.space import load_space
from raygap.tracking.seed_results import Interval
from raygap.training.final import test
from raygap.training.precision import autocast, pick_device
from raygap.training.run import train
from raygap.training.trainer import trial_network

CLASSES = 28
"""As AVE's."""
CLIPS = 20_000
SIZES: dict[str, dict[str, Any]] = {
    "small_cnn": {"optimizer.batch_size": 64},
    "resnet18": {"model.encoder": "resnet18", "optimizer.batch_size": 16},
}
PICTURES = {
    "small_cnn": Prepare(hop_length=1024),  # the demo's
    "resnet18": Prepare(frame_size=224, seconds=10, n_mels=128, hop_length=512),
}
STEPS = {"small_cnn": 60, "resnet18": 8}


def accuracy_run(store: str, precision: str, seed: int, threads: int) -> tuple[float, float]:
    """Test accuracy of the demo's default configuration, and median seconds an epoch."""
    fixed = load_space("demo", None, None).fixed
    config = from_mapping(fixed | {"seed": seed, "compute.precision": precision, "compute.threads": threads})
    with tempfile.TemporaryDirectory() as folder:
        seconds, began = [], clock(threads)
        for _ in train(config, Store.open(Path(store)), Path(folder)):
            seconds.append(clock(threads) - began)
            began = clock(threads)
        return test(Path(folder), Store.open(Path(store)))["test_accuracy"], statistics.median(seconds)


def clock(threads: int) -> float:
    """Seconds: of the clock beside a GPU, of CPU time a thread without one."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time() / threads


class Stepper:
    """A network, its optimiser and one batch of random clips that stays where it is."""

    def __init__(self, name: str, precision: str, threads: int, compiled: bool) -> None:
        torch.set_num_threads(threads)
        self.config = from_mapping(SIZES[name] | {"compute.precision": precision})
        self.device, size = pick_device(), self.config.optimizer.batch_size
        labels = np.arange(size) % CLASSES
        self.network = trial_network(self.config, CLASSES, GmmScores).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        if compiled:
            self.network.compile()
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9)
        self.method = GmmScores(self.config, labels, self.device)
        bins, steps = spectrogram_shape(PICTURES[name])
        times, height, width, channels = frames_shape(PICTURES[name])
        torch.manual_seed(0)
        audio = torch.randn(size, 1, bins, steps, device=self.device)
        visual = torch.randn(size, times, channels, height, width, device=self.device)
        index, target = torch.arange(size, device=self.device), torch.from_numpy(labels).to(self.device)
        self.step = Step(audio, visual, target, index, 1.0, 0, 0, places=np.arange(size))

    def seconds(self, clock: Callable[[], float]) -> float:
        """Take a step."""
        began = clock()
        self.network.train()
        self.method.train_step(self.network, self.optimizer, self.step, lambda: autocast(self.config, self.device))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began


def step_run(name: str, precision: str, threads: int, compiled: bool) -> tuple[float, float, float]:
    """Median seconds of a step, and what the first steps of a process's first and second network take beyond it."""
    starts, steps = [], []
    for _ in range(2):
        stepper = Stepper(name, precision, threads, compiled)
        # By the clock on the wall: compilers run in processes of their own.
        starts.append([stepper.seconds(time.perf_counter) for _ in range(3)])
        steps += [stepper.seconds(lambda: clock(threads)) for _ in range(STEPS[name])]
    step = statistics.median(steps)
    return step, *(sum(first) - 3 * step for first in starts)


def scores(clips: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Averaged scores of a training set: most clips good in both modalities, some in one of them or in none."""
    draw = np.random.default_rng(0)
    good = draw.choice([[1, 1], [1, 0], [0, 1], [0, 0]], size=clips, p=[0.6, 0.2, 0.12, 0.08])
    logits = np.where(good == 1, 2.5, -1.5) + draw.normal(0, 1.2, (clips, 2))
    logits += 0.1 * epoch + 0.1 * np.random.default_rng(epoch + 1).normal(size=(clips, 2))
    return tuple((1 / (1 + np.exp(-logits))).T)


def refit_run(threads: int) -> dict[str, tuple[float, float]]:
    """Seconds of the first fit and the median of five warm-started ones, on CLIPS clips, by method."""
    torch.set_num_threads(threads)
    settings = TrialConfig()

    def fit_scores(epoch: int, start: Any) -> Any:
        _, state = fit_reliability(
            *scores(CLIPS, epoch),
            separator=settings.scores.separator,
            components=settings.scores.components,
            reg_covar=settings.scores.reg_covar,
            n_init=settings.mixture.n_init,
            seed=0,
            start=start,
        )
        return state

    def fit_gap(epoch: int, start: Any) -> Any:
        audio, visual = scores(CLIPS, epoch)
        return fit_gap_mixture(np.abs(audio - visual), n_init=settings.mixture.n_init, seed=0, start=start)

    return {"gmm_scores": _refits(fit_scores), "gmm_adaptive": _refits(fit_gap)}


def _refits(fit: Callable[[int, Any], Any]) -> tuple[float, float]:
    seconds, state = [], None
    for epoch in range(6):
        began = clock(1)
        state = fit(epoch, state)
        seconds.append(clock(1) - began)
    return seconds[0], statistics.median(seconds[1:])


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def accuracy_lines(seeds: int, threads: int) -> Iterator[str]:
    """A table of bf16 against fp32."""
    settings = from_mapping(load_space("demo", None, None).fixed).prepare
    store = str(prepare(read_clips("demo", None), settings, default_cache()))
    pairs = [
        [alone(accuracy_run, store, precision, seed, threads) for precision in ("fp32", "bf16")]
        for seed in range(seeds)
    ]
    yield "| | fp32 | bf16 | bf16 to fp32, paired |"
    yield "|---|---|---|---|"
    for i, (what, show) in enumerate((("test accuracy", ".4f"), ("s an epoch", ".3f"))):
        fp32, bf16 = ([pair[j][i] for pair in pairs] for j in (0, 1))
        change = Interval.of([b - a for a, b in zip(fp32, bf16, strict=True)])
        means = [format(statistics.mean(values), show) for values in (fp32, bf16)]
        yield f"| {what} | {' | '.join(means)} | {change.mean:+{show}} ± {change.half_width:{show}} |"


def step_lines(threads: int, clips_a_second: dict[str, float]) -> Iterator[str]:
    """A table of steps; the fastest of each size goes into `clips_a_second`."""
    yield "| network | precision | compiled | ms a step | clips/s | compiling s | again s | pays after steps |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, size in SIZES.items():
        for precision in ("fp32", "bf16"):
            eager = 0.0
            for compiled in (False, True):
                step, first, again = alone(step_run, name, precision, threads, compiled)
                speed = size["optimizer.batch_size"] / step
                clips_a_second[name] = max(clips_a_second.get(name, 0.0), speed)
                cells = [name, precision, "yes" if compiled else "no", f"{1000 * step:.1f}", f"{speed:.0f}"]
                if compiled:
                    pays = f"{first / (eager - step):.0f}" if step < eager else "never"
                    cells += [f"{first:.1f}", f"{again:.1f}", pays]
                else:
                    eager = step
                    cells += ["", "", ""]
                yield f"| {' | '.join(cells)} |"


def refit_lines(threads: int, clips_a_second: dict[str, float]) -> Iterator[str]:
    """A table of refits beside epochs of as many clips."""
    shares = [f"of an epoch of {name} ({CLIPS / speed:.0f} s)" for name, speed in clips_a_second.items()]
    yield f"| refit on {CLIPS:,} clips | first s | later s | {' | '.join(f'later, {share}' for share in shares)} |"
    yield "|---" * (3 + len(shares)) + "|"
    for method, (first, later) in alone(refit_run, threads).items():
        parts = [f"{later / (CLIPS / speed):.3%}" for speed in clips_a_second.values()]
        yield f"| {method} | {first:.3f} | {later:.3f} | {' | '.join(parts)} |"


def bf16_units() -> str:
    """What the processor can do with bf16, where Linux tells."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
    return ", ".join(flag for flag in ("amx_bf16", "avx512_bf16") if flag in text) or "no bf16"


def main(
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    seeds: Annotated[int, typer.Option(min=2)] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process.")] = 1,
    parts: Annotated[str, typer.Option(help="Which parts, with commas between.")] = "accuracy,steps,mixture",
) -> None:
    """Measure and print."""
    lines = [f"{threads} threads; the CPU has {bf16_units()}.", ""]
    clips_a_second: dict[str, float] = {}
    made = {
        "accuracy": lambda: accuracy_lines(seeds, threads),
        "steps": lambda: step_lines(threads, clips_a_second),
        "mixture": lambda: refit_lines(threads, clips_a_second),
    }
    for part in parts.split(","):
        lines += [*made[part](), ""]
        print("\n".join(lines), flush=True)
    write_page(results, "Precision, torch.compile and the mixture", lines[:-1])


if __name__ == "__main__":
    typer.run(main)
