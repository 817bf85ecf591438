"""launch/best.py as its users call it, on run folders; tests/tracking/wandb/test_wandb_sweep.py has W&B."""

import importlib
import json
import shutil
from pathlib import Path

import optuna
import pytest
import typer
import yaml
from click.testing import Result
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from stores import SMALL
from typer.testing import CliRunner

from raygap.schema import from_mapping, to_mapping
from raygap.search.journal import open_storage
from raygap.search.study import STUDY
from raygap.tracking.run_folder import BEST, COMPARISON, JOURNAL, PLAN, trial_folder
from raygap.training.run import write_table


def call(name: str, *arguments: object, given: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(importlib.import_module(f"raygap.commands.{name}").main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def refusal(*arguments: object) -> str:
    """The one line of a refused call."""
    result = call("best", *arguments)
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    return line


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder in the working directory: three complete trials and one, stopped early, with the highest value."""
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    folder.mkdir()
    study = optuna.create_study(storage=open_storage(folder / JOURNAL), study_name=STUDY, direction="maximize")
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    for number, (value, loss, state) in enumerate(zip((0.5, 0.75, 0.625, 1.0), (1, 3, 2, 0), states, strict=True)):
        focus = {"loss.focus": float(number)}
        space = {"loss.focus": FloatDistribution(0, 9)}
        study.add_trial(create_trial(value=value, state=state, params=focus, distributions=space))
        files = trial_folder(folder, number)
        files.mkdir(parents=True)
        (files / "config.yaml").write_text(yaml.safe_dump(to_mapping(from_mapping(SMALL | focus))))
        epochs = {"epoch": [1, 2, 3], "best_epoch": [1, 2, 2], "val_loss": [0.0, loss, 0.0], "val_accuracy": [0.0] * 3}
        write_table(files / "metrics.parquet", epochs)
    return folder


def test_the_best_complete_trial_is_printed_as_train_takes_it(run: Path) -> None:
    result = call("best", run)
    assert result.stdout.startswith("# trial 1, run: best_val_accuracy 0.7500\n")
    assert from_mapping(yaml.safe_load(result.stdout)).loss.focus == 1
    spoiled = result.stdout.replace("focus: 1.0", "focus: -1.0")
    refused = call("train", "--dataset", "demo", "--config", "-", given=spoiled)
    assert refused.stderr.startswith("error: -: loss.focus = -1.0")


def test_the_top_by_any_metric_of_the_selected_epoch(run: Path) -> None:
    documents = list(yaml.safe_load_all(call("best", run, "--top", 2).stdout))
    assert [from_mapping(document).loss.focus for document in documents] == [1, 2]
    entries = json.loads(call("best", run, "--top", 9, "--metric", "val_loss", "--json").stdout)
    assert [(entry["value"], entry["config"]["loss"]["focus"]) for entry in entries] == [(1, 0), (2, 2), (3, 1)]
    assert "no such column; it has val_accuracy, val_loss" in refusal(run, "--metric", "val_los")


def test_a_comparisons_folder_stands_for_all_its_methods_but_for_what_was_chosen_on_test(run: Path) -> None:
    for name, protocol in (
        ("gmm", "validation"),
        ("joint", "validation"),
        ("gmm-paper", "paper"),
        ("late", "validation"),
    ):
        folder = Path("compared") / name
        if name == "late":
            folder.mkdir()
        else:
            shutil.copytree(run, folder)
        (folder / PLAN).write_text(f"fixed: {{protocol: {protocol}}}")
    study = optuna.load_study(storage=open_storage(Path("compared/joint") / JOURNAL), study_name=STUDY)
    params, space = {"loss.focus": 0.5}, {"loss.focus": FloatDistribution(0, 9)}
    study.add_trial(create_trial(value=0.875, params=params, distributions=space))
    shutil.copytree(trial_folder(run, 0), trial_folder(Path("compared/joint"), 4))
    Path("compared", COMPARISON).touch()
    first, second, *_ = call("best", "compared").stdout.splitlines()
    assert first == "# chosen on VALIDATION, of gmm, joint, late; of one method alone: raygap best compared/gmm"
    assert second == "# trial 4, compared/joint: best_val_accuracy 0.8750"
    assert call("best", "compared/gmm").stdout.startswith("# trial 1, compared/gmm: ")
    assert json.loads(call("best", "compared", "--json").stdout)[0]["value"] == 0.875
    assert call("best", "compared", "--top", "9").stdout.count("---") == 7
    told = call("report", "compared").output
    assert "compared/joint/report.html" in told
    assert "compared/gmm/report.html" in told
    assert told.splitlines()[-1] == "compared/report.html"
    Path("compared", COMPARISON).unlink()  # then it is that of a sweep on several data sets
    assert "give the folder of one: compared/gmm, " in refusal("compared")


def test_a_broken_journal_is_named(run: Path) -> None:
    lines = (run / JOURNAL).read_text().splitlines(keepends=True)
    (run / JOURNAL).write_text("".join([*lines[:3], "?\n", *lines[3:]]))
    assert "study.journal is damaged; going on with the sweep, by --resume, mends it" in refusal(run)


def test_a_folder_with_the_best_configuration_alone_is_enough(run: Path) -> None:
    (run / BEST).write_text(call("best", run).stdout)
    (run / JOURNAL).unlink()
    assert from_mapping(yaml.safe_load(call("best", run).stdout)).loss.focus == 1
    assert "holds no sweep" in refusal(run, "--top", 2)


def test_what_cannot_be_found_or_read_is_said_in_a_line(run: Path) -> None:
    assert "nowhere: no such run folder; a source at W&B is entity/project" in refusal("nowhere")
    assert "run/nowhere: no such run folder" in refusal("run/nowhere")
    Path("empty").mkdir()
    assert "empty: holds no sweep, and no files of W&B" in refusal("empty")
    file = trial_folder(run, 1) / "config.yaml"
    file.write_text(file.read_text().replace("schema_version: 2", "schema_version: 0"))
    assert "trial 1, run: a configuration of schema version 0, this raygap reads 1" in refusal(run)
    file.unlink()
    assert "trials/0001/config.yaml: no such file" in refusal(run)
