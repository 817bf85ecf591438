import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raygap.imbalance.gap import gap_counts, mixture_values, modality_gap, score_range, true_class_score

scores = hnp.arrays(np.float32, 5, elements=st.floats(0, 1, width=32))


def test_score_is_the_softmax_probability_of_the_true_class() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))
    torch.testing.assert_close(true_class_score(logits, torch.tensor([2, 0])), torch.tensor([0.5, 0.6]))


def test_score_of_bfloat16_logits_is_computed_in_float32() -> None:
    logits = torch.tensor([[8.0, 0.0]], dtype=torch.bfloat16)
    score = true_class_score(logits, torch.tensor([0]))
    assert score.dtype == torch.float32
    assert score.item() == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-7)  # bfloat16 would round it to 1


def test_score_of_huge_logits_stays_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert true_class_score(logits, torch.tensor([0, 0])).tolist() == [1.0, 0.0]


@given(scores, scores)
def test_values_of_the_mixture_follow_their_formulas(audio: np.ndarray, visual: np.ndarray) -> None:
    gap = modality_gap(audio, visual)
    np.testing.assert_array_equal(gap, -modality_gap(visual, audio))
    np.testing.assert_array_equal(mixture_values(audio, visual, "signed"), gap)
    np.testing.assert_array_equal(mixture_values(audio, visual, "absolute"), np.abs(gap))
    np.testing.assert_array_equal(mixture_values(audio, visual, "min_score"), np.maximum(1 - audio, 1 - visual))


@pytest.mark.parametrize("score", ["absolute", "signed", "min_score"])
def test_an_unseen_clip_stays_nan(score: str) -> None:
    seen, unseen = np.array([0.5, 0.5]), np.array([0.5, np.nan])
    assert np.isnan(mixture_values(seen, unseen, score)).tolist() == [False, True]


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown gap score 'relative'"):
        mixture_values(np.zeros(2), np.zeros(2), "relative")


@given(scores, scores, st.sampled_from(["absolute", "signed", "min_score"]))
def test_every_clip_that_was_seen_is_counted_once_in_its_bin(audio: np.ndarray, visual: np.ndarray, score: str) -> None:
    values = mixture_values(audio, visual, score)
    assert sum(gap_counts(np.append(values, np.nan), score)) == len(values)
    [place] = np.flatnonzero(gap_counts(values[:1], score, bins=10))
    edges = np.linspace(*score_range(score), 11)
    assert edges[place] - 1e-6 <= values[0] <= edges[place + 1] + 1e-6
