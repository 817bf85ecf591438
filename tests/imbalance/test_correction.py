"""Corrections on planted cases, whose answer is known."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax

from raygap.imbalance.calibration import log_loss
from raygap.imbalance.correction import (
    CORRECTIONS,
    EntropyGate,
    LearnedGate,
    TemperatureWeights,
    cross_fitted,
    from_mapping,
)

CLASSES = 4


def readout(labels: np.ndarray, strength: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Log-probabilities of a calibrated read-out: the posterior of the class given a noisy look at it.

    A look is strength * one-hot + unit noise, whose logits are strength * look.
    """
    strength = strength[:, None]
    return strength * (strength * np.eye(CLASSES)[labels] + random.normal(size=(len(labels), CLASSES)))


def clips(count: int, seed: int = 0, audio_scale: float = 1.0, visual_scale: float = 1.0, gated: bool = False):
    """Logits and labels; `scale` multiplies a read-out's logits, so that its true temperature is the scale.

    `gated`: each clip has one modality that knows nothing but says so; in the fused logits it is loud noise.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    good = random.random(count) < 0.5
    strength = np.where(good, 2.0, 0.1) if gated else np.full(count, 2.0)
    audio = readout(labels, strength, random)
    visual = readout(labels, np.where(good, 0.1, 2.0) if gated else np.full(count, 1.0), random)
    fused = audio + visual + (random.normal(size=audio.shape) * 2 if gated else 0)
    return {"fused": fused, "audio": audio_scale * audio, "visual": visual_scale * visual}, labels


def accuracy(log_p: np.ndarray, labels: np.ndarray) -> float:
    return float((log_p.argmax(axis=1) == labels).mean())


def test_planted_temperatures_are_found() -> None:
    logits, labels = clips(5_000, audio_scale=3.0, visual_scale=0.5)
    for kind in CORRECTIONS.values():
        assert kind.fit(logits, labels).temperatures == pytest.approx({"audio": 3.0, "visual": 0.5}, rel=0.1)


def test_weights_bring_a_badly_mixed_answer_back_to_the_best_one() -> None:
    logits, labels = clips(5_000, audio_scale=3.0)
    best = log_softmax(logits["audio"] / 3 + logits["visual"], axis=1)
    logits["fused"] = logits["audio"] + logits["visual"]  # audio three times too loud
    fitted = TemperatureWeights.fit(logits, labels)
    fresh, answers = clips(5_000, seed=1, audio_scale=3.0)
    fresh["fused"] = fresh["audio"] + fresh["visual"]
    assert log_loss(fitted.apply(fresh), answers) < log_loss(fresh["fused"], answers) - 0.1
    np.testing.assert_allclose(fitted.apply(logits), best, atol=0.5)


@pytest.mark.parametrize("kind", [TemperatureWeights, LearnedGate])
@pytest.mark.parametrize("seed", range(5))
def test_families_that_hold_the_uncorrected_answer_are_never_worse_where_they_were_fitted(kind, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, 30)
    logits = {name: random.normal(0, 3, (30, CLASSES)) for name in ("fused", "audio", "visual")}
    assert log_loss(kind.fit(logits, labels).apply(logits), labels) <= log_loss(logits["fused"], labels)


def test_an_answer_that_is_right_already_stays_as_it_is() -> None:
    logits, labels = clips(5_000)
    for kind in CORRECTIONS.values():
        np.testing.assert_allclose(
            log_loss(kind.fit(logits, labels).apply(logits), labels), log_loss(logits["fused"], labels), atol=2e-3
        )


@pytest.mark.parametrize("kind", [EntropyGate, LearnedGate])
def test_gates_listen_to_the_modality_that_knows_the_clip(kind) -> None:
    logits, labels = clips(3000, gated=True)
    fresh, answers = clips(3000, seed=1, gated=True)
    fitted = kind.fit(logits, labels)
    assert accuracy(fitted.apply(fresh), answers) > accuracy(fresh["fused"], answers) + 0.03
    assert log_loss(fitted.apply(fresh), answers) < log_loss(fresh["fused"], answers) - 0.1


def test_the_entropy_gate_is_never_worse_than_the_plain_product_it_holds() -> None:
    for seed in range(3):
        logits, labels = clips(200, seed=seed, gated=True)
        fitted = EntropyGate.fit(logits, labels)
        product = EntropyGate(fitted.temperatures, sharpness=0.0, scale=2.0).apply(logits)
        t = fitted.temperatures
        expected = log_softmax(
            log_softmax(logits["audio"] / t["audio"], 1) + log_softmax(logits["visual"] / t["visual"], 1), 1
        )
        np.testing.assert_allclose(product, expected, atol=1e-9)
        assert log_loss(fitted.apply(logits), labels) <= log_loss(product, labels)


def test_a_modality_alone_answers_by_its_own_tempered_read_out() -> None:
    logits, labels = clips(500, audio_scale=3.0)
    for kind in CORRECTIONS.values():
        fitted = kind.fit(logits, labels)
        expected = log_softmax(logits["audio"] / fitted.temperatures["audio"], axis=1)
        np.testing.assert_allclose(fitted.alone("audio", logits["audio"]), expected)


def test_separable_clips_stay_finite() -> None:
    labels = np.arange(40) % CLASSES
    logits = {name: 50.0 * np.eye(CLASSES)[labels] for name in ("fused", "audio", "visual")}
    for kind in CORRECTIONS.values():
        assert np.isfinite(kind.fit(logits, labels).apply(logits)).all()


def test_cross_fitting_does_not_see_the_clip_it_answers() -> None:
    # Pure noise: whatever is fitted to it can only look better on the clips of the fit.
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 60)
    logits = {name: random.normal(0, 2, (60, CLASSES)) for name in ("fused", "audio", "visual")}
    for kind in (TemperatureWeights, LearnedGate):
        fitted = log_loss(kind.fit(logits, labels).apply(logits), labels)
        assert log_loss(cross_fitted(kind, logits, labels, seed=0), labels) > fitted
    again = cross_fitted(LearnedGate, logits, labels, seed=0)
    np.testing.assert_array_equal(again, cross_fitted(LearnedGate, logits, labels, seed=0))
    with pytest.raises(ValueError, match="9 clips are too few"):
        cross_fitted(LearnedGate, {name: values[:9] for name, values in logits.items()}, labels[:9], seed=0)


@pytest.mark.parametrize("kind", CORRECTIONS.values())
def test_written_and_read_back_it_is_the_same(kind) -> None:
    logits, labels = clips(200)
    fitted = kind.fit(logits, labels)
    read = from_mapping(json.loads(json.dumps(fitted.to_mapping())))
    assert read == fitted
    np.testing.assert_array_equal(read.apply(logits), fitted.apply(logits))


@pytest.mark.parametrize(
    "damage",
    [
        {"correction": "magic"},
        {"more": 1},
        {"scale": float("nan")},
        {"scale": "much"},
        {"temperatures": {"audio": 1.0}},
        {"temperatures": {"audio": float("nan"), "visual": 1.0}},
    ],
)
def test_what_was_not_written_here_is_refused(damage: dict) -> None:
    logits, labels = clips(50)
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_mapping(EntropyGate.fit(logits, labels).to_mapping() | damage)
