from pathlib import Path

import pytest
from stores import SMALL

from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.search import trial
from raygap.search.placement import Placement
from raygap.search.training import Training
from raygap.search.trainings import run_trainings


@pytest.mark.cluster
def test_several_workers_train_and_test_as_one_does(small_store: Store, tmp_path: Path, ray_cluster: None) -> None:
    """Equal to one worker's, but for what rounding may turn."""
    fields = SMALL | {"epochs": 3, "warmup.epochs": 1, "model.norm": "group", "method": "joint"}
    *_, alone = trial.train_seed(from_mapping(fields), small_store, tmp_path / "alone")
    together = from_mapping(fields | {"compute.workers": 2})
    trainings = {"together": Training(together, small_store.path, tmp_path / "seeds" / "together", test=True)}
    reported = []
    placement = Placement(1, 2, {"CPU": 1})
    rows, failed = run_trainings(trainings, placement, lambda key, row: reported.append((key, row["epoch"])))
    assert (rows.keys(), failed) == ({"together"}, {})
    assert reported == [("together", epoch) for epoch in (1, 2, 3, 3)]
    tolerance = 1.5 / len(small_store.rows("test"))
    for name in ("test_accuracy", "test_audio_accuracy", "test_visual_accuracy"):
        assert rows["together"][name] == pytest.approx(alone[name], abs=tolerance)
    kept = trial.tested_before(trainings["together"].config, small_store, trainings["together"].folder)
    assert kept["test_accuracy"] == rows["together"]["test_accuracy"]
