"""The discrepancy between two modalities over training, as data-aware unimodal sampling (DUS) measures it."""

import numpy as np


def cumulative_score(scores: np.ndarray) -> np.ndarray:
    """S(t) = ((t - 1) S(t - 1) + s(t)) / t of scores s(t), (T,), from t = 1 on: the mean of all scores so far.

    s(t) is a modality's mean score (softmax probability of the true class) over the clips of step t. The discrepancy is
    S_audio(t) - S_visual(t); since the mean is linear, it is also the cumulative score of the mean gaps.

    >>> cumulative_score(np.array([0.2, 0.4, 0.9]))
    array([0.2, 0.3, 0.5])
    """
    scores = np.asarray(scores, dtype=np.float64)
    return np.cumsum(scores) / np.arange(1, len(scores) + 1)
