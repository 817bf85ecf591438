"""The page's sections: from a run to blocks."""

import math
import shlex
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from raygap.called import command
from raygap.data.clips import ReaderOptions
from raygap.data.inspection import thumbnails
from raygap.imbalance.gap import GapScore, score_range
from raygap.imbalance.mixture import GapMixture
from raygap.imbalance.spoiled import KINDS
from raygap.provenance import in_words
from raygap.tracking.figures import GapCheck, GapHistogram, check_gaps, gap_values
from raygap.tracking.objectives import VALUES, front
from raygap.tracking.report import plots
from raygap.tracking.report.blocks import (
    Blocks,
    Clip,
    Clips,
    Listing,
    Note,
    Row,
    Setting,
    Settings,
    Share,
    Shares,
    Table,
    Tile,
    Tiles,
    chart,
    sorry,
)
from raygap.tracking.report.run import Absent, Run
from raygap.tracking.run_folder import BEST, JOURNAL, KNOWN, SPOILED, TRIALS, fields_of, read_ensemble
from raygap.tracking.spoiled import Suspects

LONGEST_SIDE = 160
"""Pixels of a thumbnail."""
CLIPS_A_KIND = 6
MOST_LISTED = 200
"""Rows of quarantined clips; the rest is in the store's quarantined.csv."""
EDGE = 0.03
"""A value this near to an end of its range, as a share of the range, lies at its edge."""
FEW_TRIALS = 30


def outcome(run: Run) -> Blocks:
    """The numbers that a user came for, and the configuration they belong to."""
    tiles = {
        "Test accuracy": _test_tile,
        _judged_on(run): _value_tile,
        "Trials": _trials_tile,
        "Epochs not trained": _epochs_tile,
    }
    blocks: Blocks = [*_worth(run), Tiles([_tile(title, run, make) for title, make in tiles.items()])]
    if run.comparison:
        rows = [[cell.replace(" ± ", "\u00a0±\u00a0") for cell in row] for row in run.comparison]  # of one line
        blocks += [Note("Against other methods, at equal budget:"), Table(rows)]
    try:
        best = run.best
    except Absent as absent:
        return [*blocks, Note(str(absent), "doubt")]
    with suppress(Exception):  # without its store or with a damaged plan the choice still stands
        blocks += [Note(run.choice)] if run.choice else []
    blocks.append(Settings([_setting(name, best) for name in run.acting(best)]))
    try:
        blocks.append(Listing((run.folder / BEST).read_text(encoding="utf-8"), f"Every field ({BEST})"))
    except OSError:
        blocks.append(Note(f"{BEST} is not written yet: a sweep does so at its end."))
    return blocks


def _worth(run: Run) -> Blocks:
    """What the search was worth, in words, before any number; in a comparison its table says so."""
    try:
        worth = run.worth
    except Exception:  # the section on the test says why
        return []
    if run.comparison:
        return []
    if not worth.references:
        return [Note("Nothing was compared with it: whether this method beats a baseline is not known from here.")]
    tone = "bad" if worth.lost else "good" if worth.beaten else "doubt"
    return [Note(worth.sentence, tone), *([Note(worth.advice, "bad")] if worth.advice else [])]


def _tile(title: str, run: Run, make: Callable[[Run], tuple[str, str]]) -> Tile:
    try:
        return Tile(title, *make(run))
    except Exception as error:
        return Tile(title, "–", sorry(error).text)


def _test_tile(run: Run) -> tuple[str, str]:
    results = run.test
    if not results.rows:
        return "–", "Every seed has failed."
    interval = results.interval("test_accuracy")
    chosen = f", {results.doubt}" if results.doubt else ""
    if len(results.rows) == 1:
        return _percent(interval.mean), f"one fresh seed: no interval{chosen}"
    value = f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f} %"
    return value, f"mean of {len(results.rows)} fresh seeds, 95 % interval{chosen}"


def _value_tile(run: Run) -> tuple[str, str]:
    value = run.best.value
    shown = _percent(value) if _is_share(run) else f"{value:.4g}"
    return shown, f"trial {run.best.number}, chosen by it: it flatters the configuration"


def _trials_tile(run: Run) -> tuple[str, str]:
    states = [trial.state for trial in run.trials]
    counts = [
        (TrialState.COMPLETE, "complete"),
        (TrialState.PRUNED, "stopped early"),
        (TrialState.FAIL, "failed"),
        (TrialState.RUNNING, "running or interrupted"),
    ]
    parts = [f"{states.count(state)} {name}" for state, name in counts if state in states]
    return f"{sum(state.is_finished() for state in states)} of {run.plan['trials']}", ", ".join(parts)


def _epochs_tile(run: Run) -> tuple[str, str]:
    epochs = _epochs(run)
    spared, whole = epochs["reused"] + epochs["saved"], sum(epochs.values())
    if not whole:
        return "–", "No trial has ended yet."
    about = f"{spared:,} of {whole:,}: shared warm-up {epochs['reused']:,}, early stopping {epochs['saved']:,}"
    return f"{100 * spared / whole:.0f} %", about


def _epochs(run: Run) -> dict[str, int]:
    """Of the trials that ended: epochs trained, reused, saved by early stopping, and not reached by failed trials."""
    counts = {"trained": 0, "reused": 0, "saved": 0, "lost": 0}
    for trial in run.trials:
        if not trial.state.is_finished():
            continue
        epochs, reused = (trial.user_attrs.get(name, 0) for name in ("epochs", "epochs_reused"))
        counts["trained"] += epochs - reused
        counts["reused"] += reused
        if trial.state != TrialState.COMPLETE:
            counts["saved" if trial.state == TrialState.PRUNED else "lost"] += max(run.epochs - epochs, 0)
    return counts


def _setting(name: str, best: FrozenTrial) -> Setting:
    if name not in best.params:
        return Setting(name, plots.number(fields_of(best)[name]), "", "", None, [], False)
    value, distribution = best.params[name], best.distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        return Setting(name, str(value), "", "", None, [str(choice) for choice in distribution.choices], False)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    position = _position(value, distribution)
    # A whole number has few values, of which two are always at the ends.
    at_edge = isinstance(value, float) and not EDGE <= position <= 1 - EDGE
    return Setting(name, plots.number(value), plots.number(low), plots.number(high), position, [], at_edge)


def _position(value: float, distribution: FloatDistribution | IntDistribution) -> float:
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return 0.5 if high == low else (value - low) / (high - low)


def test(run: Run) -> Blocks:
    """The chosen configuration over fresh seeds."""
    results = run.test
    if not results.rows:
        raise Absent("Every seed has failed; the reasons are below.")
    rows = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in results.table()]
    doubt = [Note(f"{results.title}.", "doubt")] if results.doubt else []
    worth = run.worth
    compared: Blocks = []
    if worth.references:
        compared = [
            Note("Beside its references, on the same seeds, in percent; differences are paired by seed, ± 95 %."),
            chart(lambda: plots.ahead({name: worth.ahead_of(name) for name in worth.references})),
            Table(worth.table()),
            *(Note(line) for line in worth.lines()),
        ]
    together = [Note(line) for line in read_ensemble(run.folder).get("about", [])]
    return [
        *doubt,
        *compared,
        *together,
        chart(lambda: plots.seeds(results)),
        Table(rows, summary=len(rows) - 1 - len(results.rows)),
    ]


def search(run: Run) -> Blocks:
    """Which configurations were tried, and what mattered."""
    best, study = run.best, run.study
    complete = len(run.searched.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    doubt = " With so few, expect another order from another sweep." if complete < FEW_TRIALS else ""
    blocks: Blocks = [
        chart(
            lambda: plots.history(run.trials, best, run.judged_on, run.objectives[0].lower),
            "Value of each trial; point at one to read it.",
        ),
        *_front(run),
    ]
    if complete < 2:
        return [*blocks, Note("What mattered can be said from two complete trials on.")]
    often = run.acting_often
    always = [name for name, count in often.items() if count == complete]
    ever = [name for name, count in often.items() if count]
    if len(ever) > 1:
        blocks += [
            chart(
                lambda: plots.importances(run.searched, always),
                f"How much each field matters for a high value, from {complete} complete trials (PED-ANOVA).{doubt}",
            ),
            *(
                Note(f"{name} could act in {count} of {complete} complete trials alone, and so has no importance.")
                for name, count in often.items()
                if count < complete
            ),
            chart(
                lambda: plots.parallel(study, ever),
                "Complete trials across all fields, from the worst (grey) over blue to the best (orange).",
                scroll=130 * (1 + len(ever)),
            ),
        ]
    slices = plots.slices(study, best, [name for name in run.acting(best) if name in best.params])
    pictures = [[chart(lambda figure=figure: figure)] for figure in slices]  # type: ignore[misc]  # bound by a default
    return [
        *blocks,
        Row(pictures),
        Note("Complete trials by each field; the star is the best."),
    ]


def early_stopping(run: Run) -> Blocks:
    """What stopping and sharing saved."""
    epochs, trials = _epochs(run), run.trials
    names = [
        ("trained", "trained", "trained"),
        ("reused", "taken from a shared warm-up", "reused"),
        ("saved", "saved by early stopping", "saved"),
        ("lost", "not reached by failed trials", "lost"),
    ]
    blocks: Blocks = []
    if sum(epochs.values()):
        parts = [Share(name, epochs[key], look) for key, name, look in names if epochs[key]]
        blocks.append(Shares(f"{sum(epochs.values()):,} epochs", parts))
    try:
        best = run.best
    except Absent:
        best = None
    caption = (
        "A line a trial: each epoch's own value during warm-up, then the best so far. The dot is where it was stopped, "
        "which is never before it has left its warm-up."
    )
    return [*blocks, chart(lambda: plots.trial_curves(trials, best, run.judged_on), caption)]


def best_trial(run: Run) -> Blocks:
    """How the best trial learnt."""
    caption = (
        f"{_judged_on(run)} of the fused answer and of each modality alone, by stage; the dotted line marks the "
        "selected epoch. Below, the mean gap of the training clips: a smaller gap is not a better network."
    )
    return [chart(lambda: plots.learning_curves(run.metrics), caption)]


def gap(run: Run, checks: dict[str, GapCheck] | None) -> Blocks:
    """How the gaps are distributed, and whether they are two groups at all. `checks`: if they were made before."""
    score, seed = run.config["gap.score"], run.config["seed"]
    if not (run.files / "ledger.parquet").exists():
        raise Absent(f"{(run.files / 'ledger.parquet').relative_to(run.folder)} is missing.")
    moments = {moment: values for moment, values in gap_values(run.files, score).items() if len(values)}
    if not moments:
        raise Absent("No clip has been seen yet.")
    checks = checks or check_gaps(moments, score, seed)
    columns = []
    for moment, values in moments.items():
        check, histogram = checks[moment], GapHistogram.of(values, seed)
        verdict = Note(check.sentence, "good" if check.two_groups else "doubt")
        picture = chart(partial(plots.gap_histogram, histogram, score))
        columns.append([Note(f"{len(values)} training clips {moment}"), picture, verdict])
    blocks: Blocks = [Row(columns)]
    caption = "The gaps at each refit, at the start of an epoch, with the mixture if the method fits it to them."
    return [*blocks, chart(lambda: plots.gap_refits(_refits(run, score), score), caption)]


def _refits(run: Run, score: GapScore) -> dict[int, GapHistogram]:
    """By epoch, what the mixture was fitted to and the fit."""
    metrics, refits = run.metrics, {}
    for i, counts in enumerate(metrics.get("gap_counts", [])):
        if counts is None:
            continue
        mixture = None
        mean, other, variance, other_variance, weight = (
            metrics.get(f"mixture_{name}", {i: None})[i]
            for name in (
                "mean_balanced",
                "mean_imbalanced",
                "variance_balanced",
                "variance_imbalanced",
                "weight_imbalanced",
            )
        )
        if weight is not None:
            mixture = GapMixture((mean, other), (variance, other_variance), (1 - weight, weight))
        edges = np.linspace(*score_range(score), len(counts) + 1)
        refits[metrics["epoch"][i]] = GapHistogram(edges, np.array(counts), mixture)
    if not refits:
        raise Absent("No mixture was fitted during training.")
    return refits


def clips(run: Run) -> Blocks:
    """The training clips that are most probably spoiled, by kind."""
    found = run.suspects
    blocks = spoiled(found, lambda name: thumbnails(run.store, run.store.clip_ids.index(name), LONGEST_SIDE))
    try:
        run.store  # noqa: B018
    except Exception as error:
        blocks.append(sorry(error))
    command = f"--exclude {shlex.quote(str(run.folder / SPOILED))}"
    return [*blocks, Note(f"{SPOILED} lists them all: mend them, or train without them by {command}.")]


def spoiled(found: Suspects, pictures: Callable[[str], tuple[str, str]]) -> Blocks:
    """The likeliest clips of each kind; `pictures` gives those of a clip, and may raise where there are none."""
    blocks: Blocks = [Note(text) for text in found.found.about]
    rows = {kind: found.found.listed(kind).tolist() for kind in KINDS}
    for kind, about in KINDS.items():
        if own := rows[kind]:
            title = f"{kind.capitalize()}: {len(own)} {'clips' if len(own) > 1 else 'clip'}, {about}"
            blocks.append(Clips(title, [_clip(found, row, pictures) for row in own[:CLIPS_A_KIND]]))
    if not any(rows.values()):
        return [*blocks, Note("No clip is probably spoiled.", "good")]
    score = f"Score: the probability that the modality alone gives the true class, {found.about}."
    return [*blocks, Note(f"{score} Those with the highest probability of being spoiled are shown.")]


def _clip(found: Suspects, row: int, pictures: Callable[[str], tuple[str, str]]) -> Clip:
    name = str(found.ids[row])
    frame = spectrogram = ""
    with suppress(Exception):  # said once for all clips
        frame, spectrogram = pictures(name)
    about = [f"P(spoiled) {found.found.any[row]:.2f}"]
    if found.others:
        about.append(f"sounds like {found.other('audio', row)}, looks like {found.other('visual', row)}")
    scores = {modality: float(values[row]) for modality, values in found.scores.items()}
    return Clip(frame, spectrogram, name, str(found.labels[row]), scores, "; ".join(about))


def problems(run: Run) -> Blocks:
    """What failed or was left out, and why."""
    blocks: Blocks = []
    failed = [[trial.number, trial.user_attrs.get("error", "")] for trial in run.of_state(TrialState.FAIL)]
    if failed:
        blocks += [Note(f"{len(failed)} failed trials", "bad"), Table([["trial", "reason"], *failed])]
    try:
        seeds = [[seed, reason] for seed, reason in run.test.failed.items()]
    except Absent:
        seeds = []
    if seeds:
        blocks += [Note(f"{len(seeds)} failed seeds of the test", "bad"), Table([["seed", "reason"], *seeds])]
    try:
        header = run.store.header
        left_out, notes = header["quarantined"], header["notes"]
    except Exception as error:
        return [*blocks, sorry(error)]
    if left_out:
        rows = [[clip["id"], clip["reason"]] for clip in left_out[:MOST_LISTED]]
        whole = f"; {MOST_LISTED} of them are shown" if len(left_out) > MOST_LISTED else ""
        text = f"{len(left_out)} clips could not be used and were left out{whole}"
        blocks += [Note(text, "doubt"), Table([["clip", "reason"], *rows])]
    blocks += [Note(note) for note in notes]
    return blocks or [Note("Nothing failed, and no clip was left out.", "good")]


def trials(run: Run) -> Blocks:
    """A row a trial."""
    names = list(dict.fromkeys(name for trial in run.trials for name in fields_of(trial)))
    told = ["epochs", "seconds", *([KNOWN] if any(KNOWN in trial.user_attrs for trial in run.trials) else [])]
    rows = [
        [trial.number, _STATES[trial.state], plots.last_value(trial)]
        + [trial.user_attrs.get(name) for name in told]
        + [fields_of(trial).get(name) for name in names]
        for trial in run.trials
    ]
    header = ["trial", "state", run.judged_on, *told, *names]
    return [Table([header, *rows], sortable=True), Note(f"{TRIALS} has the same for a spreadsheet.")]


_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "not ended",
}


def again(run: Run) -> Blocks:
    """Commands that train the configuration again, or go on from here; and by what all this was made."""
    plan, folder = run.plan, run.folder
    given = ({"--root": plan["root"]} if plan["root"] else {}) | ReaderOptions(**plan["reader"]).given()
    source = shlex.join(word for item in given.items() for word in item if word)
    dataset = f"--dataset {shlex.quote(plan['dataset'])}"
    data = f"{dataset} {source}".strip()
    quoted = {name: shlex.quote(str(folder / name)) for name in (BEST, JOURNAL, "tune", "")}
    commands = {
        "go on with the search": f"{command('sweep')} {dataset} --out {quoted['']} --resume "
        f"--trials {2 * plan['trials']}",
        "look closer": f"optuna-dashboard {quoted[JOURNAL]}\ntensorboard --logdir {quoted['tune']}",
        "write this page again, also while the sweep is at work": command("report", str(folder)),
    }
    try:
        seed = run.config["seed"] + 1
        train = f"{command('train')} {data} --config {quoted[BEST]} --seeds 5 --set seed={seed}"
        commands = {"train and test the best configuration again, on five seeds": train} | commands
    except Absent:
        pass
    made = plan.get("made_by")
    return [
        Listing("\n\n".join(f"# {what}\n{command}" for what, command in commands.items())),
        *([Note(f"The sweep was begun by {in_words(made)}.")] if isinstance(made, dict) else []),
    ]


def _judged_on(run: Run) -> str:
    """At the start of a sentence."""
    return run.judged_on[0].upper() + run.judged_on[1:]


def _is_share(run: Run) -> bool:
    return not run.objectives[0].lower


def _front(run: Run) -> Blocks:
    """The trials among which only a preference can choose, where there are several objectives."""
    objectives, complete = run.objectives, run.of_state(TrialState.COMPLETE)
    if len(objectives) == 1 or not complete:
        return []
    kept = front(complete, objectives)
    rows = [[trial.number, *(trial.user_attrs[VALUES][one.name] for one in objectives)] for trial in kept]
    return [
        chart(lambda: plots.pareto(complete, kept, objectives), "Complete trials by the metrics they are judged on."),
        Table([["trial", *(one.words for one in objectives)], *rows]),
        Note("Of these no other is as good in every metric and better in one. The best trial is the first metric's."),
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
