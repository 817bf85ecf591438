"""The commands as their users call them, in this process: what they refuse, and a whole sweep on real media."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml
from click.testing import Result
from media import write_data_set, write_manifest
from typer.testing import CliRunner

LAUNCH = Path(__file__).parents[2] / "launch"
TINY = [
    *("--set", "model.encoder=small_cnn", "--set", "prepare.frames=1"),
    *("--set", "prepare.frame_size=8", "--set", "prepare.seconds=0.5", "--set", "prepare.n_mels=16"),
    *("--set", "model.width=4", "--set", "optimizer.batch_size=8"),
]


def load(name: str) -> ModuleType:
    return importlib.import_module(f"raygap.commands.{name}")


def call(name: str, *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(load(name).main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(result: Result) -> str:
    """The one line of a refused call."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("name", sorted(file.stem for file in LAUNCH.glob("*.py")))
def test_every_command_says_what_it_takes(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path / "cache"))
    return tmp_path


def no_trial_started(here: Path) -> bool:
    return not list(here.glob("**/trials"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "dmo"], "--dataset dmo: unknown data set; did you mean demo?"),
        (["--dataset", "manifest"], "give --root"),
        (["--dataset", "manifest", "--root", "nowhere"], "nowhere: no such file or folder"),
        (["--dataset", "demo", "--method", "gmm_score"], "did you mean gmm_scores?"),
        (["--dataset", "demo", "--set", "loss.fokus=1"], "unknown field 'loss.fokus'; did you mean loss.focus?"),
        (["--dataset", "demo", "--set", "loss.focus"], "expected field=value"),
        (["--dataset", "demo", "--set", "loss.focus=much"], "loss.focus = 'much'"),
        (["--dataset", "demo", "--epochs", "4"], "exceed epochs (4)"),
        (["--dataset", "demo", "--space", "no.yaml"], "no.yaml: no such file"),
        (["--dataset", "demo", "--resume"], "holds no sweep of demo"),
        (["--dataset", "demo", "--resume", "--name", "x"], "holds no sweep"),
        (["--dataset", "demo", "--resume", "--epochs", "3"], "--epochs: a resumed sweep keeps its plan"),
    ],
)
def test_sweep_refuses_bad_options_in_one_line(arguments: list[str], message: str, here: Path) -> None:
    assert message in refusal(call("sweep", *arguments))
    assert no_trial_started(here)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {warmup.epoch: {randint: [1, 3]}}", "did you mean warmup.epochs?"),
        ("space: {loss.focus: {uniform: [2, 2]}}", "the range [2, 2] is empty"),
        ("fixed: {epochs: 4}\nspace: {warmup.epochs: {randint: [1, 9]}}", "exceed epochs (4)"),
    ],
)
def test_sweep_refuses_bad_spaces(text: str, message: str, here: Path) -> None:
    (here / "space.yaml").write_text(text)
    assert message in refusal(call("sweep", "--dataset", "demo", "--space", "space.yaml"))
    assert no_trial_started(here)


def test_sweep_refuses_bad_manifests_and_folders(here: Path, data_set: Path) -> None:
    rows = [{"video": "gone.mp4", "label": "a", "split": "train"}, {"video": "b.mp4", "label": "b", "split": "val"}]
    (here / "bad").mkdir()
    write_manifest(here / "bad", rows)
    line = refusal(call("sweep", "--dataset", "manifest", "--root", "bad"))
    assert "manifest.csv, line 2" in line
    (here / "file").write_text("not a folder")
    line = refusal(call("sweep", "--dataset", "manifest", "--root", data_set, "--out", "file/run"))
    assert "cannot be written" in line
    assert no_trial_started(here)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "dmeo"], "error: --dataset dmeo: unknown data set; did you mean demo?"),
        (["--dataset", "demo", "--set", "loss.focus=1"], "error: --set loss.focus: preparation takes only prepare.*"),
        (["--dataset", "demo", "--set", "prepare.frames=0"], "error: --set: prepare.frames = 0: "),
    ],
)
def test_prepare_refuses_bad_options_in_one_line(arguments: list[str], message: str, here: Path) -> None:
    assert refusal(call("prepare", *arguments)).startswith(message)
    assert not list(here.iterdir())


def test_prepare_names_a_cluster_that_does_not_answer(
    here: Path, data_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")  # the command sets it; taken back after the test
    line = refusal(call("prepare", "--dataset", "manifest", "--root", data_set, "--address", "127.0.0.1:1"))
    assert line.startswith("error: --address 127.0.0.1:1: no Ray cluster answers")
    assert not list(here.iterdir())


def test_too_many_bad_clips_stop_before_any_trial_and_all_are_named(here: Path) -> None:
    (here / "media").mkdir()
    folder = write_data_set(here / "media", train=6, val=2, test=2)
    (folder / "low-train-0.mp4").write_bytes(b"")
    refused = call("prepare", "--dataset", "manifest", "--root", folder)
    assert refused.exit_code == 0, refused.output  # 5 % may be bad
    assert "quarantined: low-train-0" in refused.output
    (folder / "low-train-1.mp4").write_bytes(b"")
    refused = call("sweep", "--dataset", "manifest", "--root", folder, *TINY)
    assert refused.exit_code == 2
    line, reasons = refused.stderr.splitlines()
    assert line.startswith("error: 2 of 20 clips cannot be used")
    assert reasons.startswith("  2 ")
    assert reasons.endswith(": low-train-0.mp4, low-train-1.mp4")
    assert no_trial_started(here)


def test_dry_run_prints_the_plan_and_does_nothing(here: Path) -> None:
    result = call("sweep", "--dataset", "demo", "--dry-run", "--method", "gmm_adaptive", "--trials", "7")
    assert result.exit_code == 0, result.output
    parts = list(yaml.safe_load_all(result.stdout.replace("# ", "--- # ")))
    configuration, space, plan = [part for part in parts if part]
    assert configuration["method"] == "gmm_adaptive"
    assert "warmup.epochs" in space
    assert plan["trials"] == 7
    assert not list(here.iterdir())


def test_the_whole_line_on_real_media(here: Path, data_set: Path, ray_cluster: None) -> None:
    arguments = ["--dataset", "manifest", "--root", data_set, "--name", "r", "--trials", "2", "--test-seeds", "2"]
    arguments += ["--concurrency", "1"]
    space = here / "space.yaml"
    space.write_text("fixed: {epochs: 3, purify.epochs: 1}\nspace: {loss.focus: {uniform: [0, 4]}}")
    result = call("sweep", *arguments, "--space", space, "--set", "warmup.epochs=1", *TINY)
    assert result.exit_code == 0, result.output
    assert "best configuration: runs/r/best.yaml" in result.output
    assert (here / "runs/r/report.html").exists(), result.output
    (here / "runs/r/report.html").unlink()
    assert call("report", "runs/r").output == "runs/r/report.html\n"
    assert (here / "runs/r/report.html").exists()
    again = call("sweep", *arguments, "--space", space, "--set", "warmup.epochs=1", *TINY)
    assert "holds a sweep already" in refusal(again)

    best = call("best", "runs/r")
    assert best.exit_code == 0
    assert yaml.safe_load(best.stdout)["epochs"] == 3
    (here / "copy.yaml").write_text(best.stdout)
    trained = call(
        "train", "--dataset", "manifest", "--root", data_set, "--config", "copy.yaml", "--out", "t", "--seeds", "1"
    )
    assert trained.exit_code == 0, trained.output
    assert (here / "t/test.csv").read_text().startswith("seed,best_epoch,best_val_accuracy,test_accuracy")

    more = call("sweep", "--dataset", "manifest", "--resume", "--trials", "3", "--concurrency", "1")
    assert more.exit_code == 0, more.output
    assert "best of 3 trials" in more.output


def test_best_and_report_say_what_is_missing(here: Path) -> None:
    assert "no such run folder" in refusal(call("best", "nowhere"))
    assert "no such run folder" in refusal(call("report", "nowhere"))
    (here / "empty").mkdir()
    assert "holds no sweep" in refusal(call("report", "empty"))
    assert "holds no sweep" in refusal(call("best", "empty"))


def test_train_refuses_bad_configurations(here: Path) -> None:
    (here / "c.yaml").write_text("loss: {focus: -1}")
    assert "loss.focus = -1" in refusal(call("train", "--dataset", "demo", "--config", "c.yaml"))
    assert "did you mean" in refusal(call("train", "--dataset", "demo", "--set", "method=jont"))
