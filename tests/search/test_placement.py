"""How trials share a cluster: computed from its machines, no Ray needed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search.placement import Placement, in_words, place, why_given_up
from raygap.search.plan import Plan
from raygap.search.shared import _validate
from raygap.search.training import Training

HEAD, CPUS, GPUS = {"memory": 1.0}, {"CPU": 5.0}, {"CPU": 16.0, "GPU": 3.0}


@pytest.mark.parametrize(
    ("machines", "fields", "asked", "expected"),
    [
        # A worker fits on one machine, a trial may span several: 2 + 2 places of 2 CPUs, not 10 // 2.
        ([HEAD, CPUS, CPUS], {"workers": 2, "threads": 2}, {}, Placement(2, 2, {"CPU": 2})),
        ([HEAD, CPUS, CPUS], {"workers": 4, "threads": 2}, {}, Placement(1, 4, {"CPU": 2})),
        # A GPU each where there are any; machines without hold no worker.
        ([CPUS, GPUS, GPUS], {"workers": 2}, {}, Placement(3, 2, {"CPU": 1, "GPU": 1.0})),
        ([GPUS, GPUS], {"workers": 2}, {"cpus": 8.0}, Placement(2, 2, {"CPU": 8.0, "GPU": 1.0})),
        ([GPUS, GPUS], {"workers": 3}, {"gpus": 2.0}, None),
        # Parts of a GPU never lie on two: 2 places of 0.4 on each of 3.
        ([GPUS], {"workers": 1}, {"gpus": 0.4}, Placement(6, 1, {"CPU": 1, "GPU": 0.4})),
        ([GPUS], {"workers": 2}, {"gpus": 0.0}, Placement(8, 2, {"CPU": 1})),
        ([GPUS], {"workers": 2}, {"concurrency": 1}, Placement(1, 2, {"CPU": 1, "GPU": 1.0})),
        ([GPUS], {"workers": 2}, {"concurrency": 2}, None),
        ([GPUS], {"workers": 2}, {"gpus": 1.5}, None),
        ([HEAD], {"workers": 2}, {}, None),
    ],
)
def test_as_many_trials_as_find_places(
    machines: list, fields: dict, asked: dict, expected: Placement | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: machines)
    config = from_mapping({f"compute.{name}": value for name, value in fields.items()})
    if expected:
        assert place(config, **asked) == expected
    else:
        with pytest.raises(UserError, match=r"--gpus-per-worker"):
            place(config, **asked)


@pytest.mark.parametrize(
    ("machines", "threads", "expected"),
    [
        ([{"CPU": 32.0, "GPU": 4.0}, {"CPU": 5.0, "GPU": 1.0}], 1, Placement(5, 1, {"CPU": 5.0, "GPU": 1})),
        ([{"CPU": 32.0, "GPU": 3.0}, CPUS], 1, Placement(3, 1, {"CPU": 10.666, "GPU": 1})),
        ([{"CPU": 16.0}, {"CPU": 2.0}], 1, Placement(18, 1, {"CPU": 1})),
        ([{"CPU": 16.0}, {"CPU": 2.0}], 4, Placement(4, 1, {"CPU": 4})),
        ([{"CPU": 2.0}], 4, Placement(1, 1, {"CPU": 2.0})),  # nothing fits, and yet something has to run
    ],
)
def test_unequal_machines_are_all_used_and_no_gpu_is_shared_while_another_is_idle(
    machines: list, threads: int, expected: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: machines)
    assert place(from_mapping({"compute.threads": threads})) == expected


@pytest.mark.parametrize("concurrency", [None, 2])
def test_a_cluster_whose_workers_are_not_there_yet_is_named(
    concurrency: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: [HEAD])
    with pytest.raises(UserError, match="wait until its machines are there"):
        place(from_mapping({}), concurrency)


def test_more_threads_are_only_advised_where_as_many_trials_still_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(machines: list[dict[str, float]], threads: int) -> str:
        monkeypatch.setattr("raygap.search.placement.nodes", lambda: machines)
        return in_words(place(from_mapping({"compute.threads": threads})), threads)[2]

    assert told([{"CPU": 6.0}, {"CPU": 2.0}], 4) == "4 of 8 CPUs idle; compute.threads=6 would use more"
    assert told([{"CPU": 4.0}, {"CPU": 2.0}], 4) == "2 of 6 CPUs idle"


def test_what_the_searches_asked_for_places_their_shared_candidates_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: dict[str, Placement] = {}

    def run(trainings: dict, placement: Placement, report: object) -> tuple[dict, dict]:
        ran.update({name: placement for _, name in trainings})
        return {}, dict.fromkeys(trainings, "not run")

    monkeypatch.setattr("raygap.search.shared.run_trainings", run)
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: [{"CPU": 4.0, "GPU": 1.0}])
    config = from_mapping({"compute.workers": 2})
    waiting = {(0, name): Training(config, tmp_path, tmp_path) for name in ("ave", "cremad")}
    plans = {
        name: Plan(name, None, 1, {}, {}, "", cpus_per_worker=cpus, gpus_per_worker=0.5)
        for name, cpus in {"ave": None, "cremad": 2.0}.items()
    }
    assert _validate(waiting, plans, None).keys() == waiting.keys()
    assert ran == {"ave": Placement(1, 2, {"CPU": 1, "GPU": 0.5}), "cremad": Placement(1, 2, {"CPU": 2.0, "GPU": 0.5})}


@pytest.mark.parametrize(("field", "value"), [("model.norm", "sync_batch"), ("compute.precision", "fp16")])
def test_what_needs_gpus_is_refused_without(field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = from_mapping({field: value, "compute.workers": 2})
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: [GPUS])
    assert place(config).at_once == 1
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: [CPUS])
    with pytest.raises(UserError, match=f"{value} needs GPUs"):
        place(config)


def test_a_trial_that_was_killed_for_want_of_memory_says_so(tmp_path: Path) -> None:
    text = tmp_path / "error.txt"
    trial = SimpleNamespace(error_file=str(text), pickled_error_file=None, path="run/tune/1")
    memory = "1 worker(s) were killed due to the node running low on memory. Memory on the node was\n2.03GB"
    for number, why in enumerate([memory, "the node died", memory], 1):
        with text.open("a") as file:
            file.write(f"Failure # {number} (occurred at noon)\n{why}\n")
        said = why_given_up(trial)
        assert ("ran out of memory" in said) == ("--concurrency" in said) == (why == memory)
        assert said.endswith("; see run/tune/1/error.txt")
