from pathlib import Path

import numpy as np
import pyarrow
import pytest

from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.tasks.remarks import on_chance, on_silence, on_steps


def lasting(store: Store, seconds: float) -> Store:
    lengths = pyarrow.array(np.full(len(store.labels), seconds))
    clips = store.clips.set_column(store.clips.column_names.index("seconds"), "seconds", lengths)
    return Store(Path(), store.header, store.frames, store.spectrograms, clips)


def test_sound_much_shorter_than_the_window_is_said(small_store: Store) -> None:
    settings = from_mapping({"prepare.seconds": 4}).prepare
    [line] = on_silence(lasting(small_store, 0.4), settings)
    assert "90 % of what the network hears is silence; try --set prepare.seconds=0.4" in line
    assert not on_silence(lasting(small_store, 2.5), settings)
    repeated = from_mapping({"prepare.seconds": 4, "prepare.fill": "repeat"}).prepare
    assert not on_silence(lasting(small_store, 0.4), repeated)
    assert not on_silence(small_store, settings)  # lengths are not known


def test_few_steps_are_said(small_store: Store) -> None:
    [line] = on_steps(small_store, from_mapping({"optimizer.batch_size": 32}))
    assert line == "2 steps an epoch: 48 training clips, 32 a step; try --set optimizer.batch_size=4, or more epochs"
    [line] = on_steps(small_store, from_mapping({"optimizer.batch_size": 4, "optimizer.accumulate": 8}))
    assert "48 training clips, 32 a step; try --set optimizer.accumulate=1" in line
    assert not on_steps(small_store, from_mapping({"optimizer.batch_size": 4}))


@pytest.mark.parametrize(("accuracy", "said"), [(1 / 3, True), (0.2, True), (0.5, True), (0.75, False), (1.0, False)])
def test_what_cannot_be_told_from_chance_is_said(accuracy: float, said: bool, small_store: Store) -> None:
    lines = on_chance("test accuracy", accuracy, small_store, "test")
    assert bool(lines) == said
    assert all(line.startswith(f"test accuracy {accuracy:.3f} cannot be told from chance (0.333") for line in lines)
