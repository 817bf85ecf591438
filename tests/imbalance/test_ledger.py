import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygap.imbalance.ledger import COLUMNS, Ledger


def filled(beta: float = 0.8) -> Ledger:
    random = np.random.default_rng(0)
    ledger = Ledger(6, beta)
    for index in (np.arange(6), np.array([4, 1])):
        ledger.record(index, random.random(len(index)), random.random(len(index)))
    ledger.balanced[:] = random.random(6)
    ledger.good_audio[2] = 0.25
    return ledger


@given(st.floats(0, 0.99), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30))
def test_average_is_the_weighted_mean_of_the_records(beta: float, scores: list[float]) -> None:
    ledger = Ledger(1, beta)
    for score in scores:
        ledger.record(np.array([0]), np.array([score]), np.array([1 - score]))
    weights = beta ** np.arange(len(scores))[::-1]
    expected = np.average(scores, weights=weights)
    assert ledger.audio_average[0] == pytest.approx(expected, abs=1e-5)
    assert ledger.visual_average[0] == pytest.approx(1 - expected, abs=1e-5)
    assert 0 <= ledger.audio_average[0] <= 1


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.integers(0, 59))
def test_mean_is_that_of_all_training_passes_also_after_an_interruption(scores: list[float], stop: int) -> None:
    whole, parts = Ledger(2, beta=0.8), Ledger(2, beta=0.8)
    for number, score in enumerate(scores):
        if number == stop:
            saved, parts = parts.state_dict(), Ledger(2, beta=0.8)
            parts.load_state_dict(saved)
        for ledger in (whole, parts):
            ledger.record(np.array([0]), np.array([score]), np.array([1 - score]))
            ledger.record(np.array([0]), np.array([0.5]), np.array([0.5]), average=False)  # no training pass
    assert whole.audio_mean[0] == pytest.approx(np.mean(scores), abs=1e-5)
    assert whole.visual_mean[0] == pytest.approx(1 - np.mean(scores), abs=1e-5)
    assert np.isnan(whole.audio_mean[1])
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(column, parts.columns()[name])


def test_a_training_begun_without_means_goes_on_without() -> None:
    ledger = filled()
    state = {name: column for name, column in ledger.state_dict().items() if "mean" not in name}
    ledger.load_state_dict(state)
    ledger.record(np.arange(6), np.full(6, 0.5), np.full(6, 0.5))
    assert np.isnan(ledger.audio_mean).all()
    assert not np.isnan(ledger.audio_average).any()


def test_each_clip_is_debiased_by_its_own_count() -> None:
    ledger = Ledger(2, beta=0.5)
    ledger.record(np.array([0]), np.array([0.0]), np.array([0.0]))
    ledger.record(np.array([0, 1]), np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(ledger.audio_average, [2 / 3, 1.0], rtol=1e-6)
    assert ledger.records.tolist() == [2, 1]


def test_without_memory_the_average_is_the_latest_score() -> None:
    ledger = Ledger(1, beta=0.0)
    for score in (0.3, 0.7):
        ledger.record(np.array([0]), np.array([score]), np.array([score]))
    assert ledger.audio_average[0] == ledger.audio[0] == np.float32(0.7)


def test_recording_a_subset_leaves_the_other_rows() -> None:
    ledger = filled()
    before = ledger.columns()
    ledger.record(np.array([5, 3]), np.array([0.1, 0.2]), np.array([0.3, 0.4]))
    others = [0, 1, 2, 4]
    for name, column in ledger.columns().items():
        np.testing.assert_array_equal(column[others], before[name][others])
    np.testing.assert_array_equal(ledger.audio[[5, 3]], np.float32([0.1, 0.2]))
    np.testing.assert_array_equal(ledger.visual[[5, 3]], np.float32([0.3, 0.4]))


def test_an_empty_record_changes_nothing() -> None:
    ledger = filled()
    before = ledger.columns()
    ledger.record(np.array([], dtype=np.int64), np.array([]), np.array([]))
    for name, column in ledger.columns().items():
        np.testing.assert_array_equal(column, before[name])


def test_rows_are_nan_until_first_seen() -> None:
    ledger = Ledger(3, 0.8)
    ledger.record(np.array([1]), np.array([0.9]), np.array([0.4]))
    for name in ("audio", "visual", "audio_average", "visual_average", "gap"):
        assert np.isnan(ledger.columns()[name]).tolist() == [True, False, True]
    assert ledger.gap[1] == pytest.approx(0.5)
    assert all(ledger.columns()[name].dtype == np.float32 for name in COLUMNS)


@pytest.mark.parametrize(
    ("index", "reason"), [([0, 6], "outside"), ([-1, 0], "outside"), ([2, 2], "twice"), ([1], "one length")]
)
def test_a_wrong_index_is_refused_before_anything_is_written(index: list[int], reason: str) -> None:
    ledger = filled()
    before = ledger.columns()
    with pytest.raises(ValueError, match=reason):
        ledger.record(np.array(index), np.array([0.1, 0.2]), np.array([0.3, 0.4]))
    for name, column in ledger.columns().items():
        np.testing.assert_array_equal(column, before[name])


def test_a_restored_ledger_goes_on_like_the_one_saved() -> None:
    ledger, restored = filled(), Ledger(6, 0.8)
    restored.load_state_dict(pickle.loads(pickle.dumps(ledger.state_dict())))
    for either in (ledger, restored):
        either.record(np.array([0, 4]), np.array([0.15, 0.25]), np.array([0.35, 0.45]))
    for name, column in ledger.columns().items():
        np.testing.assert_array_equal(column, restored.columns()[name])


def test_a_saved_state_is_a_copy() -> None:
    ledger = filled()
    state = ledger.state_dict()
    saved = state["audio"].copy()
    ledger.record(np.arange(6), np.zeros(6), np.zeros(6))
    np.testing.assert_array_equal(state["audio"], saved)


@pytest.mark.parametrize("other", [Ledger(5, 0.8), Ledger(6, 0.7)])
def test_a_state_of_other_clips_or_another_beta_is_refused(other: Ledger) -> None:
    with pytest.raises(ValueError, match="the saved one"):
        other.load_state_dict(filled().state_dict())


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_beta_outside_its_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        Ledger(3, beta)


def test_scores_that_are_not_of_a_training_pass_leave_the_averages_alone() -> None:
    ledger = filled()
    before = ledger.columns()
    ledger.record(np.array([1, 3]), np.array([0.15, 0.25]), np.array([0.35, 0.45]), average=False)
    assert ledger.audio[[1, 3]].tolist() == pytest.approx([0.15, 0.25])
    for name in ("audio_average", "visual_average", "records"):
        np.testing.assert_array_equal(ledger.columns()[name], before[name])


def with_history(passes: int = 3) -> Ledger:
    draw = np.random.default_rng(0)
    table = Ledger(5, beta=0.8)
    for _ in range(passes):
        table.record(np.arange(4), draw.random(4), draw.random(4))  # the last clip is never seen
    table.history = draw.random((2, 5)).astype(np.float32)
    return table


def test_own_passes_count_as_those_of_the_history_do() -> None:
    table = with_history()
    audio, visual = table.blended(passes=7, own=True)
    for score, before, mean in (
        (audio, table.history[0], table.audio_mean),
        (visual, table.history[1], table.visual_mean),
    ):
        np.testing.assert_allclose(score[:4], (7 * before[:4] + 3 * mean[:4]) / 10, rtol=1e-6)
        assert score[4] == before[4]


def test_alone_the_history_is_what_it_is() -> None:
    table = with_history()
    for passes, own in ((7, False), (0, False)):
        np.testing.assert_array_equal(table.blended(passes, own), table.history)


def test_a_clip_without_history_stays_unknown() -> None:
    table = with_history()
    table.history[0, 2] = np.nan
    assert np.isnan(table.blended(7, own=True)[0]).tolist() == [False, False, True, False, False]
    table.history = None
    with pytest.raises(ValueError, match="no history"):
        table.blended(7, own=True)
