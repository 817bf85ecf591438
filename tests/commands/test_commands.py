"""The commands as their users call them, in this process: what they refuse, and a whole sweep on real media."""

import shutil
from pathlib import Path

import pytest
import yaml
from called import call, refusal
from media import write_data_set, write_manifest

LAUNCH = Path(__file__).parents[2] / "launch"
TINY = [
    *("--set", "model.encoder=small_cnn", "--set", "prepare.frames=1"),
    *("--set", "prepare.frame_size=8", "--set", "prepare.seconds=0.5", "--set", "prepare.n_mels=16"),
    *("--set", "model.width=4", "--set", "optimizer.batch_size=8"),
]


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
        (
            ["--dataset", "demo", "--epochs", "4", "--set", "warmup.epochs=4", "--set", "purify.epochs=2"],
            "exceed epochs (4); add --epochs 7, or --set warmup.epochs=2 --set purify.epochs=1",
        ),
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
    line, reason = refused.stderr.splitlines()
    assert line.startswith("error: 2 of 20 clips cannot be used")
    assert reason.endswith("2 unreadable: the file is empty: low-train-0.mp4, low-train-1.mp4")
    assert no_trial_started(here)


def test_dry_run_prints_the_plan_and_does_nothing(here: Path) -> None:
    result = call("sweep", "--dataset", "demo", "--dry-run", "--method", "gmm_adaptive", "--trials", "7")
    assert result.exit_code == 0, result.output
    parts = list(yaml.safe_load_all(result.stdout.replace("# ", "--- # ")))
    configuration, space, plan = [part for part in parts if part]
    assert configuration["method"] == "gmm_adaptive"
    assert "warmup.epochs" in space
    assert plan["trials"] == 7
    for option in ("--seeds", "--test-seeds"):
        result = call("sweep", "--dataset", "demo", "--dry-run", option, "9", "--set", "purify.epochs=0")
        assert "test seeds: 9" in result.output
        assert "not searched, as it cannot act here: purify.threshold (needs" in result.output
    assert not list(here.iterdir())


def test_the_whole_line_on_real_media(here: Path, data_set: Path, ray_cluster: None) -> None:
    arguments = ["--dataset", "manifest", "--root", data_set, "--name", "r", "--trials", "2", "--test-seeds", "2"]
    arguments += ["--concurrency", "1"]
    space = here / "space.yaml"
    space.write_text("fixed: {epochs: 3, purify.epochs: 1}\nspace: {loss.focus: {uniform: [0, 4]}}")
    prepare = [word for field in zip(TINY[::2], TINY[1::2], strict=True) if "prepare." in field[1] for word in field]
    prepared = call("prepare", "--dataset", "manifest", "--root", data_set, *prepare)
    assert prepared.exit_code == 0, prepared.output
    result = call("sweep", *arguments, "--space", space, "--set", "warmup.epochs=1", *TINY)
    assert result.exit_code == 0, result.output
    assert len(list((here / "cache").glob("manifest-*"))) == 1, "another store than what was prepared"
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
        "train", "--dataset", "manifest", "--root", data_set, "--config", "copy.yaml", "--epochs", "1", "--out", "t"
    )
    assert trained.exit_code == 0, trained.output
    assert len(list((here / "cache").glob("manifest-*"))) == 1
    assert "note: stages shortened in proportion to 1 epochs" in trained.output
    assert "note: 1 step an epoch: " in trained.output
    assert "cannot be told from chance" in trained.output
    assert (here / "t/test.csv").read_text().startswith("seed,best_epoch,best_val_accuracy,test_accuracy")

    plan = here / "runs/r/sweep.yaml"
    text = plan.read_text()
    for edited, message in (
        (text.replace("epochs: 3", "epochs: 4"), "fixed: epochs = 4, but trials of this sweep had 3"),
        (text.replace("uniform:", "loguniform:").replace("- 0\n", "- 0.1\n"), "loss.focus: was numbers from 0 to 4"),
        (text.replace("trials: 2", "trials: many"), "trials = 'many'"),
        (text.replace("loss.focus", "loss.fokus"), "did you mean loss.focus?"),
    ):
        assert edited != text
        plan.write_text(edited)
        line = refusal(call("sweep", "--dataset", "manifest", "--resume", "--name", "r"))
        assert message in line
        assert "runs/r/sweep.yaml" in line
    plan.write_text(text)
    moved = shutil.copytree(data_set, here / "moved")
    more = call("sweep", "--dataset", "manifest", "--resume", "--trials", "3", "--root", moved)
    assert more.exit_code == 0, more.output
    assert "best of 3 trials" in more.output
    resumed = yaml.safe_load(plan.read_text())
    assert (resumed["root"], resumed["concurrency"]) == (str(moved), 1)
    (moved / "manifest.csv").write_text((moved / "manifest.csv").read_text().replace(",low,", ",deep,"))
    other = call("sweep", "--dataset", "manifest", "--resume", "--trials", "4", "--root", moved)
    assert "the data or their preparation have changed since the sweep began" in refusal(other)


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
