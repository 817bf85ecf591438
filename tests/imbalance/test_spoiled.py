"""Planted damage is found and named by its kind."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from raygap.imbalance.gaussians import DegenerateMixture
from raygap.imbalance.spoiled import KINDS, Others, find_spoiled

CLASSES, CLIPS = 4, 800


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Others], np.ndarray]:
    """Scores, labels, others and truth: a tenth of the clips each spoiled, mismatched and mislabelled."""
    random = np.random.default_rng(seed)
    labels = np.arange(CLIPS) % CLASSES
    truth = random.permutation(np.repeat([*KINDS, "clean"], [80, 80, 80, 80, 480]))
    shown = {name: labels.copy() for name in ("audio", "visual")}
    shown["visual"][truth == "mismatch"] = (labels[truth == "mismatch"] + 1) % CLASSES
    for name in shown:
        shown[name][truth == "label"] = (labels[truth == "label"] + 2) % CLASSES
    scores, others = {}, {}
    for name, gone in (("audio", "sound"), ("visual", "picture")):
        strength = np.where(truth == gone, 0.0, 4.0) + np.where(labels == 0, 1.0, 0.0)  # a class is easier than others
        strength[truth == gone] = 0.0
        logits = strength[:, None] * np.eye(CLASSES)[shown[name]] + 0.5 * random.normal(size=(CLIPS, CLASSES))
        probabilities = softmax(logits, axis=1)
        scores[name] = probabilities[np.arange(CLIPS), labels]
        others[name] = Others.of(probabilities, labels)
    return scores["audio"], scores["visual"], labels, others, truth


def test_kinds_of_damage_are_told_apart() -> None:
    audio, visual, labels, others, truth = planted()
    found = find_spoiled(audio, visual, labels, others)
    for kind in KINDS:
        listed = found.listed(kind)
        assert np.mean(truth[listed] == kind) > 0.8, kind
        assert len(listed) > 60, kind
        assert (np.diff(found.any[listed]) <= 0).all()
    assert np.mean(found.any[truth == "clean"] > 0.5) < 0.05
    assert all("well apart" in text for text in found.about)


def test_without_other_classes_the_worse_modality_is_named_and_the_kinds_add_up_to_the_same() -> None:
    audio, visual, labels, others, truth = planted()
    whole, bare = find_spoiled(audio, visual, labels, others), find_spoiled(audio, visual, labels)
    np.testing.assert_allclose(whole.any, bare.any, atol=1e-12)
    assert not len(bare.listed("mismatch"))
    assert not len(bare.listed("label"))
    assert set(truth[bare.listed("picture")]) & {"mismatch", "picture"}


def test_one_group_is_not_called_two_and_classes_of_different_difficulty_do_not_look_spoiled() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(CLIPS) % CLASSES
    audio, visual = (expit(3.0 * (labels == 1) + 0.4 * random.normal(size=CLIPS)) for _ in range(2))
    found = find_spoiled(audio, visual, labels)
    assert all("not two groups" in text for text in found.about)
    listed = np.concatenate([found.listed(kind) for kind in KINDS])
    assert max(len(found.listed(kind)) for kind in KINDS) <= 0.05 * CLIPS
    assert np.bincount(labels[listed], minlength=CLASSES).max() < 0.5 * max(len(listed), 1) + 10


def test_scores_that_are_none_are_refused() -> None:
    audio, visual, labels, *_ = planted()
    with pytest.raises(DegenerateMixture, match="1 clips have no score"):
        find_spoiled(np.where(np.arange(CLIPS) == 3, np.nan, audio), visual, labels)
    with pytest.raises(DegenerateMixture, match="all equal"):
        find_spoiled(np.full(CLIPS, 0.5), visual, labels)
