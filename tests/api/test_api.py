"""raygap from Python: what it loads, its words, what it refuses, and what it reads of a finished sweep."""

import ast
import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import typer
from media import write_data_set

import raygap
from raygap.api.results import TestResults
from raygap.tracking.seed_results import SeedResults

if TYPE_CHECKING:
    from raygap.search.job import Outcome

PACKAGE = Path(raygap.__file__).parent


def test_import_raygap_loads_nothing_large() -> None:
    code = "import raygap, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    ).stdout.split()
    assert not {"torch", "ray", "pandas", "optuna", "pydantic", "numpy"} & set(loaded)


def test_every_name_is_where_its_type_says() -> None:
    typed = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        assert isinstance(node, ast.ImportFrom)
        typed |= {alias.name: node.module for alias in node.names}
    assert typed == raygap._HOMES
    assert set(raygap.__all__) <= set(dir(raygap))
    for name, module in typed.items():
        assert getattr(raygap, name) is getattr(importlib.import_module(str(module)), name)
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        raygap.swep  # noqa: B018


@pytest.mark.parametrize("name", ["sweep", "train", "compare", "predict", "diagnose"])
def test_arguments_are_the_options_of_the_command(name: str) -> None:
    """But for what prints a plan and does nothing, and for what takes several data sets."""
    command = typer.main.get_command_from_info(
        typer.models.CommandInfo(callback=importlib.import_module(f"raygap.commands.{name}").main),
        pretty_exceptions_short=False,
        rich_markup_mode=None,
    )
    options = {max(param.opts, key=len).lstrip("-").replace("-", "_") for param in command.params if not hidden(param)}
    words = inspect.signature(getattr(raygap, name)).parameters
    assert set(words) - {"progress"} == options - {"dry_run", "shared", "help"}
    assert words["progress"].default is False


def hidden(param: Any) -> bool:
    return getattr(param, "hidden", False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sweep", {"dataset": "dmo"}, "did you mean demo?"),
        ("sweep", {}, "sweep(): dataset is missing"),
        ("sweep", {"dataset": "demo", "epoch": 3}, "sweep(): no argument epoch; did you mean epochs?"),
        ("sweep", {"dataset": "demo", "trials": 0}, "sweep(): trials = 0: Input should be greater than or equal to 1"),
        ("sweep", {"dataset": "demo", "trials": "many"}, "sweep(): trials = 'many'"),
        ("sweep", {"dataset": "demo", "time_budget": float("inf")}, "sweep(): time_budget = inf"),
        ("sweep", {"dataset": "demo", "wandb": "on"}, "sweep(): wandb = 'on'"),
        ("sweep", {"dataset": "demo", "set": {"loss.fokus": 1}}, "did you mean loss.focus?"),
        ("sweep", {"dataset": "demo", "set": {"loss": {"focus": "much"}}}, "loss.focus = 'much'"),
        ("sweep", {"dataset": "demo", "space": "no.yaml"}, "no.yaml: no such file"),
        ("sweep", {"dataset": "demo", "resume": True}, "holds no sweep of demo"),
        ("sweep", {"dataset": "demo", "resume": True, "epochs": 3}, "epochs: a resumed sweep keeps its plan"),
        ("train", {"dataset": "demo", "config": "none.yaml"}, "none.yaml"),
        ("train", {"dataset": "demo", "seeds": 0}, "train(): seeds = 0"),
        ("train", {"dataset": "demo", "config": {"method": "joynt"}}, "joynt"),
        ("compare", {"dataset": "demo"}, "dataset and methods are needed"),
        ("compare", {"dataset": "demo", "methods": "joint"}, "compare(): methods = 'joint'"),
        ("compare", {"dataset": "demo", "methods": ["joynt"]}, "did you mean joint?"),
        ("compare", {"dataset": "demo", "methods": ["joint"], "set": {"method": "ogm"}}, "methods names them"),
        ("compare", {"resume": "nowhere"}, "nowhere: holds no comparison"),
        ("predict", {"media": "a.mp4", "checkpoint": "none.pt"}, "none.pt"),
        ("predict", {"media": [], "checkpoint": "x.pt", "out": "x.txt"}, "out x.txt: unknown kind of file"),
        ("diagnose", {"source": "none.csv"}, "none.csv"),
        ("load_run", {"folder": "nowhere"}, "nowhere: holds no sweep"),
    ],
)
def test_refuses_in_one_line_before_anything_starts(
    here: Path, name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(raygap.UserError) as refused:
        getattr(raygap, name)(**arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(here.glob("**/trials"))


def test_a_finished_sweep_is_read_back(finished_sweep: tuple[Path, "Outcome"]) -> None:
    folder, outcome = finished_sweep
    run = raygap.load_run(folder)
    assert (run.folder, run.dataset, run.best_trial) == (folder, "small", outcome.best.number)
    assert run.best == outcome.config
    assert run.best_fields["method"] == "gmm_adaptive"
    assert run.best_value == outcome.best.value
    assert len(run.trials) == len(run.study.trials) == 5
    assert run.trials.loc[run.best_trial, "loss.focus"] == outcome.best.params["loss.focus"]
    assert run.report == folder / "report.html"
    assert list(run.test.seeds.index) == list(outcome.test.rows)
    expected = outcome.test.interval("test_accuracy")
    assert (run.test.mean, run.test.std, run.test.half_width) == (expected.mean, expected.std, expected.half_width)
    assert run.test.interval("test_macro_f1") == outcome.test.interval("test_macro_f1")
    assert (run.worth.sentence, run.worth.table()) == (outcome.worth.sentence, outcome.worth.table())
    with pytest.raises(raygap.UserError, match="no metric of the test"):
        run.test.interval("accuracy")


def test_a_sweep_that_found_nothing_yet_is_read_too(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("seeds", "report.html"))
    run = raygap.load_run(str(copy))
    assert run.best is not None
    assert (run.test, run.report) == (None, None)
    (copy / "study.journal").unlink()
    with pytest.raises(raygap.UserError, match="No trial has started"):
        raygap.load_run(copy)


def test_no_seed_that_ended_has_no_mean() -> None:
    test = TestResults.of(SeedResults({}, {3: "out of memory"}))
    assert test.seeds.empty
    assert test.failed == {3: "out of memory"}
    assert pd.isna(test.mean)


def test_from_a_training_to_answers(here: Path, ray_cluster: None, capfd: pytest.CaptureFixture[str]) -> None:
    """A training by a mapping, on real media, quietly; then predict and diagnose."""
    (here / "clips").mkdir()
    clips = write_data_set(here / "clips")
    tiny = {"model.encoder": "small_cnn", "model.width": 4, "optimizer.batch_size": 8}
    tiny |= {"prepare": {"frames": 1, "frame_size": 8, "seconds": 0.5, "n_mels": 16}}
    capfd.readouterr()
    trained = raygap.train("manifest", root=clips, config={"method": "joint"}, set=tiny, epochs=2, out=Path("run"))
    assert (trained.folder, trained.config.method, trained.config.epochs) == (Path("run"), "joint", 2)
    assert len(trained.test.seeds) == 1
    assert trained.notes
    answers = raygap.predict(sorted(clips.rglob("*.mp4"))[:2], Path("run/0/best.pt"), workers=1, out=Path("a.csv"))
    assert len(answers) == len(pd.read_csv("a.csv")) == 2
    assert answers["confidence"].between(0, 1).all()
    found = raygap.diagnose("run/0/best.pt", dataset="manifest", root=clips)
    assert found.page.exists()
    assert found.verdict
    assert set(found.accuracy) == {"fused", "audio", "visual"}
    # Its configuration is that of the seed that has ended: nothing is trained again.
    again = raygap.train("manifest", root=clips, config=trained.config, out=Path("run"))
    assert again.test.mean == trained.test.mean
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
