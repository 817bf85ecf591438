import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from raygap.imbalance.gaussians import Gaussians
from raygap.imbalance.mixture import DegenerateMixture
from raygap.imbalance.scores_mixture import (
    FEWEST,
    Reliability,
    centred,
    fit_reliability,
    small_classes,
    together,
)

SEPARATORS = ["scores2d", "scores1d", "min_score", "raw"]
SETTINGS = {"components": 4, "reg_covar": 1e-3, "n_init": 4, "seed": 0}


def planted(clips: int = 3_000, seed: int = 0) -> dict[str, np.ndarray]:
    """Averaged scores where 20 % of the pictures, 10 % of the sounds and 10 % of the pairs are spoiled."""
    random = np.random.default_rng(seed)
    group = random.random(clips)
    bad_visual, bad_audio = (group < 0.2) | (group >= 0.9), group >= 0.8

    def averages(bad: np.ndarray) -> np.ndarray:
        logit = np.where(bad, random.normal(-1.5, 1.8, clips), random.normal(3, 1.8, clips))
        return (1 / (1 + np.exp(-logit))).astype(np.float32)

    return {
        "audio": averages(bad_audio),
        "visual": averages(bad_visual),
        "bad_audio": bad_audio,
        "bad_visual": bad_visual,
    }


def fit(scores: dict[str, np.ndarray], separator: str, **changes) -> tuple[Reliability, dict[str, np.ndarray]]:
    return fit_reliability(scores["audio"], scores["visual"], separator=separator, **{**SETTINGS, **changes})


def auroc(bad: np.ndarray, good: np.ndarray) -> float:
    return roc_auc_score(bad, 1 - good)


@pytest.mark.parametrize("separator", ["scores2d", "scores1d", "raw"])
def test_planted_clips_are_told_apart_in_each_modality(separator: str) -> None:
    scores = planted()
    reliability, _ = fit(scores, separator)
    assert auroc(scores["bad_audio"], reliability.audio) > 0.93
    assert auroc(scores["bad_visual"], reliability.visual) > 0.93
    assert auroc(scores["bad_audio"] | scores["bad_visual"], reliability.joint) > 0.9
    # A spoiled picture must not make the sound suspect.
    only_visual = scores["bad_visual"] & ~scores["bad_audio"]
    assert reliability.audio[only_visual].mean() > 0.75
    assert reliability.visual[only_visual].mean() < 0.5


def test_the_smaller_score_tells_spoiled_clips_but_not_which_modality() -> None:
    scores = planted()
    reliability, _ = fit(scores, "min_score")
    assert auroc(scores["bad_audio"] | scores["bad_visual"], reliability.joint) > 0.9
    np.testing.assert_array_equal(reliability.audio, reliability.joint)
    np.testing.assert_array_equal(reliability.visual, reliability.joint)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_reliabilities_are_probabilities_and_joint_is_the_smallest(separator: str) -> None:
    scores = planted()
    scores["audio"][:200], scores["visual"][100:300] = 1.0, 0.0  # saturated softmax
    reliability, _ = fit(scores, separator)
    for column in (reliability.audio, reliability.visual, reliability.joint):
        assert column.shape == (3_000,)
        assert np.all((column >= 0) & (column <= 1))
    assert np.all(reliability.joint <= np.minimum(reliability.audio, reliability.visual) + 1e-12)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_permuting_the_clips_permutes_the_reliabilities(separator: str) -> None:
    scores = planted()
    order = np.random.default_rng(5).permutation(3_000)
    straight, state = fit(scores, separator)
    permuted, permuted_state = fit({name: column[order] for name, column in scores.items()}, separator)
    for name in ("audio", "visual", "joint"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(straight, name)[order], rtol=0, atol=1e-13)
    for name in state:
        np.testing.assert_array_equal(state[name], permuted_state[name])


@pytest.mark.parametrize("separator", SEPARATORS)
def test_swapping_the_modalities_swaps_their_reliabilities(separator: str) -> None:
    scores = planted()
    one, _ = fit(scores, separator)
    other, _ = fit({"audio": scores["visual"], "visual": scores["audio"]}, separator)
    # The pair's starts are drawn from clips sorted by audio first, and its mixture has several near-equal optima.
    slack = 0.15 if separator == "scores2d" else 1e-9
    for name, swapped in (("audio", "visual"), ("visual", "audio"), ("joint", "joint")):
        assert np.abs(getattr(one, name) - getattr(other, swapped)).mean() < slack


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_refit_from_the_state_is_repeatable_and_changes_little(separator: str) -> None:
    scores = planted()
    cold, state = fit(scores, separator)
    first, first_state = fit(scores, separator, start=state)
    second, second_state = fit(scores, separator, start={name: array.copy() for name, array in state.items()})
    for name in ("audio", "visual", "joint"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert np.abs(getattr(first, name) - getattr(cold, name)).mean() < 0.02
    assert state.keys() == first_state.keys() == second_state.keys()
    assert all(isinstance(array, np.ndarray) for array in state.values())


@pytest.mark.parametrize("separator", SEPARATORS)
def test_an_unseen_clip_is_refused(separator: str) -> None:
    scores = planted(200)
    scores["visual"][3] = np.nan
    with pytest.raises(DegenerateMixture, match="1 clips have no finite average"):
        fit(scores, separator)


@pytest.mark.parametrize("separator", ["scores2d", "scores1d", "min_score"])
def test_scores_without_spread_are_refused(separator: str) -> None:
    scores = {"audio": np.full(200, 0.999, np.float32), "visual": np.full(200, 1.0, np.float32)}
    with pytest.raises(DegenerateMixture, match=r"all equal|distinct"):
        fit(scores, separator)


def test_a_component_of_hardly_any_clips_is_refused() -> None:
    random = np.random.default_rng(0)
    audio, visual = random.normal(0.8, 0.02, (2, 2_000))
    visual[:4] = 0.01
    with pytest.raises(DegenerateMixture, match=r"holds only 0\.20%"):
        fit({"audio": audio, "visual": visual}, "scores2d", components=2)


def test_well_fitted_clips_piled_up_at_the_clipping_point_do_not_break_the_pair() -> None:
    scores = planted()
    good = ~scores["bad_audio"] & ~scores["bad_visual"]
    scores["audio"][good], scores["visual"][good] = 0.9995, 0.9999
    reliability, _ = fit(scores, "scores2d")
    assert auroc(~good, reliability.joint) > 0.95


def test_an_unknown_separator_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown separator 'scores3d'"):
        fit(planted(200), "scores3d")


def hard_classes(small: int = 0) -> dict[str, np.ndarray]:
    """Four classes of which one is as hard as spoiled clips of the others; `small` clips are of a fifth."""
    scores = planted()
    labels = np.arange(3_000) % 4
    labels[:small] = 4
    for name in ("audio", "visual"):
        logit = np.log(scores[name]) - np.log1p(-scores[name].astype(np.float64))
        scores[name] = 1 / (1 + np.exp(-(logit - 4.0 * (labels == 0))))
    return scores | {"labels": labels}


@pytest.mark.parametrize("separator", ["scores2d", "scores1d"])
def test_hard_classes_are_no_spoiled_clips(separator: str) -> None:
    scores = hard_classes()
    plain, centred = (fit(scores, separator, classes=c)[0] for c in (None, scores["labels"]))
    for name in ("audio", "visual"):
        found, without = (auroc(scores[f"bad_{name}"], getattr(q, name)) for q in (centred, plain))
        assert found > max(0.93, without + 0.02)


def test_a_small_class_keeps_its_scores() -> None:
    scores = hard_classes(small=FEWEST - 1)
    logits = np.random.default_rng(0).normal(0, 1, (3_000, 2))
    assert small_classes(scores["labels"]).tolist() == [4]
    moved = centred(logits, scores["labels"])
    small = scores["labels"] == 4
    np.testing.assert_array_equal(moved[small], logits[small])
    for label in range(4):
        medians = np.median(moved[scores["labels"] == label], axis=0)
        np.testing.assert_allclose(medians, np.median(logits, axis=0), atol=1e-12)
    fit(scores, "scores1d", classes=scores["labels"])


def test_centring_does_not_depend_on_the_order_of_the_clips() -> None:
    scores = hard_classes()
    order = np.random.default_rng(1).permutation(3_000)
    turned = {name: column[order] for name, column in scores.items()}
    one, other = (fit(s, "scores1d", classes=s["labels"])[0] for s in (scores, turned))
    np.testing.assert_array_equal(one.audio[order], other.audio)


def test_groups_that_overlap_count_in_part() -> None:
    good = np.array([0.0, 0.5, 1.0])

    def apart(distance: float) -> np.ndarray:  # in Ashman's D
        pair = Gaussians(np.array([0.5, 0.5]), np.array([[0.0], [distance]]), np.ones((2, 1, 1)))
        return together(good, pair, distinct=2.0)

    np.testing.assert_allclose(apart(2.0), good)
    np.testing.assert_allclose(apart(3.0), good)
    np.testing.assert_allclose(apart(1.75), [0.5, 0.75, 1.0])
    np.testing.assert_allclose(apart(1.5), 1.0)
    np.testing.assert_allclose(apart(0.5), 1.0)


def test_one_group_alone_is_all_good() -> None:
    draw = np.random.default_rng(0)
    scores = {name: 1 / (1 + np.exp(-draw.normal(1, 1, 3_000))) for name in ("audio", "visual")}
    reliability, _ = fit(scores, "scores1d", distinct=2.0)
    assert min(q.min() for q in (reliability.audio, reliability.visual, reliability.joint)) > 0.9
    always, _ = fit(scores, "scores1d", distinct=0.0)
    assert always.joint.min() < 0.2
