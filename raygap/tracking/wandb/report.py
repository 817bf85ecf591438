"""The report of a sweep at W&B: what the run folder says, and panels over the sweep's runs there."""

import re
import shlex
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import yaml
from optuna.trial import TrialState
from wandb_workspaces import expr

from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping
from raygap.tracking.comparison_table import markdown
from raygap.tracking.objectives import OBJECTIVE, VALUES, front
from raygap.tracking.report.run import Absent, Run
from raygap.tracking.run_folder import fields_of, rank
from raygap.tracking.wandb.layout import TEST, TRIAL, VALUE, Note, chart, read_note, write_note
from raygap.tracking.wandb.queries import Place, answers, connect, load_report

COMPARED = 5
"""Best trials whose fields and learning curves are compared."""
LONGEST_TITLE = 128


def publish(folder: Path) -> str:
    """Write a sweep's report at W&B, over the one that was published before if it is still there; returns its URL.

    Raises UserError if no trial is complete, the sweep is not at W&B, or W&B cannot be reached or written to.
    """
    run, note = Run(folder), read_note(folder)
    if note is None:
        raise UserError(f"{folder}: was not logged to W&B; a sweep is, unless --wandb or WANDB_MODE says disabled")
    try:
        run.best  # noqa: B018
    except Absent as absent:
        raise UserError(f"{folder}: {absent}") from None
    api = connect(str(folder))
    with answers(str(folder)):
        note.entity = note.entity or api.default_entity
        project = f"{note.entity}/{note.project}"
        there = [found.url for found in _runs(api, project, {"group": note.group, "jobType": TRIAL})]
        if not there:
            send = f"wandb sync --include-online {shlex.quote(str(folder))}/wandb/*run-*"
            raise UserError(f"{folder}: none of its trials is at W&B in {project}; send them first: {send}")
        report = _published(note) or wr.Report(project=note.project, entity=note.entity)  # type: ignore[call-arg]  # others have defaults
        report.title = f"{run.config['method']} on {run.plan['dataset']}: {note.group}"[:LONGEST_TITLE]
        report.width = "fluid"
        report.blocks = _blocks(run, note)
        report.save()
    note.report = report.id
    write_note(folder, note)
    # Report.url leaves out a part of the address.
    title = re.sub(r"\W+", "-", report.title)
    return f"{there[0].rpartition('/runs/')[0]}/reports/{title}--{report.id.rstrip('=')}"


def _runs(api: Any, project: str, filters: dict[str, str]) -> list[Any]:
    try:
        return list(api.runs(project, filters=filters))
    except ValueError:  # no such project
        return []


def _published(note: Note) -> wr.Report | None:
    try:
        place = Place(note.entity, note.project, report=note.report)
        return load_report(place, "") if note.report else None
    except UserError:  # somebody has deleted it
        return None


def _blocks(run: Run, note: Note) -> list[Any]:
    best = run.best
    ranked = sorted(run.of_state(TrialState.COMPLETE), key=rank(run.study), reverse=True)
    names = [trial.number for trial in ranked[:COMPARED]]
    trials = _runset(note, "trials", [expr.Metric("Group") == note.group, expr.Metric("JobType") == TRIAL])
    compared = _runset(note, f"best {len(names)}", [expr.Metric("ID").isin([note.run_id(n) for n in names])])
    winner = _runset(note, "best", [expr.Metric("ID").isin([note.run_id(best.number)])])
    tested = _runset(note, "test", [expr.Metric("ID").isin([note.run_id(best.number, TEST)])])
    # As it would be read today, with every field.
    config = to_mapping(from_mapping(run.config, str(run.files / "config.yaml")))
    space = run.plan["space"].items()
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(path), log=_log(entry)) for path, entry in space]
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(VALUE)))
    return [
        wr.MarkdownBlock(_outcome(run)),
        wr.H2("Best configuration"),
        wr.P(f"Trial {best.number}. `raygap best` reads it back, given the address of this report."),
        wr.CodeBlock(yaml.safe_dump(config, sort_keys=False), language="yaml"),
        wr.H2("Test split, chosen configuration, fresh seeds"),
        wr.MarkdownBlock(_test(run)),
        wr.H2("What was searched"),
        wr.MarkdownBlock(_searched(run)),
        wr.PanelGrid(
            runsets=[trials],
            panels=[
                wr.ParallelCoordinatesPlot(columns=columns, layout=wr.Layout(0, 0, 24, 10)),
                wr.ParameterImportancePlot(with_respect_to=VALUE, layout=wr.Layout(0, 10, 12, 9)),
                _lines("Trials", [VALUE], wr.Layout(12, 10, 12, 9)),
            ],
        ),
        wr.H2("Best trials compared"),
        wr.PanelGrid(runsets=[compared], panels=[wr.RunComparer(diff_only="split", layout=wr.Layout(0, 0, 24, 14))]),
        *_front(run, trials),
        wr.H2("Learning curves"),
        wr.PanelGrid(
            runsets=[compared],
            panels=[
                _lines("Fused accuracy", ["val_accuracy"], wr.Layout(0, 0, 8, 8)),
                _lines("Audio alone", ["val_audio_accuracy"], wr.Layout(8, 0, 8, 8)),
                _lines("Visual alone", ["val_visual_accuracy"], wr.Layout(16, 0, 8, 8)),
                _lines("Training loss", ["train_loss"], wr.Layout(0, 8, 8, 8)),
                _lines("Mean absolute gap", ["gap_absolute_mean"], wr.Layout(8, 8, 8, 8)),
                _lines("Share of imbalanced clips", ["imbalanced_share"], wr.Layout(16, 8, 8, 8)),
            ],
        ),
        wr.H2("Modality gap of the training clips, best trial"),
        wr.P("A smaller gap is not a better network: it shrinks too when the stronger modality is spoiled."),
        wr.PanelGrid(
            runsets=[winner, tested],
            panels=[
                _lines("Quantiles", [f"gap_q{q}" for q in ("05", "25", "50", "75", "95")], wr.Layout(0, 0, 10, 10)),
                wr.MediaBrowser(media_keys=["figures/gap"], num_columns=1, layout=wr.Layout(10, 0, 14, 10)),
            ],
        ),
    ]


def _front(run: Run, trials: wr.Runset) -> list[Any]:
    """Where trials are judged on several metrics: those that no other equals in all and exceeds in one."""
    if len(run.objectives) == 1:
        return []
    kept = front(run.of_state(TrialState.COMPLETE), run.objectives)
    values = [[f"{trial.user_attrs[VALUES][one.name]:.4f}" for one in run.objectives] for trial in kept]
    rows = [[str(trial.number), *cells] for trial, cells in zip(kept, values, strict=True)]
    x, y = (wr.SummaryMetric(f"{OBJECTIVE}_{one.name}") for one in run.objectives[:2])
    return [
        wr.H2("Pareto front"),
        wr.MarkdownBlock(markdown([["trial", *(one.words for one in run.objectives)], *rows])),
        wr.PanelGrid(runsets=[trials], panels=[wr.ScatterPlot(x=x, y=y, layout=wr.Layout(0, 0, 24, 10))]),
    ]


def _runset(note: Note, name: str, filters: list[Any]) -> wr.Runset:
    best_first = [wr.OrderBy(wr.SummaryMetric(VALUE), ascending=False)]
    return wr.Runset(entity=note.entity, project=note.project, name=name, filters=filters, order=best_first)


def _lines(title: str, metrics: list[str], layout: wr.Layout) -> wr.LinePlot:
    return wr.LinePlot(title=title, x="Step", y=[chart(metric) for metric in metrics], title_x="epoch", layout=layout)


def _log(entry: dict[str, list]) -> bool:
    return next(iter(entry)).startswith(("log", "qlog"))


def _outcome(run: Run) -> str:
    states = [trial.state for trial in run.trials]
    counts = {"complete": TrialState.COMPLETE, "stopped early": TrialState.PRUNED, "failed": TrialState.FAIL}
    ended = ", ".join(f"{states.count(state)} {name}" for name, state in counts.items())
    lines = [
        f"**{run.config['method']}** on **{run.plan['dataset']}**: {run.plan['trials']} trials planned, {ended}.",
        f"Best {run.judged_on}: **{run.best.value:.4f}**, trial {run.best.number}. It was chosen by this number, which "
        "flatters it; the test split below is the number to quote.",
    ]
    if run.plan["fixed"].get("protocol") == "paper":
        lines[1] = (
            f"**PAPER PROTOCOL**: {run.judged_on} {run.best.value:.4f}, trial {run.best.number}; trained on train and "
            "validation, chosen on TEST. The number flatters; it compares with tables made that way, and nothing else."
        )
    return "\n\n".join(lines)


def _test(run: Run) -> str:
    try:
        header, *rows = run.test.table()
    except Absent as absent:
        return str(absent)
    rows = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    failed = [f"Seed {seed} failed: {why}" for seed, why in run.test.failed.items()]
    compared = [f"**{run.worth.sentence}** {run.worth.advice}\n", markdown(run.worth.table())]
    parts = [f"{run.test.title}.\n", markdown([header, *rows]), *failed]
    return "\n".join([*(compared if run.worth.references else []), *parts])


def _searched(run: Run) -> str:
    rows = [["field", "searched", "best"]]
    for path, entry in run.plan["space"].items():
        name, arguments = next(iter(entry.items()))
        value = fields_of(run.best).get(path)
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        shown = shown if path in run.acting(run.best) else "cannot act"
        rows.append([f"`{path}`", f"{name} {arguments}", shown])
    for path, value in fields_of(run.best).items():
        if path not in run.plan["space"]:
            rows.append([f"`{path}`", "set by this trial", str(value)])
    fixed = ", ".join(f"`{path}` = {value}" for path, value in run.plan["fixed"].items())
    return f"{markdown(rows)}\nHeld fixed: {fixed}. Every other field has its default."
