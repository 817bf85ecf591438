from pathlib import Path

import pytest
import yaml

from raygap.config import Section, TrialConfig
from raygap.errors import UserError
from raygap.methods import METHODS
from raygap.schema import field_paths, from_mapping
from raygap.search.plan import Plan, make_plan, trial_fields
from raygap.search.shorten import shorten_stages
from raygap.search.space import FOLDER, SEARCHABLE, SearchSpace, check_space, ends, load_space, read_space
from raygap.testing import undocumented

HEADS_FIRST = {"choice": ["heads", "split"]}


def space_file(folder: Path, text: str) -> Path:
    file = folder / "space.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_spaces_are_valid_with_every_method(file: Path) -> None:
    of_method = file.stem in SEARCHABLE
    for method in (file.stem,) if of_method else SEARCHABLE:
        space, _ = shorten_stages(load_space("demo" if of_method else file.stem, method, None), {})
        check_space(space, str(file))
        assert space.distributions().keys() == space.space.keys()


def test_files_of_weights_have_whole_paths_as_trials_work_in_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = space_file(
        tmp_path,
        "fixed: {model: {audio: {weights: a.pt}}}\n"
        "space: {model.visual.weights: {choice: [none, DEFAULT, 'https://x/a.pt', b.pt]}, optimizer.lr: {choice: [1]}}",
    )
    made = make_plan("demo", "joint", file, {}, root=None, cache="")
    assert made.fixed["model.audio.weights"] == str(tmp_path / "a.pt")
    assert made.space["model.visual.weights"]["choice"][1:] == ["DEFAULT", "https://x/a.pt", str(tmp_path / "b.pt")]
    given = {"model.audio.weights": "c.pt"}
    assert make_plan("demo", "joint", None, given, root=None, cache="").fixed["model.audio.weights"] == str(
        tmp_path / "c.pt"
    )
    assert trial_fields("demo", {}, given)[0]["model.audio.weights"] == str(tmp_path / "c.pt")


@pytest.mark.parametrize("dataset", ["demo", "cremad", "ave", "kinetic_sound", "manifest"])
def test_data_sets_search_the_five_dimensions_of_the_method(dataset: str) -> None:
    searched = load_space(dataset, None, None).space
    assert {"warmup.epochs", "mixture.refit_every", "loss.align_weight", "loss.fusion_weight"} <= searched.keys()
    assert {"purify.threshold", "optimizer.lr", "optimizer.weight_decay"} <= searched.keys()
    off = {"warmup.epochs": 0, "mixture.refit_every": 0, "loss.align_weight": 0, "purify.epochs": 0, "loss.focus": 0}
    assert all(value in ends(path, searched[path]) for path, value in off.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {warmup.epoch: {randint: [1, 3]}}", "unknown field 'warmup.epoch'; did you mean warmup.epochs?"),
        ("space: {loss.focus: {uniform: [2, 2]}}", "the range [2, 2] is empty"),
        ("space: {loss.focus: {uniform: [3, 2]}}", "the range [3, 2] is empty"),
        ("space: {loss.focus: {choice: []}}", "needs a non-empty list"),
        ("space: {loss.focus: {unifrom: [1, 2]}}", "unknown distribution 'unifrom'"),
        ("space: {loss.focus: {uniform: [1]}}", "needs two or three numbers"),
        ("space: {loss.focus: {quniform: [1, 2]}}", "lower, upper and step"),
        ("space: {loss.focus: {loguniform: [0, 2]}}", "needs a lower end above 0"),
        ("space: {warmup.epochs: {randint: [1.5, 3]}}", "needs whole numbers"),
        ("space: {warmup.epochs: {uniform: [a, 3]}}", "needs two or three numbers"),
        ("space: {loss.focus: 3}", "expected one distribution"),
        ("space: {loss.focus: {quniform: [0, 1, 0.3]}}", "quniform [0, 1, 0.3]"),
        ("space: {loss.focus: {uniform: [0, .inf]}}", "needs finite numbers"),
        ("space: {1: {uniform: [0, 1]}}", "unknown field '1'"),
        ("trials: true", "trials = True"),
        ("space: [1]", "expected a mapping"),
        ("spaces: {}", "unknown key 'spaces'"),
        ("trials: many", "trials = 'many'"),
        ("fixed: {loss: {fokus: 1}}", "unknown field 'loss.fokus'; did you mean loss.focus?"),
        ("space: {a: [}", "not valid YAML"),
        ("- 1", "expected a mapping"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    file = space_file(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_space(file)
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fixed", "space", "message"),
    [
        ({}, {"loss.focus": {"uniform": [-1, 2]}}, "loss.focus = -1"),
        ({}, {"optimizer.batch_size": {"choice": [1, 64]}}, "optimizer.batch_size=2 or more, or model.norm=group"),
        ({"compute.workers": 4}, {"optimizer.batch_size": {"randint": [7, 64]}}, "batch_size = 7 over 4 workers: "),
        ({}, {"optimizer.batch_size": {"loguniform": [16, 64]}}, "optimizer.batch_size = "),
        ({}, {"warmup.epochs": {"uniform": [1, 5]}}, "warmup.epochs = "),
        ({}, {"model.fusion": {"choice": ["concat", "cat"]}}, "model.fusion = 'cat'"),
        ({}, {"model.fusion": {"choice": ["concat", "film"]}}, "readout split needs fusion concat or sum"),
        ({"epochs": 5}, {"warmup.epochs": {"randint": [1, 8]}}, "warmup.epochs (7)"),
        ({"epochs": 5, "purify.epochs": 2}, {"warmup.epochs": {"randint": [1, 5]}}, "exceed epochs (5)"),
        ({}, {"warmup.epochs": {"uniform": [0.5, 3.5]}}, "warmup.epochs = 0.5"),
        ({}, {"epochs": {"randint": [5, 9]}}, "epochs cannot be searched"),
        ({}, {"seed": {"randint": [5, 9]}}, "seed cannot be searched"),
        ({}, {"prepare.frames": {"randint": [1, 3]}}, "prepare.frames cannot be searched"),
        ({}, {"compute.workers": {"choice": [1, 2]}}, "give --workers-per-trial"),
        ({"method": "mla"}, {"model.readout": {"choice": ["split", "heads"]}}, "mla has one shared head"),
        (
            {"method": "joint"},
            {"dus.kind": {"choice": ["none", "heuristic"]}},
            "joint has no field dus.kind; it is one of",
        ),
        ({"method": "umt"}, {"warmup.epochs": {"randint": [0, 3]}}, "set warmup.epochs to 1 or more"),
        ({}, {"model.readout": HEADS_FIRST, "model.fusion": {"choice": ["concat", "film"]}}, "readout split needs"),
        ({}, {}, "nothing to search"),
    ],
)
def test_no_trial_can_fail_on_its_configuration(fixed: dict, space: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_space(SearchSpace(fixed, space), "space.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_longest_stages_may_fill_all_epochs() -> None:
    config = check_space(SearchSpace({"epochs": 5, "purify.epochs": 1}, {"warmup.epochs": {"randint": [1, 5]}}), "s")
    assert config.warmup.epochs == 4  # randint excludes its upper end, as in Ray
    config = check_space(SearchSpace({"epochs": 5}, {"warmup.epochs": {"qrandint": [1, 5, 1]}}), "s")
    assert config.warmup.epochs == 5  # and qrandint includes it


@pytest.mark.parametrize(
    ("fixed", "space"),
    [
        ({"epochs": 3}, {"warmup.epochs": {"randint": [1, 3]}, "loss.focus": {"uniform": [0, 4]}}),
        ({"model.fusion": "film"}, {"model.readout": {"choice": ["heads"]}, "loss.focus": {"uniform": [0, 4]}}),
        ({"method": "umt"}, {"warmup.epochs": {"randint": [1, 9]}, "umt.weight": {"uniform": [0, 4]}}),
    ],
)
def test_where_defaults_lie_outside_the_space_only_its_own_points_count(fixed: dict, space: dict) -> None:
    Plan("demo", None, trials=1, fixed=fixed, space=space, cache="").check()


def test_fields_given_by_hand_are_not_searched(tmp_path: Path) -> None:
    plan = make_plan("demo", None, None, {"warmup.epochs": 3}, root=None, cache="")
    assert plan.fixed["warmup.epochs"] == 3
    assert "warmup.epochs" not in plan.space
    assert plan.trials == 12
    with pytest.raises(UserError, match="did you mean gmm_scores"):
        make_plan("demo", "gmm_score", None, {}, root=None, cache="")


def test_every_field_is_documented_defaulted_and_survives_yaml() -> None:
    for path, info in field_paths().items():
        assert not info.is_required(), path
    kinds = [info.annotation for info in TrialConfig.model_fields.values()]
    sections = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)}
    sections |= {kind for name in METHODS for kind in METHODS[name].all_sections().values()}
    assert len(sections) > 20
    assert {kind: undocumented(kind) for kind in {TrialConfig, *sections} if undocumented(kind)} == {}
    config = from_mapping({"loss.focus": 0.1, "dus.kind": "heuristic"})
    assert from_mapping(yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config


@pytest.mark.parametrize(
    ("fixed", "searched", "inert"),
    [
        ({"purify.epochs": 0}, "purify.threshold", "needs purify.epochs > 0"),
        ({"loss.align_weight": 0}, "align.kind", "needs loss.align_weight > 0"),
        ({"method": "joint"}, "ogm.alpha", "joint has no such field"),
        ({"method": "joint"}, "mixture.refit_every", "needs another method than joint"),
        ({}, "dus.strength", "needs dus.kind heuristic"),
        ({"optimizer.schedule": "cosine"}, "optimizer.gamma", "needs optimizer.schedule step"),
        ({"scores.separator": "raw"}, "scores.reg_covar", "needs scores.separator one of auto, scores2d, scores1d"),
    ],
)
def test_fields_that_can_act_in_no_trial_are_not_searched(fixed: dict, searched: str, inert: str, tmp_path: Path):
    space = "space: {optimizer.lr: {uniform: [0.01, 1]}, %s: {%s}}"
    values = {"align.kind": "choice: [kl]", "mixture.refit_every": "randint: [1, 3]"}
    file = space_file(tmp_path, space % (searched, values.get(searched, "uniform: [0.1, 0.5]")))
    plan = make_plan("demo", None, file, fixed, root=None, cache="")
    assert list(plan.space) == ["optimizer.lr"]
    assert plan.notes == (f"not searched, as it cannot act here: {searched} ({inert})",)


def test_fields_that_can_act_in_some_trials_are_searched_and_a_space_without_any_other_is_refused(tmp_path: Path):
    both = "space: {purify.epochs: {randint: [0, 3]}, purify.threshold: {uniform: [0.2, 0.9]}}"
    plan = make_plan("demo", None, space_file(tmp_path, both), {}, root=None, cache="")
    assert plan.space.keys() == {"purify.epochs", "purify.threshold"}
    assert not plan.notes
    with pytest.raises(UserError, match=r"nothing to search; not searched, .* purify.threshold \(needs purify.epochs"):
        make_plan("demo", None, space_file(tmp_path, both), {"purify.epochs": 0}, root=None, cache="")


def test_a_file_of_ones_own_reads_the_same_store_and_has_no_stages_that_the_method_cannot_have(tmp_path: Path):
    file = space_file(tmp_path, "fixed: {epochs: 3}\nspace: {optimizer.lr: {uniform: [0.01, 1]}}")
    own, shipped = (make_plan("manifest", "gradient_blending", f, {}, root=None, cache="") for f in (file, None))
    assert own.check().prepare == shipped.check().prepare
    other = space_file(tmp_path, "fixed: {prepare.frames: 1}\nspace: {optimizer.lr: {uniform: [0.01, 1]}}")
    assert make_plan("manifest", None, other, {}, root=None, cache="").check().prepare.frames == 1
