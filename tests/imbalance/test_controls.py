import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygap.imbalance.controls import controlled, within_class_permutation

labels_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(labels_lists, st.integers(0, 2**31 - 1))
def test_shuffling_keeps_each_class_its_values(labels_list: list[int], seed: int) -> None:
    labels = np.array(labels_list)
    values = np.random.default_rng(1).random(len(labels)).astype(np.float32)
    permutation = within_class_permutation(labels, seed)
    shuffled = controlled(values, "shuffled", labels, permutation)
    for label in set(labels_list):
        assert sorted(shuffled[labels == label]) == sorted(values[labels == label])
    np.testing.assert_array_equal(permutation, within_class_permutation(labels, seed))
    assert shuffled.dtype == values.dtype


def test_shuffling_breaks_the_tie_between_clip_and_value() -> None:
    labels = np.repeat(np.arange(4), 500)
    values = np.random.default_rng(0).random(2_000)
    shuffled = controlled(values, "shuffled", labels, within_class_permutation(labels, 0))
    assert abs(np.corrcoef(values, shuffled)[0, 1]) < 0.1
    other = controlled(values, "shuffled", labels, within_class_permutation(labels, 1))
    assert not np.array_equal(shuffled, other)


def test_the_other_controls() -> None:
    labels = np.zeros(4, dtype=np.int64)
    values = np.array([0.0, 0.25, 0.5, 1.0], dtype=np.float32)
    permutation = within_class_permutation(labels, 0)
    np.testing.assert_array_equal(controlled(values, "fitted", labels, permutation), values)
    np.testing.assert_array_equal(controlled(values, "inverted", labels, permutation), [1, 0.75, 0.5, 0])
    np.testing.assert_array_equal(controlled(values, "constant", labels, permutation), [0.4375] * 4)


def test_a_permutation_across_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="different classes"):
        controlled(np.zeros(2), "shuffled", np.array([0, 1]), np.array([1, 0]))


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown control 'sorted'"):
        controlled(np.zeros(2), "sorted", np.zeros(2), np.arange(2))
