"""What a report says of trials that were known before, and of several metrics; no training made its folder."""

from functools import partial
from pathlib import Path

import pytest
import yaml

from raygap.schema import to_mapping
from raygap.search.journal import open_storage
from raygap.search.known import as_trial
from raygap.search.plan import make_folder, make_plan, write_plan
from raygap.search.samplers import make_sampler
from raygap.search.study import METRIC, TRIAL_NUMBER, suggested_config
from raygap.search.suggestions import StudySearch
from raygap.tracking.best_sources import find_best
from raygap.tracking.objectives import judged
from raygap.tracking.report.page import write_report
from raygap.tracking.report.run import Run
from raygap.tracking.run_folder import JOURNAL, trial_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    plan = make_plan("demo", None, None, {}, root=None, cache="", metric="loss,worst_modality")
    make_folder(folder, new=True)
    write_plan(plan, folder)
    sampler = partial(make_sampler, "random", plan.search_space, 0, 12, len(plan.known))
    search = StudySearch(plan.search_space, open_storage(folder / JOURNAL), 12, sampler, plan.metric)
    search.begin_with([as_trial(known, plan.search_space, 0) for known in plan.known])
    for number, (loss, audio) in enumerate([(0.5, 0.6), (0.4, 0.5), (0.6, 0.4), (0.3, 0.3), (0.7, 0.2)]):
        suggested = search.suggest(str(number))
        files = trial_folder(folder, suggested[TRIAL_NUMBER])
        files.mkdir(parents=True)
        (files / "config.yaml").write_text(yaml.safe_dump(to_mapping(suggested_config(suggested, plan.fixed))))
        row = {"epoch": 12, "best_epoch": 12, "val_loss": loss, "val_audio_accuracy": audio, "val_visual_accuracy": 0.9}
        [told] = judged([row], search.objectives)
        assert told[METRIC] == -loss
        search.on_trial_complete(str(number), told | {"time_total_s": 1.0, "time_this_iter_s": 1.0})
    return folder


def test_plain_trials_say_nothing_of_the_fields_that_are_searched(folder: Path) -> None:
    run = Run(folder)
    assert len(run.trials) == 5
    assert run.acting_often["optimizer.lr"] == max(run.acting_often.values()) == 3  # all but both plain ones
    assert run.acting(run.trials[1])[0] == "method"


def test_the_page_shows_the_front_and_ranks_by_the_first_metric(folder: Path) -> None:
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Pareto front" in page
    assert "accuracy of the weaker modality" in page
    assert "unimodal_losses, which treats all clips alike" in page
    [best] = find_best(str(folder))
    assert (best.metric, best.value) == ("best_val_loss", 0.3)
