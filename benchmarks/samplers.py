"""Which sampler finds more with few trials? Optuna's, as raygap makes them, on surrogates of what curves.py recorded.

python benchmarks/samplers.py --out /tmp/samplers --results benchmarks/results/samplers.md

A surrogate of a set, a data set and a method, predicts the final validation accuracy of its recorded configurations
from the fields that were drawn, those on a logarithmic scale by their logarithm: a `forest` of extremely randomised
trees or a Gaussian `process`, whichever explains more (R2) of configurations that it was not fitted to (out of bag;
leave one out). A set is passed over where that is below 0.2.

A trial is told the surrogate's value plus noise as large as what the surrogate does not explain, which is no less than
what another seed changes. All samplers meet the same noise. Regret is how far, in points and without noise, what was
chosen (the best as told) lies below the surrogate's maximum: the mean over repetitions, and its 95 % bootstrap
interval. Differences to tpe are paired by repetition. Trial 0 has the defaults, as in a sweep, but where it says drawn;
no trial is stopped early. Of `gp`, which takes seconds a trial, there are a quarter of the repetitions, and none beyond
12 trials. What is finished is kept in OUT.
"""

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import typer
from curves import drawn, space_of
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from pages import write_page
from replay import CURVES
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from raygap.search.known import DEFAULTS, Known, as_trial
from raygap.search.plan import Sampler
from raygap.search.samplers import make_sampler
from raygap.search.space import SearchSpace, distribution
from raygap.search.study import suggest

LEAST_R2 = 0.2
POINTS = 5000
"""At random, among which a surrogate's maximum is looked for, beside what was chosen."""
TPE = "tpe"
SLOW, AFFORDED = ("gp",), 12
MakeSampler = Callable[[SearchSpace, int, int, int], BaseSampler]
"""From the space, a seed, the trials, and how many of them are known before."""


def as_raygap(name: Sampler, space: SearchSpace, seed: int, trials: int, known: int) -> BaseSampler:
    """What a sweep has."""
    return make_sampler(name, space, seed, trials, known, 0)


def tpe_behind(share: float, space: SearchSpace, seed: int, trials: int, known: int) -> BaseSampler:
    """raygap's tpe, but that a share of all trials, drawn at random, comes before its model."""
    begin = max(round(share * trials), known + 1)
    return TPESampler(n_startup_trials=begin, multivariate=True, group=True, seed=seed)


class EvenFirst(BaseSampler):
    """Tried: points that cover the space evenly, by a scrambled Sobol' sequence; then those of another sampler."""

    def __init__(self, space: SearchSpace, begin: int, then: BaseSampler, seed: int) -> None:
        """`then` begins once `begin` trials have ended, complete or stopped early."""
        self.space, self.begin, self.then = space.distributions(), begin, then
        self.even = QMCSampler(
            scramble=True, seed=seed, independent_sampler=RandomSampler(seed=seed), warn_independent_sampling=False
        )

    def _now(self, study: Study) -> BaseSampler:
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return self.even if len(ended) < self.begin else self.then

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As BaseSampler: all fields, also those that the trial will not be asked for."""
        return self.space if self._now(study) is self.even else self.then.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As BaseSampler."""
        return self._now(study).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As BaseSampler."""
        return self._now(study).sample_independent(study, trial, param_name, param_distribution)


def tpe_behind_even(share: float, space: SearchSpace, seed: int, trials: int, known: int) -> BaseSampler:
    """raygap's tpe, behind a share of all trials that are spread evenly."""
    begin = max(round(share * trials), known + 1)
    tpe = TPESampler(n_startup_trials=begin, multivariate=True, group=True, seed=seed)
    return EvenFirst(space, begin, tpe, seed)


SAMPLERS: dict[str, MakeSampler] = {
    TPE: partial(as_raygap, "tpe"),
    "gp": partial(as_raygap, "gp"),
    "cmaes": partial(as_raygap, "cmaes"),
    "qmc": partial(as_raygap, "qmc"),
    "random": partial(as_raygap, "random"),
    "tpe, half at random": partial(tpe_behind, 0.5),
    "tpe, half evenly": partial(tpe_behind_even, 0.5),
}


@dataclass(frozen=True)
class Surrogate:
    """Validation accuracy in points, by the searched fields."""

    name: str
    space: SearchSpace
    predict: Callable[[np.ndarray], np.ndarray]
    """Of (N, fields)."""
    r2: float
    noise: float
    """Standard deviation of what it does not explain, in points."""
    top: float
    """Its maximum, but for what a sampler finds."""


def features(space: SearchSpace, params: dict[str, Any]) -> np.ndarray:
    """Of a configuration: each range from 0 to 1, on the scale that it is drawn on; choices of numbers by their log."""
    values = []
    for path, entry in space.space.items():
        name, arguments = distribution(path, entry, path)
        log = "log" in name or name == "choice"
        low, high, value = (np.log(v) if log else v for v in (min(arguments), max(arguments), params[path]))
        values.append((value - low) / (high - low))
    return np.array(values)


def forest(given: np.ndarray, values: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """The prediction, and those of what was given, out of bag."""
    model = ExtraTreesRegressor(200, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=0)
    model.fit(given, values)
    trees = [tree.tree_ for tree in model.estimators_]  # by themselves ten times as fast for a single point
    return lambda points: np.mean([t.predict(points.astype(np.float32))[:, 0] for t in trees], 0), model.oob_prediction_


def process(given: np.ndarray, values: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """The prediction, and those of what was given, each left out in turn, in closed form."""
    widths = np.ones(given.shape[1])
    kernel = ConstantKernel() * Matern(widths, (0.1, 20.0), nu=2.5) + WhiteKernel(0.3, (0.01, 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a width at its bound: a field that does not matter
        model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
        model.fit(given, values)
    inverse = np.linalg.inv(model.kernel_(given))
    scaled = (values - values.mean()) / values.std()
    left_out = scaled - inverse @ scaled / np.diag(inverse)
    return model.predict, left_out * values.std() + values.mean()


SURROGATES = {"forest": forest, "process": process}


def read_sets(file: Path) -> dict[tuple[str, str], tuple[list[dict[str, Any]], np.ndarray]]:
    """By data set and method: the drawn fields, and the validation accuracy of the selected epoch, in points."""
    sets: dict[tuple[str, str], list[tuple[dict[str, Any], float]]] = {}
    for row in pq.read_table(
        file, columns=["data", "method", "config", "warmup", "failed", "val_accuracy"]
    ).to_pylist():
        if not row["failed"]:
            best = 100 * max(row["val_accuracy"][row["warmup"] :])
            sets.setdefault((row["data"], row["method"]), []).append((json.loads(row["config"]), best))
    return {name: ([config for config, _ in some], np.array([best for _, best in some])) for name, some in sets.items()}


def make_surrogate(kind: str, data: str, method: str, configs: list[dict[str, Any]], values: np.ndarray) -> Surrogate:
    """Fitted to configurations and their values."""
    space = space_of(data, method)
    predict, left_out = SURROGATES[kind](np.stack([features(space, config) for config in configs]), values)
    rest = values - left_out
    points = np.stack([features(space, drawn(space, data, method, number)) for number in range(POINTS)])
    r2 = 1 - float((rest**2).mean() / values.var())
    return Surrogate(f"{data}, {method}, {kind}", space, predict, r2, float(rest.std()), float(predict(points).max()))


def search(make: MakeSampler, surrogate: Surrogate, trials: int, seed: int, defaults: bool) -> float:
    """What the surrogate says, without noise, of the trial that is best with it."""
    space, distributions = surrogate.space, surrogate.space.distributions()
    study = optuna.create_study(direction="maximize", sampler=make(space, seed, trials, int(defaults)))
    if defaults:
        study.enqueue_trial(as_trial(Known(DEFAULTS, {}), space, seed).params)
    noise = np.random.default_rng(seed).normal(0, surrogate.noise, trials)
    told, true = [], []
    for number in range(trials):
        trial = study.ask()
        params = space.ask(lambda path, trial=trial: suggest(trial, path, distributions[path]))
        true.append(float(surrogate.predict(features(space, params)[None])[0]))
        told.append(true[-1] + noise[number])
        study.tell(trial, told[-1])
    return true[int(np.argmax(told))]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean, and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    return float(values.mean()), *np.percentile(draws, [2.5, 97.5])


def beyond(values: np.ndarray) -> str:
    """The sign of a mean that is not 0 by its interval."""
    _, low, high = interval(values)
    return "worse" if low > 0 else "better" if high < 0 else ""


Regrets = dict[tuple[str, int, bool, str], np.ndarray]
"""By surrogate, trials, whether the defaults come first, and sampler; of each repetition."""


def overall(regrets: Regrets, samplers: list[str], budgets: list[int]) -> list[str]:
    """Markdown: means over the surrogates."""
    lines = ["| trials | trial 0 | sampler | regret | to tpe | better on | worse on |", "|---|---|---|---|---|---|---|"]
    for budget, defaults, name in product(budgets, (True, False), samplers):
        sets = [key[0] for key in regrets if key[1:] == (budget, defaults, name)]
        if not sets:
            continue
        of = {s: regrets[s, budget, defaults, name] for s in sets}
        to_tpe = {s: of[s] - regrets[s, budget, defaults, TPE][: len(of[s])] for s in sets}
        verdicts = [beyond(difference) for difference in to_tpe.values()]
        mean, low, high = interval(np.mean(list(of.values()), 0))
        cells = [str(budget), "defaults" if defaults else "drawn", name, f"{mean:.2f} [{low:.2f}, {high:.2f}]"]
        if name == TPE:
            cells += ["", "", ""]
        else:
            mean, low, high = interval(np.mean(list(to_tpe.values()), 0))
            counts = [f"{verdicts.count(verdict)} of {len(sets)}" for verdict in ("better", "worse")]
            cells += [f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", *counts]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_set(regrets: Regrets, samplers: list[str]) -> list[str]:
    """Markdown: a row a surrogate and budget, with the defaults first; says what differs from tpe by its interval."""
    lines = [f"| surrogate | trials | {' | '.join(samplers)} |", "|---|---|" + "---|" * len(samplers)]
    for made, budget in dict.fromkeys(key[:2] for key in regrets):
        cells = [made, str(budget)]
        for name in samplers:
            of = regrets.get((made, budget, True, name), np.array([]))
            verdict = beyond(of - regrets[made, budget, True, TPE][: len(of)]) if len(of) and name != TPE else ""
            cells.append(f"{of.mean():.2f} {verdict}".strip() if len(of) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(
    out: Annotated[Path, typer.Option(help="Folder for what is finished.")],
    curves: Annotated[Path, typer.Option(help="What curves.py has recorded.")] = CURVES,
    trials: Annotated[list[int], typer.Option(min=4, help="Trials a search; may be repeated.")] = [12, 30],  # noqa: B006
    repetitions: Annotated[int, typer.Option(min=8, help="Searches of each kind.")] = 32,
    sampler: Annotated[list[str], typer.Option(help="Names of SAMPLERS; may be repeated.")] = list(SAMPLERS),  # noqa: B006
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Search, and print what each sampler misses."""
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    lines = [f"`python benchmarks/samplers.py --repetitions {repetitions}`\n"]
    surrogates = []
    for (data, method), (configs, values) in read_sets(curves).items():
        both = [make_surrogate(kind, data, method, configs, values) for kind in SURROGATES]
        made = max(both, key=lambda one: one.r2)
        said = f"* {made.name}: {len(values)} configurations, R2 {made.r2:.2f}, noise {made.noise:.1f} points"
        lines.append(said + ("" if made.r2 >= LEAST_R2 else "; passed over"))
        surrogates += [made] if made.r2 >= LEAST_R2 else []
    print("\n".join(lines), flush=True)
    found: Regrets = {}
    for made, budget, defaults, name in product(surrogates, trials, (True, False), sampler):
        if (name in SLOW and budget > AFFORDED) or (not defaults and budget > min(trials)):
            continue
        times = -(-repetitions // 4) if name in SLOW else repetitions
        kept = out / f"{made.name}, {made.r2:.6f}, {budget}, {defaults}, {name}, {times}.json"
        if not kept.exists():
            chosen = [search(SAMPLERS[name], made, budget, seed, defaults) for seed in range(times)]
            kept.write_text(json.dumps(chosen))
        found[made.name, budget, defaults, name] = np.array(json.loads(kept.read_text()))
        print(f"{made.name}: {budget} trials, {name}", file=sys.stderr, flush=True)
    tops = {made.name: max(made.top, *(v.max() for k, v in found.items() if k[0] == made.name)) for made in surrogates}
    regrets = {key: tops[key[0]] - values for key, values in found.items()}
    lines += ["", *overall(regrets, sampler, trials), "", "## By set\n", *by_set(regrets, sampler)]
    print("\n".join(lines))
    write_page(results, "Samplers, on surrogates of recorded curves", lines)


if __name__ == "__main__":
    typer.run(main)
