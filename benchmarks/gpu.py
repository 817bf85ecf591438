"""What a GPU is asked first: does it compute what the CPU does, and is it busy? Eight minutes at most, no download.

python benchmarks/gpu.py
python benchmarks/gpu.py --device cpu --quick

* parity: a small training on the CPU and on the GPU, by its metrics;
* feeding: clips a second of ResNet-18 at 224, batch 64, 3 frames, beside constant tensors (feeding.py; goal 90 %);
* steps: a training step in fp32 and bf16, plain, by torch.compile, and by CUDA graphs (its mode reduce-overhead), with
  what compiling takes and after how many steps it pays;
* sharing: 1, 2, 4 and 8 trainings at a time on one GPU: clips a second of all together, and the memory that they take;
* trunk: a training forked from a shared warm-up beside one trained cold, to the last bit.

Each part has a process of its own and a limit of time; one that fails, or runs into its limit, says so in its place and
ends no other. Where there is a GPU the page benchmarks/results/gpu.md is written. `--quick` runs all parts on little.
"""

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import feeding
import torch
import typer
from pages import write_page
from precision import SIZES, Stepper

from raygap.config import RECIPES
from raygap.schema import from_mapping
from raygap.testing import SMALL, write_store
from raygap.training.run import train
from raygap.training.trainer import Trainer
from raygap.training.trunk import SharedWarmups

PAGE = Path(__file__).parent / "results" / "gpu.md"
GOAL = 0.9
LIMITS = {"parity": 60.0, "feeding": 100.0, "steps": 110.0, "sharing": 150.0, "trunk": 50.0}
"""Seconds of each part, its start included; eight minutes together, less ten seconds."""
TRIAL = SMALL | {"method": "gmm_adaptive", "epochs": 6}
WHERE = ("epochs_reused", "seconds")
"""What a metric's name holds that says how, not what, was trained."""


def curve() -> list[dict[str, Any]]:
    """Metrics of a small training, epoch by epoch."""
    with tempfile.TemporaryDirectory() as folder:
        return list(train(from_mapping(TRIAL), write_store(Path(folder) / "store"), Path(folder) / "run"))


def parity(device: str, quick: bool) -> Iterator[str]:
    """Both curves, the CPU's by a process that sees no GPU; without a GPU the same twice."""
    cpu = json.loads(call("curve", "cpu", quick, LIMITS["parity"] / 2)) if device == "cuda" else curve()
    here = curve()
    yield f"| metric, last of {len(cpu)} epochs | CPU | {device} | largest difference in an epoch |"
    yield "|---|---|---|---|"
    for name in ("train_loss", "val_loss", "val_accuracy", "val_audio_accuracy", "val_visual_accuracy"):
        apart = max(abs(a[name] - b[name]) for a, b in zip(cpu, here, strict=True))
        yield f"| {name} | {cpu[-1][name]:.4f} | {here[-1][name]:.4f} | {apart:.1e} |"


def feed(device: str, quick: bool) -> Iterator[str]:
    """The trainer's own pass, fed by the store and by one batch that stays where it is."""
    size = {"prepare.frame_size": 32} if quick else {}
    recipe = {f"prepare.{name}": value for name, value in (RECIPES["ogm_ge"] | {"frames": 3}).items()}
    batch = 4 if quick else 64
    fields = recipe | size | {"model.encoder": "small_cnn" if quick else "resnet18", "optimizer.batch_size": batch}
    yield "| precision | raygap's batches, clips/s | constant tensors, clips/s | share | goal |"
    yield "|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        store = feeding.write_store(Path(folder) / "store", (2 if quick else 20) * batch, fields)
        for kind in ("fp32",) if quick else ("fp32", "bf16"):  # few CPUs have bf16
            running = Trainer(from_mapping(fields | {"compute.precision": kind}), store)
            rounds = range(2 if quick else 4)
            passes = [[feeding.seconds(running, one) for one in (feeding.batches, feeding.constant)] for _ in rounds]
            fed, still = (len(running.rows) / statistics.median(arm) for arm in zip(*passes[1:], strict=True))
            met = "met" if fed >= GOAL * still else "missed"
            yield f"| {kind} | {fed:.1f} | {still:.1f} | {fed / still:.3f} | {GOAL:.2f} {met} |"


def steps(device: str, quick: bool) -> Iterator[str]:
    """Seconds of a step on constant clips; what fails in one way is said in its line."""
    yield "| network | precision | how | ms a step | clips/s | compiling s | pays after steps |"
    yield "|---|---|---|---|---|---|---|"
    # What may pay comes last: it is the slowest to begin, and the limit may cut it.
    arms = [(name, kind, "plain") for name in SIZES for kind in ("fp32", "bf16")]
    arms += [("resnet18", "bf16", how) for how in ("compiled", "CUDA graphs")] + [("small_cnn", "bf16", "CUDA graphs")]
    plain: dict[tuple[str, str], float] = {}
    for name, kind, how in arms[:1] if quick else arms:
        try:
            stepper = Stepper(name, kind, torch.get_num_threads(), compiled=False)
            if how != "plain":
                stepper.network.compile(mode="reduce-overhead" if how == "CUDA graphs" else "default")
            first = sum(stepper.seconds(time.perf_counter) for _ in range(3))
            step = statistics.median(stepper.seconds(time.perf_counter) for _ in range(1 if quick else 30))
        except Exception as error:
            yield f"| {name} | {kind} | {how} | failed: {type(error).__name__}: {str(error).splitlines()[0][:80]} |||||"
            continue
        plain.setdefault((name, kind), step)
        gain, begin = plain[name, kind] - step, first - 3 * step
        pays = "" if how == "plain" else f"{begin / gain:.0f}" if gain > 0 else "never"
        speed = SIZES[name]["optimizer.batch_size"] / step
        compiling = "" if how == "plain" else f"{begin:.1f}"
        yield f"| {name} | {kind} | {how} | {1000 * step:.2f} | {speed:.0f} | {compiling} | {pays} |"


def sharing(device: str, quick: bool) -> Iterator[str]:
    """Trainings side by side, each in a process of its own as a trial is, on one store."""
    fields = SMALL | {"method": "gmm_adaptive", "epochs": 2 if quick else 6, "warmup.epochs": 1, "purify.epochs": 0}
    fields |= {} if quick else {"prepare.frame_size": 64, "model.width": 32, "optimizer.batch_size": 64}
    yield "| trainings at a time | clips/s, all together | to one alone | memory taken, GiB |"
    yield "|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        config = from_mapping(fields)
        store = write_store(Path(folder) / "store", clips=72 if quick else 6000, settings=config.prepare)
        alone, spawn = 0.0, multiprocessing.get_context("spawn")
        for count in (2,) if quick else (1, 2, 4, 8):
            free, gate, done = _free(), spawn.Barrier(count + 1), spawn.Queue()
            place = Path(folder) / str(count)
            place.mkdir()
            running = [
                spawn.Process(target=_share, args=(fields, store.path, place / str(i), gate, done), daemon=True)
                for i in range(count)
            ]
            for one in running:
                one.start()
            gate.wait(timeout=LIMITS["sharing"])
            began = time.perf_counter()
            least = min(done.get(timeout=LIMITS["sharing"]) for _ in running)
            spent = time.perf_counter() - began
            for one in running:
                one.join(timeout=10)
            speed = count * len(store.rows("train")) * (config.epochs - 1) / spent
            alone = alone or speed
            taken = f"{(free - least) / 2**30:.2f}" if free else "no GPU"
            yield f"| {count} | {speed:.0f} | {speed / alone:.2f}x | {taken} |"


def _share(fields: dict[str, Any], store: Path, folder: Path, gate: Any, done: Any) -> None:
    """Train; the first epoch, with all that begins in it, is before the gate. Tells the least free memory seen."""
    from raygap.data.store import Store

    least = _free()
    for row in train(from_mapping(fields), Store.open(store), folder):
        least = min(least, _free())
        if row["epoch"] == 1:
            gate.wait(timeout=LIMITS["sharing"])
    done.put(least)


def _free() -> int:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


def trunk(device: str, quick: bool) -> Iterator[str]:
    """The second of two trainings takes the first one's warm-up; a third has none to take."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        store, shared = write_store(here / "store"), SharedWarmups(here / "trunk", 1e9)
        first, second = (from_mapping(TRIAL | {"loss.focus": focus}) for focus in (1.0, 4.0))
        list(train(first, store, here / "first", trunk=shared))
        forked = list(train(second, store, here / "forked", trunk=shared))
        cold = list(train(second, store, here / "cold"))
        again = list(train(second, store, here / "again"))
    reused = forked[-1]["epochs_reused"]
    yield f"* forked, with {reused} epochs of warm-up taken over, beside cold: {_apart(forked, cold)}"
    yield f"* the same training twice: {_apart(cold, again)}"


def _apart(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    for a, b in zip(one, other, strict=True):
        names = [name for name in a if not any(word in name for word in WHERE)]
        if differ := [name for name in names if repr(a[name]) != repr(b.get(name))]:
            return f"from epoch {a['epoch']} on NOT equal ({', '.join(differ[:3])})"
    return f"equal to the last bit in all metrics of {len(one)} epochs"


PARTS = {"parity": parity, "feeding": feed, "steps": steps, "sharing": sharing, "trunk": trunk}


def call(part: str, device: str, quick: bool, limit: float) -> str:
    """What a part prints, from a process that sees its device alone; raises TimeoutExpired or CalledProcessError, with
    what it printed until then."""
    command = [sys.executable, __file__, "--part", part, "--device", device, *(["--quick"] if quick else [])]
    seen = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    # A group of its own: what the part has started ends with it.
    with subprocess.Popen(
        command,
        env=os.environ | seen,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            raise subprocess.TimeoutExpired(part, limit, said) from None
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, part, said, errors)
    return said


def section(part: str, device: str, quick: bool) -> list[str]:
    """A part's lines, and why it came to an early end."""
    began, why = time.perf_counter(), ""
    try:
        said = call(part, device, quick, LIMITS[part])
    except subprocess.TimeoutExpired as error:
        said, why = str(error.output or ""), f"ran into its limit of {error.timeout:.0f} s"
    except subprocess.CalledProcessError as error:
        said, why = error.output or "", "failed: " + ((error.stderr or "").strip().splitlines() or ["no word"])[-1]
    ended = f"{part.capitalize()} {why}." if why else f"Took {time.perf_counter() - began:.0f} s."
    return [f"## {part.capitalize()}\n", *said.splitlines(), f"\n{ended}\n"]


def main(
    device: Annotated[Literal["auto", "cuda", "cpu"], typer.Option(help="auto: the GPU, if there is one.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="All parts on little: do they run?")] = False,
    results: Annotated[Path, typer.Option(help="Page to write, where there is a GPU.")] = PAGE,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run all parts and print what they measured."""
    if part == "curve":
        print(json.dumps(curve()))
        return
    if part:
        for line in PARTS[part](device, quick):
            print(line, flush=True)
        return
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch sees no GPU here; leave it out, or take --device cpu --quick")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    command = f"python benchmarks/gpu.py --device {device}" + (" --quick" if quick else "")
    lines = [f"`{command}`\n"]
    for name in PARTS:
        made = section(name, device, quick)
        print("\n".join(made), flush=True)
        lines += made
    if device == "cuda" and not quick:
        write_page(results, "On a GPU", lines)
        print(f"page: {results}")


if __name__ == "__main__":
    typer.run(main)
