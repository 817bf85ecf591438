"""Do the methods earn their keep on real recordings and real handwriting with planted damage? (digits_data.py)

python benchmarks/digits.py --fsdd DIR --out runs/digits --jobs 2
python benchmarks/digits.py --fsdd DIR --quick

DIR is the Free Spoken Digit Dataset (https://github.com/Jakobovski/free-spoken-digit-dataset). The protocol:

1. Every method gets the same number of configurations: its defaults, then random points of its own space. Each is
   trained on `--trial-seeds` seeds; the best few are trained on `--finalist-seeds` more; the highest mean VALIDATION
   accuracy of the last epoch wins. The baseline, unimodal_losses, goes first and chooses the optimiser's settings
   that all methods but joint inherit; joint chooses its own.
2. Every arm is trained with the chosen configuration on fresh seeds, the same for all arms, and tested. Controls and
   ceilings use the configuration of their method: `shuffled` and `constant` posteriors, `raw` scores in place of the
   mixture, a `random` subset of equal size, and `truth`, which is told what was planted.

Every finished run is kept in the output folder under a key of all it follows from: the same command goes on where it
was stopped, and a larger one repeats nothing. Nothing is chosen on the test split.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
from digits_data import Recipe, read_planted, write_data
from pages import made_line
from scipy import stats
from sklearn.metrics import roc_auc_score

from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.ending import user_errors
from raygap.errors import TrainingDiverged, UserError
from raygap.imbalance.ledger import Ledger
from raygap.imbalance.scores_mixture import Reliability
from raygap.methods import find_method
from raygap.methods.base import Method
from raygap.provenance import FACTS, made_by
from raygap.rng import generator
from raygap.schema import from_mapping
from raygap.tracking.seed_results import Interval
from raygap.training.final import test
from raygap.training.run import train

Config = dict[str, Any]
Result = dict[str, Any]

RECIPE = Recipe(picture_noise=0.3, sound_noise=0.5)
"""The noise was chosen by validation accuracy of joint and unimodal_losses alone: no guided method was looked at."""
FIXED: Config = {
    "epochs": 20,
    "select_epoch": "last",
    "warmup.epochs": 6,
    "prepare.frame_size": 16,
    "prepare.sample_rate": 8000,
    "prepare.seconds": 0.75,
    "prepare.n_mels": 24,
    "prepare.n_fft": 512,
    "prepare.hop_length": 256,
    "augment.crop": 1.0,
    "augment.flip": False,
    "model.width": 8,
    "optimizer.lr": 0.02,
    "optimizer.schedule": "cosine",
}
QUICK: Config = {"epochs": 6, "warmup.epochs": 2}

BASELINE = "unimodal_losses"
INHERITED = ("optimizer.lr", "optimizer.weight_decay", "loss.unimodal_weight", "warmup.unimodal_weight")
METHODS: dict[str, Config] = {
    "joint": {"method": "joint"},
    BASELINE: {"method": BASELINE},
    "gmm_adaptive": {"method": "gmm_adaptive"},
    "gmm_scores": {"method": "gmm_scores"},
    "purification": {"method": BASELINE, "purify.epochs": 6},
    "gmm_scores_wide": {"method": "gmm_scores"},
}
DEFAULT_METHODS = ("joint", BASELINE, "gmm_adaptive", "gmm_scores", "purification")
# A list is a choice, a pair the ends of a log-uniform range.
_OPTIMISER = {"optimizer.lr": (0.005, 0.08), "optimizer.weight_decay": (1e-5, 1e-2)}
_GUIDED = {"warmup.epochs": [4, 6, 8], "mixture.refit_every": [1, 2, 4]}
SPACES: dict[str, dict[str, list | tuple[float, float]]] = {
    "joint": _OPTIMISER,
    BASELINE: {**_OPTIMISER, "loss.unimodal_weight": (0.3, 3.0)},
    "gmm_adaptive": {
        **_GUIDED,
        "loss.focus": (0.5, 20.0),
        "loss.align_weight": (0.05, 2.0),
        "loss.focus_scope": ["all", "fusion"],
        "align.kind": ["kl", "gap_weak"],
        "align.focus": ["imbalanced", "balanced", "uniform"],
        "gap.score": ["absolute", "signed", "min_score"],
    },
    "gmm_scores": {
        **_GUIDED,
        "loss.focus": (0.5, 20.0),
        "loss.align_weight": (0.05, 2.0),
        "align.mask": ["balanced", "all"],
        "scores.separator": ["scores2d", "scores1d", "min_score"],
        "scores.weights": ["per_modality", "all"],
        "scores.beta": [0.5, 0.8, 0.9],
    },
    "purification": {
        "purify.epochs": [2, 4, 6, 8, 10],
        "purify.threshold": [0.2, 0.35, 0.5, 0.65, 0.8],
        "gap.score": ["absolute", "signed", "min_score"],
    },
    # After a first look at training: under unimodal_losses the faster modality tells its damaged clips from epoch 2 on
    # and forgets it once it has memorised them, the slower one not before epoch 10. Scores averaged over the whole run
    # (beta 0.95 and more) tell both at all times. Hence long memories and long warm-ups.
    "gmm_scores_wide": {
        "warmup.epochs": [6, 8, 10, 12],
        "mixture.refit_every": [1, 2, 4, 20],
        "loss.focus": (3.0, 60.0),
        "loss.align_weight": (0.02, 1.0),
        "align.mask": ["balanced", "all"],
        "scores.separator": ["scores2d", "scores1d"],
        "scores.beta": [0.8, 0.95, 0.99],
    },
}


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method's chosen configuration, and what a control or ceiling changes in it."""

    method: str
    variant: str = ""
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.method}, {self.variant}" if self.variant else self.method


_RAW = (("scores.separator", "raw"),)


def _guided(method: str, *others: Arm) -> tuple[Arm, ...]:
    posteriors = (Arm(method, name, (("mixture.posterior", name),)) for name in ("shuffled", "constant"))
    return Arm(method), *posteriors, *others, Arm(method, "truth")


ARMS = (
    Arm("joint"),
    Arm(BASELINE),
    *_guided("gmm_adaptive"),
    *_guided("gmm_scores", Arm("gmm_scores", "raw", _RAW)),
    Arm("purification"),
    Arm("purification", "random", (("purify.subset", "random"),)),
    Arm("purification", "truth"),
    *_guided("gmm_scores_wide", Arm("gmm_scores_wide", "raw", _RAW)),
)


@dataclass(frozen=True)
class Job:
    """One training run; `truth` tells the method what was planted, `tested` reads the test split at the end."""

    arm: str
    seed: int
    config: Config
    store: Path
    manifest: Path
    out: Path
    truth: bool = False
    tested: bool = False
    trial: int = -1

    def key(self) -> str:
        """Of all that the result follows from."""
        content = [self.store.name, self.config, self.seed, self.truth, self.tested]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def kept(self) -> Path:
        """Where the result is kept."""
        return self.out / "runs" / f"{self.key()}.json"


def with_truth(base: type[Method], planted: np.ndarray) -> type[Method]:
    """The method with the planted truth, (N,) by training clip, in place of what it would fit. A ceiling, no method."""

    class Truth(base):
        def imbalanced(self, ledger: Ledger) -> np.ndarray:
            return (planted != "clean").astype(np.float64)

        def reliability(self, ledger: Ledger) -> Reliability:
            audio = (planted != "spoiled_sound").astype(np.float64)
            visual = (~np.isin(planted, ("spoiled_picture", "mismatched"))).astype(np.float64)
            return Reliability(audio, visual, audio * visual)

    return Truth


def run(job: Job) -> Result:
    """Train, test if the job says so, keep the result and return it."""
    started = time.perf_counter()
    store, config = Store.open(job.store), from_mapping(job.config | {"seed": job.seed})
    by_clip = read_planted(job.manifest)
    planted = np.array([by_clip[store.clip_ids[row]] for row in store.rows("train")])
    method = with_truth(find_method(config.method), planted) if job.truth else None
    folder = job.out / "runs" / job.key()
    result: Result = {"arm": job.arm, "trial": job.trial, "seed": job.seed, "config": job.config} | made_by()
    try:
        *_, last = train(config, store, folder, method)
    except TrainingDiverged as reason:
        result |= {"failed": str(reason), "val_accuracy": 0.0}
    else:
        columns = ("val_accuracy", "val_audio_accuracy", "val_visual_accuracy", "gap_absolute_mean")
        result |= {name: last[name] for name in columns}
        # The ledger's own P(balanced): after a control, as the loss saw it; and the mean of the run's last refit.
        imbalanced = 1 - pq.read_table(folder / "ledger.parquet")["balanced"].to_numpy()
        known = not np.isnan(imbalanced).any()
        result["auroc"] = float(roc_auc_score(planted != "clean", imbalanced)) if known else None
        if job.tested:
            result |= {name: value for name, value in test(folder, store).items() if name.endswith("accuracy")}
    result["seconds"] = round(time.perf_counter() - started, 1)
    partial = job.kept.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.replace(job.kept)
    shutil.rmtree(folder, ignore_errors=True)
    return result


class Bench:
    """The runs of one output folder and data set."""

    def __init__(self, out: Path, manifest: Path, store: Path, jobs: int, quick: bool = False) -> None:
        self.out, self.manifest, self.store, self.quick = out, manifest, store, quick
        (out / "runs").mkdir(parents=True, exist_ok=True)
        # Read by the libraries when they are loaded: in the workers, which start afresh.
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
        # Processes start when there is work, and stay: starting one costs seconds.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent)
        self.trained = 0

    def job(self, arm: Arm, point: Config, seed: int, *, tested: bool = False, trial: int = -1) -> Job:
        """The run of an arm at a point of its method's space."""
        config = FIXED | METHODS[arm.method] | point | dict(arm.changes)
        if self.quick:
            config |= QUICK | ({"purify.epochs": 2} if arm.method == "purification" else {})
        truth = arm.variant == "truth"
        return Job(arm.name, seed, config, self.store, self.manifest, self.out, truth, tested, trial)

    def results(self, jobs: Iterable[Job]) -> list[Result]:
        """Of all jobs, in order; those that are kept are not run again."""
        jobs = list(jobs)
        missing = {job.key(): job for job in jobs if not job.kept.exists()}
        try:
            futures = [self.pool.submit(run, job) for job in missing.values()]
            for done, future in enumerate(as_completed(futures), 1):
                self.trained += 1
                print(_line(future.result(), done, len(futures)), flush=True)
        except BaseException:
            self.pool.shutdown(wait=False, cancel_futures=True)  # else the exit would wait for all that is queued
            raise
        return [json.loads(job.kept.read_text()) for job in jobs]

    def choose(
        self, methods: list[str], inherited: Config, trials: int, seeds: int, finalists: int, finalist_seeds: int
    ) -> dict[str, tuple[Config, list[Result]]]:
        """The point of each method with the highest mean validation accuracy, and all runs it was chosen from."""
        points = {m: [({} if m == "joint" else inherited) | draw_point(m, i) for i in range(trials)] for m in methods}
        scores: dict[tuple[str, int], list[float]] = {}
        rows: dict[str, list[Result]] = {m: [] for m in methods}

        def train_points(wanted: list[tuple[str, int]], numbers: range) -> None:
            pairs = [(m, i, seed) for m, i in wanted for seed in numbers]
            jobs = [self.job(Arm(m), points[m][i], seed, trial=i) for m, i, seed in pairs]
            for (m, i, _), result in zip(pairs, self.results(jobs), strict=True):
                scores.setdefault((m, i), []).append(result["val_accuracy"])
                rows[m].append(result | {"arm": m, "trial": i})

        def ranked(m: str, among: Iterable[int]) -> list[int]:
            return sorted(among, key=lambda i: (-float(np.mean(scores[m, i])), i))

        train_points([(m, i) for m in methods for i in range(trials)], range(seeds))
        best = {m: ranked(m, range(trials))[:finalists] for m in methods}
        train_points([(m, i) for m in methods for i in best[m]], range(seeds, seeds + finalist_seeds))
        return {m: (points[m][ranked(m, best[m])[0]], rows[m]) for m in methods}


def _end_with_parent() -> None:
    """Keeps a worker from going on, beside its successor, when the benchmark was killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def draw_point(method: str, number: int) -> Config:
    """A point of the method's space: number 0 its defaults, the others random."""
    if number == 0:
        return {}
    draw = generator(number, f"digits-space-{method}")
    point = {path: _draw(entry, draw) for path, entry in SPACES[method].items()}
    if "loss.unimodal_weight" in point:  # the baseline is the same loss from the first epoch to the last
        point["warmup.unimodal_weight"] = point["loss.unimodal_weight"]
    return point


def _draw(entry: list | tuple[float, float], draw: np.random.Generator) -> Any:
    if isinstance(entry, list):
        return entry[draw.integers(len(entry))]
    return float(f"{np.exp(draw.uniform(*np.log(entry))):.3g}")


def _line(result: Result, done: int, total: int) -> str:
    value = f"test {result['test_accuracy']:.3f}" if "test_accuracy" in result else f"val {result['val_accuracy']:.3f}"
    trial = f" trial {result['trial']}" if result["trial"] >= 0 else ""
    return f"[{done}/{total}] {result['arm']}{trial} seed {result['seed']}: {value} ({result['seconds']} s)"


def _percent(values: list[float], plus: bool = False) -> str:
    interval = Interval.of([100 * value for value in values])
    return f"{interval.mean:{'+' if plus else ''}.2f} ± {interval.half_width:.2f}"


def _paired(arm: list[float], other: list[float]) -> tuple[str, str, str]:
    """Mean difference with its 95 % interval, wins (a tie counts for neither), p of the paired t-test."""
    differences = np.subtract(arm, other)
    wins = f"{(differences > 0).sum()} of {len(differences)}"
    same = np.allclose(differences, differences[0])
    p = "" if same else f"{stats.ttest_1samp(differences, 0).pvalue:.3f}".replace("0.000", "<0.001")
    return _percent(list(differences), plus=True), wins, p


def report(results: Mapping[str, list[Result]]) -> str:
    """The Markdown tables: every arm against the baseline, then every guided arm against its controls."""
    ended = {name: rows for name, rows in results.items() if rows and not any("failed" in row for row in rows)}
    column = {name: [row["test_accuracy"] for row in rows] for name, rows in ended.items()}
    lines = [
        "| arm | fused | audio | visual | mean abs. gap | AUROC | to unimodal_losses | wins | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in results.items():
        if name not in ended:
            lines.append(f"| {name} | diverged | | | | | | | |")
            continue
        accuracies = [_percent([r[f"test_{m}accuracy"] for r in rows]) for m in ("", "audio_", "visual_")]
        gap = f"{np.mean([row['gap_absolute_mean'] for row in rows]):.3f}"
        auroc = f"{np.mean([row['auroc'] for row in rows]):.3f}" if rows[0]["auroc"] is not None else ""
        paired = _paired(column[name], column[BASELINE]) if name != BASELINE and BASELINE in ended else ("", "", "")
        lines.append("| " + " | ".join((name, *accuracies, gap, auroc, *paired)) + " |")
    lines += ["", "| arm | to its control | difference | wins | p |", "|---|---|---|---|---|"]
    for arm in ARMS:
        if arm.variant and arm.variant != "truth" and arm.name in ended and arm.method in ended:
            paired = _paired(column[arm.method], column[arm.name])
            lines.append("| " + " | ".join((arm.method, arm.variant, *paired)) + " |")
    return "\n".join(lines) + "\n"


def write_csv(path: Path, results: Iterable[Result]) -> None:
    """One row a run, selection and test, with what made it."""
    names = ("arm", "trial", "seed", "val_accuracy", "test_accuracy", "test_audio_accuracy", "test_visual_accuracy")
    names += ("gap_absolute_mean", "auroc", "seconds", "failed", *FACTS)
    lines = [",".join(names)]
    for result in results:
        cells = [result.get(name) for name in names]
        lines.append(",".join("" if c is None else f"{c:.5g}" if isinstance(c, float) else f'"{c}"' for c in cells))
    path.write_text("\n".join(lines) + "\n")


@user_errors()
def main(
    fsdd: Annotated[Path, typer.Option(envvar="RAYGAP_FSDD", help="Folder of the Free Spoken Digit Dataset.")],
    out: Annotated[Path, typer.Option(help="Output folder; what is finished there is not run again.")] = Path(
        "runs/digits"
    ),
    methods: Annotated[str, typer.Option(help=f"Methods besides the baseline, of {', '.join(METHODS)}.")] = ",".join(
        DEFAULT_METHODS
    ),
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds of the test.")] = 8,
    first_seed: Annotated[int, typer.Option(min=1000, help="The first of them; those below serve selection.")] = 1000,
    trials: Annotated[int, typer.Option(min=1, help="Configurations a method.")] = 10,
    trial_seeds: Annotated[int, typer.Option(min=1, help="Seeds of each configuration.")] = 2,
    finalists: Annotated[int, typer.Option(min=1, help="Configurations that get further seeds.")] = 3,
    finalist_seeds: Annotated[int, typer.Option(min=0, help="Further seeds of each of these.")] = 3,
    chosen_from: Annotated[
        Path | None, typer.Option("--chosen", help="chosen.json of another run: test its configurations.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    spoiled_picture: Annotated[float, typer.Option(help="Share of training clips.")] = RECIPE.spoiled_picture,
    spoiled_sound: Annotated[float, typer.Option(help="Share of training clips.")] = RECIPE.spoiled_sound,
    mismatched: Annotated[float, typer.Option(help="Share of training clips.")] = RECIPE.mismatched,
    picture_noise: Annotated[float, typer.Option(help="Noise of all pictures.")] = RECIPE.picture_noise,
    sound_noise: Annotated[float, typer.Option(help="Noise of all sounds.")] = RECIPE.sound_noise,
    data_seed: Annotated[int, typer.Option(help="Another draw of pairs, splits and damage.")] = RECIPE.seed,
    quick: Annotated[bool, typer.Option(help="A minute or two on little data, to see that it works.")] = False,
) -> None:
    """Compare the methods on spoken and handwritten digits."""
    started = time.perf_counter()
    recipe = replace(
        RECIPE,
        spoiled_picture=spoiled_picture,
        spoiled_sound=spoiled_sound,
        mismatched=mismatched,
        picture_noise=picture_noise,
        sound_noise=sound_noise,
        seed=data_seed,
    )
    if quick:
        recipe = replace(recipe, train=20, val=10, test=10)
        out, seeds, trials, trial_seeds, finalists, finalist_seeds = out / "quick", 2, 2, 1, 1, 0
    named = hashlib.sha256(json.dumps(asdict(recipe)).encode()).hexdigest()[:12]
    manifest = write_data(fsdd, out / f"data-{named}", recipe)
    store = prepare(read_clips("manifest", manifest.parent), from_mapping(FIXED).prepare, out / "stores")
    bench = Bench(out, manifest, store, jobs, quick)

    budget = (trials, trial_seeds, finalists, finalist_seeds)
    wanted = [name for name in METHODS if name == BASELINE or name in methods.split(",")]
    if chosen_from:
        points = json.loads(chosen_from.read_text())
        if missing := [name for name in wanted if name not in points]:
            raise UserError(f"{chosen_from}: no configuration of {missing[0]}; leave it out of --methods")
        chosen = {name: (points[name], []) for name in wanted}
    else:
        own = [name for name in wanted if name in ("joint", BASELINE)]
        chosen = bench.choose(own, {}, *budget)
        inherited = {path: value for path, value in chosen[BASELINE][0].items() if path in INHERITED}
        chosen |= bench.choose([name for name in wanted if name not in own], inherited, *budget)
        (out / "chosen.json").write_text(json.dumps({name: point for name, (point, _) in chosen.items()}, indent=1))
    how = f"{trials} a method on {trial_seeds} seeds, the best {finalists} on {finalist_seeds} more, by validation"
    if chosen_from:
        how = f"those of {chosen_from}"
    for name in wanted:
        print(f"chosen for {name}: {json.dumps(chosen[name][0])}")

    results: dict[str, list[Result]] = {arm.name: [] for arm in ARMS if arm.method in wanted}
    arms = [arm for arm in ARMS if arm.method in wanted]
    # Seed by seed, so that a table of complete pairs is there after each.
    for seed in range(first_seed, first_seed + seeds):
        tests = bench.results([bench.job(arm, chosen[arm.method][0], seed, tested=True) for arm in arms])
        for arm, result in zip(arms, tests, strict=True):
            results[arm.name].append(result | {"arm": arm.name})
        (out / "digits.md").write_text(_page(recipe, how, chosen, results))
    bench.pool.shutdown()
    selection = [row for _, rows in chosen.values() for row in rows]
    write_csv(out / "digits.csv", [*selection, *(row for rows in results.values() for row in rows)])
    print((out / "digits.md").read_text())
    print(f"{bench.trained} runs trained in {(time.perf_counter() - started) / 60:.1f} min; {out / 'digits.md'}")


def _page(
    recipe: Recipe, how: str, chosen: dict[str, tuple[Config, list[Result]]], results: dict[str, list[Result]]
) -> str:
    seeds = [row["seed"] for row in results[BASELINE]]
    return "\n".join(
        [
            f"{made_line()}\n",
            f"Data: {recipe}.",
            f"Configurations: {how}. Test: {len(seeds)} fresh seeds from {seeds[0]}, the same for all arms. "
            "In percent, ± 95 % t-interval over the seeds; p of the paired t-test.",
            "",
            report(results),
            *(f"* {name}: `{json.dumps(point) if point else 'defaults'}`" for name, (point, _) in chosen.items()),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(typer.run(main))
