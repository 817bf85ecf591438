"""Configurations that are tried first: the defaults, plain trials, published settings, and what the user gives."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping
from raygap.search.journal import open_storage
from raygap.search.known import as_trial, plain_trials
from raygap.search.plan import Plan, make_folder, make_plan, read_plan, write_plan
from raygap.search.presets import FILES, find_preset, read_presets
from raygap.search.samplers import make_sampler
from raygap.search.space import own_fields
from raygap.search.study import METRIC, TRIAL_NUMBER, suggested_config
from raygap.search.suggestions import StudySearch
from raygap.tracking.run_folder import JOURNAL, best_trial, trial_folder, trial_rows

SPACE = "fixed: {epochs: 6, purify.epochs: 1, optimizer.lr: 0.02}\nspace: {optimizer.lr: {choice: [0.01, 0.04]}"


def plan(
    folder: Path, more: str = "", method: str = "gmm_scores", first: tuple[str, ...] = (), trials: int = 12
) -> Plan:
    file = folder / "space.yaml"
    file.write_text(f"{SPACE}{more}}}\n")
    return make_plan("demo", method, file, {}, first, root=None, cache="", trials=trials)


def begun(plan: Plan, journal: Path) -> StudySearch:
    sampler = partial(make_sampler, "random", plan.search_space, 0, plan.trials, len(plan.known))
    searcher = StudySearch(plan.search_space, open_storage(journal), 6, sampler)
    searcher.begin_with([as_trial(known, plan.search_space, 0) for known in plan.known])
    return searcher


def test_trial_0_has_the_defaults_as_near_as_the_space_has_them(tmp_path: Path) -> None:
    made = plan(tmp_path, ", loss.focus: {uniform: [5, 9]}, warmup.epochs: {randint: [1, 4]}", trials=3)
    [start] = [as_trial(known, made.search_space, 0) for known in made.known]
    assert start.params == {"optimizer.lr": 0.01, "loss.focus": 5.0, "warmup.epochs": 3}
    assert start.beside == {}


def test_plain_trials_compete_in_guided_sweeps_and_win_ties(tmp_path: Path) -> None:
    made = plan(tmp_path, ", loss.focus: {uniform: [0, 9]}", method="gmm_adaptive")
    assert [plain_trials(n) for n in (3, 4, 11, 12, 50)] == [0, 1, 1, 2, 2]
    searcher = begun(made, tmp_path / "journal")
    configs = []
    for trial_id in "abcd":
        suggested = searcher.suggest(trial_id)
        configs.append(suggested_config(suggested, made.fixed))
        result = {"epoch": 6, METRIC: 0.5, "time_total_s": 1.0, "time_this_iter_s": 1.0}
        searcher.on_trial_complete(trial_id, result)
    assert [config.method for config in configs] == ["gmm_adaptive", *["unimodal_losses"] * 2, "gmm_adaptive"]
    assert [config.purify.epochs for config in configs] == [1, 0, 0, 1]
    assert configs[0].optimizer == configs[1].optimizer
    assert best_trial(searcher.study).number == 1
    header, rows = trial_rows(searcher.study)
    assert dict(zip(header, rows[1], strict=True))["method"] == "unimodal_losses"
    assert "loss.focus" not in searcher.study.trials[1].params  # what cannot act is not suggested
    # Another process, and another call, find them there.
    again = begun(made, tmp_path / "journal")
    assert again.suggest("e")[TRIAL_NUMBER] == 4
    assert not plan(tmp_path, method="joint").known[1:]


def test_what_waits_is_no_trial_yet_and_a_plan_keeps_what_is_known(tmp_path: Path) -> None:
    made = plan(tmp_path, method="gmm_adaptive")
    searcher = begun(made, tmp_path / "journal")
    assert trial_rows(searcher.study)[1] == []
    assert best_trial(searcher.study) is None
    assert [trial.state for trial in searcher.study.trials] == [TrialState.WAITING] * 3
    write_plan(made, tmp_path)
    assert read_plan(tmp_path) == made


def test_where_trials_may_have_a_history_the_plain_ones_that_make_it_come_first_and_differ(tmp_path: Path) -> None:
    def known(trials: int, more: str = "", method: str = "gmm_scores", **fixed: object) -> tuple[int, list[dict]]:
        file = tmp_path / "space.yaml"
        file.write_text(f"{SPACE}{more}}}\n")
        given = {path.replace("__", "."): value for path, value in fixed.items()}
        made = make_plan("demo", method, file, given, root=None, cache="", trials=trials)
        starts = [as_trial(one, made.search_space, made.search_space.start("seed")) for one in made.known]
        return made.pool, [own_fields(made.fixed, start.beside | start.params) for start in starts]

    pool, (first, second, defaults) = known(12, gap__source="history")
    assert pool == 2
    assert [first["method"], second["method"]] == ["unimodal_losses"] * 2
    assert first["optimizer.lr"] != second["optimizer.lr"]
    assert (defaults["method"], defaults["gap.source"]) == ("gmm_scores", "history")
    # Who wants none gets none, nor do trials too few to have plain ones.
    assert [known(trials)[0] for trials in (3, 12)] == [0, 0]
    searched = ", gap.source: {choice: [training, history]}"
    assert [known(n, searched, history__runs=3)[0] for n in (3, 4, 12)] == [0, 2, 3]
    assert known(4, method="gmm_adaptive", gap__source="history")[0] == 2
    assert known(12, method="joint", gap__source="history")[0] == 0
    assert known(12, gap__source="history", history__pool="0" * 24)[0] == 0
    # Where nothing is searched that plain training has, they have other seeds.
    own = {"gap__source": "history", "history__runs": 5, "optimizer__lr": 0.1}
    _, (*plain, _) = known(12, ", loss.focus: {uniform: [0, 9]}", **own)
    assert len(plain) == 5
    assert len({one.get("seed") for one in plain}) == 5
    file = tmp_path / "space.yaml"
    file.write_text("fixed: {gap.source: history}\nspace: {history.runs: {randint: [1, 4]}}")
    with pytest.raises(UserError, match=r"history.runs cannot be searched: all trials of a sweep share one"):
        make_plan("demo", "gmm_scores", file, {}, root=None, cache="").check()


def test_published_settings_follow_where_there_are_any_and_yield_to_what_the_user_holds_fixed() -> None:
    def published(**fixed: float) -> dict:
        given = {path.replace("_", "."): value for path, value in fixed.items()}
        made = make_plan("cremad", "ogm_ge", None, given, root=None, cache="")
        [_, known] = made.known
        start = as_trial(known, made.search_space, 0)
        return own_fields(made.fixed, start.beside | start.params)

    fields = published()
    assert (fields["ogm.alpha"], fields["ogm.epochs"], fields["optimizer.lr"]) == (0.8, 50, 0.001)
    assert fields["prepare.frames"] == 3  # all trials read one store
    assert published(epochs=20, optimizer_lr=0.3)["optimizer.lr"] == 0.3
    assert from_mapping(published(epochs=20)).epochs == 20


@pytest.mark.parametrize("file", sorted(FILES.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_presets_are_configurations(file: Path) -> None:
    for dataset, preset in read_presets(file).items():
        assert find_preset(f"{file.stem}:{dataset}") == preset
        assert preset.source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cremad: {source: paper, set: {ogm.alfa: 1}}",
            "cremad: set: unknown field 'ogm.alfa'; did you mean ogm.alpha?",
        ),
        ("cremad: {source: paper, set: {ogm.alpha: 99}}", "cremad: set: ogm.alpha = 99"),
        ("cremad: {set: {}}", "cremad: expected source and set"),
        ("cremad: {source: paper, set: 3}", "expected a text as source, and a mapping of fields"),
    ],
)
def test_a_bad_preset_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "ogm.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_presets(file)
    assert str(error.value).startswith(f"{file}: cremad: ")
    assert message in str(error.value)


def test_a_preset_that_is_not_there_is_one_line_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"--preset joint:demo: nothing published .*there are joint:cremad"):
        find_preset("joint:demo")
    with pytest.raises(UserError, match="expected METHOD:DATASET"):
        find_preset("ogm_ge")


def test_what_the_user_gives_comes_next_whole_and_may_have_another_method(tmp_path: Path) -> None:
    given = tmp_path / "best.yaml"
    config = from_mapping({"method": "joint", "epochs": 9, "optimizer.lr": 0.04, "model.fusion": "sum", "seed": 3})
    given.write_text(yaml.safe_dump(to_mapping(config)))
    made = plan(tmp_path, first=(str(given),), trials=3)
    known = as_trial(made.known[-1], made.search_space, 0)
    assert known.params == {"optimizer.lr": 0.04}
    built = from_mapping(own_fields(made.fixed, known.beside | known.params))
    assert (built.method, built.model.fusion, built.epochs, built.seed) == ("joint", "sum", 6, 0)
    given.write_text("loss.focus: 2.0\n")  # a part of one
    made = plan(tmp_path, first=(str(given),), trials=3)
    assert as_trial(made.known[-1], made.search_space, 0).beside == {"loss.focus": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimizer.lr: 0.5",
            r"optimizer.lr = 0.5 lies outside of what is searched, choice \[0.01, 0.04\]; widen that",
        ),
        ("warmup.epochs: 9", r"warmup.epochs \(9\) \+ purify.epochs \(1\) exceed epochs \(6\)"),
        ("optimiser.lr: 0.5", "unknown field 'optimiser.lr'; did you mean optimizer.lr?"),
        ("model.fusion: film", "readout split needs fusion concat or sum"),
    ],
)
def test_what_cannot_be_tried_first_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    given = tmp_path / "best.yaml"
    given.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        plan(tmp_path, first=(str(given),))
    assert str(error.value).startswith(f"--first {given}: ")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such run folder"):
        plan(tmp_path, first=("nowhere",))


def test_the_best_of_an_earlier_sweep_is_tried_first_plain_where_that_won(tmp_path: Path) -> None:
    made = plan(tmp_path, ", loss.focus: {uniform: [0, 9]}", trials=4)
    run = tmp_path / "run"
    make_folder(run, new=True)
    write_plan(made, run)
    searcher = begun(made, run / JOURNAL)
    for number in range(2):
        suggested = searcher.suggest(str(number))
        files = trial_folder(run, number)
        files.mkdir(parents=True)
        (files / "config.yaml").write_text(yaml.safe_dump(to_mapping(suggested_config(suggested, made.fixed))))
        result = {"epoch": 6, METRIC: 0.5, "time_total_s": 1.0, "time_this_iter_s": 1.0}
        searcher.on_trial_complete(str(number), result)
    again = plan(tmp_path, ", loss.focus: {uniform: [0, 9]}", trials=4, first=(str(run),))
    first = as_trial(again.known[-1], again.search_space, 0)
    assert first.source == str(run)
    config = from_mapping(own_fields(again.fixed, first.beside | first.params))
    assert (config.method, config.purify.epochs) == ("unimodal_losses", 0)
