from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raygap.errors import UserError
from raygap.imbalance.ledger import Ledger
from raygap.methods import METHODS, find_method
from raygap.methods.base import Method, Step
from raygap.models.network import Outputs, make_network
from raygap.schema import from_mapping

CLIPS, CLASSES = 300, 4
LABELS = np.arange(CLIPS) % CLASSES
CPU = torch.device("cpu")


def ledger(epochs: int = 3) -> Ledger:
    """A third of the clips has a bad picture, a tenth a bad sound."""
    draw = np.random.default_rng(0)
    table = Ledger(CLIPS, beta=0.8)
    bad_picture, bad_sound = draw.random(CLIPS) < 0.33, draw.random(CLIPS) < 0.1
    for _ in range(epochs):
        audio = np.where(bad_sound, draw.beta(2, 8, CLIPS), draw.beta(8, 2, CLIPS))
        visual = np.where(bad_picture, draw.beta(2, 8, CLIPS), draw.beta(8, 2, CLIPS))
        table.record(np.arange(CLIPS), audio, visual)
    return table


def method(name: str, **fields: Any) -> Method:
    config = from_mapping({"method": name} | {k.replace("__", "."): v for k, v in fields.items()})
    return find_method(name)(config, LABELS, CPU)


def batch(seed: int = 0) -> tuple[Outputs, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    index = torch.randperm(CLIPS)[:16]
    audio, visual = torch.randn(16, CLASSES), torch.randn(16, CLASSES)
    outputs = Outputs(audio + visual, audio, visual, audio, visual)
    return outputs, torch.from_numpy(LABELS)[index], index


def mean_one(weights: np.ndarray, index: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy((weights / weights.mean())[index.numpy()]).float()


def kl(outputs: Outputs, labels: torch.Tensor) -> torch.Tensor:
    a, v = outputs.audio.log_softmax(1), outputs.visual.log_softmax(1)
    audio_stronger = a.gather(1, labels[:, None]) >= v.gather(1, labels[:, None])
    strong, weak = torch.where(audio_stronger, a, v), torch.where(audio_stronger, v, a)
    return F.kl_div(weak, strong, log_target=True, reduction="none").sum(1)


def ce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize("focus_on", ["imbalanced", "balanced", "uniform"])
@pytest.mark.parametrize("scope", ["all", "fusion"])
def test_gmm_adaptive_against_its_equation(focus_on: str, scope: str) -> None:
    weights = {"fusion": 1.3, "unimodal": 0.7, "align": 0.4}
    guided = method(
        "gmm_adaptive",
        align__focus=focus_on,
        loss__focus_scope=scope,
        loss__focus=2.0,
        loss__shift_weight=0.6,
        **{f"loss__{name}_weight": value for name, value in weights.items()},
    )
    table = ledger()
    guided.refit(table)
    outputs, labels, index = batch()
    terms = guided.adaptive_terms(outputs, labels, index)

    r = guided.mixture.imbalanced(np.abs(table.gap)).astype(np.float32).astype(np.float64)
    w_f = 1 + 2 * (1 - r)
    w_u = w_f if scope == "all" else np.ones(CLIPS)
    w_a = {"imbalanced": 1 + 2 * r, "balanced": 1 + 2 * (1 - r), "uniform": np.ones(CLIPS)}[focus_on]
    mu = ((1 - r) * np.abs(table.gap)).sum() / (1 - r).sum()
    gap = outputs.audio.softmax(1) - outputs.visual.softmax(1)
    gap = gap.gather(1, labels[:, None]).squeeze(1).abs()
    pull = kl(outputs, labels) + 0.6 * torch.from_numpy(r[index]).float() * (gap - mu).clamp(min=0)
    expected = {
        "fusion": 1.3 * (mean_one(w_f, index) * ce(outputs.fused, labels)).mean(),
        "audio": 0.7 * (mean_one(w_u, index) * ce(outputs.audio, labels)).mean(),
        "visual": 0.7 * (mean_one(w_u, index) * ce(outputs.visual, labels)).mean(),
        "align": 0.4 * (mean_one(w_a, index) * pull).mean(),
    }
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", ["per_modality", "all"])
@pytest.mark.parametrize("mask", ["balanced", "all"])
@pytest.mark.parametrize("separator", ["scores2d", "scores1d", "min_score", "raw"])
def test_gmm_scores_against_its_equation(weights: str, mask: str, separator: str) -> None:
    guided = method("gmm_scores", scores__weights=weights, align__mask=mask, scores__separator=separator)
    table = ledger()
    assert guided.refit(table)["mixture_degenerate"] == 0
    outputs, labels, index = batch()
    terms = guided.adaptive_terms(outputs, labels, index)

    q = guided.reliability(ledger())
    if weights == "all":
        w_a = w_v = w_f = 1 + 3 * q.joint
    else:
        w_a, w_v, w_f = 1 + 3 * q.audio, 1 + 3 * q.visual, 1 + 3 * q.audio * q.visual
    m = q.joint if mask == "balanced" else np.ones(CLIPS)
    expected = {
        "fusion": (mean_one(w_f, index) * ce(outputs.fused, labels)).mean(),
        "audio": (mean_one(w_a, index) * ce(outputs.audio, labels)).mean(),
        "visual": (mean_one(w_v, index) * ce(outputs.visual, labels)).mean(),
        "align": 0.5 * (mean_one(m, index) * kl(outputs, labels)).mean(),
    }
    for name, term in expected.items():
        # The second fit starts from the first one and may end a little beside it.
        torch.testing.assert_close(terms[name], term, rtol=2e-2, atol=1e-3)


def test_the_fused_head_sees_means_where_a_modality_is_spoiled() -> None:
    guided = method("gmm_scores", loss__combine="replace", loss__fusion_weight=1.5, loss__focus=100.0)
    table = ledger()
    guided.refit(table)
    network = make_network(guided.config.model, CLASSES, 0)
    draw = torch.Generator().manual_seed(0)
    shapes = (16, 1, 16, 16), (16, 1, 3, 16, 16)
    sound, picture = (torch.randn(shape, generator=draw) for shape in shapes)
    _, labels, index = batch()
    step = Step(sound, picture, labels, index, 1.0, 0, 0, index.numpy())
    plain, shown = network(sound, picture), guided.outputs(network, step)
    seen = []
    for name, features in (("audio", plain.audio_features), ("visual", plain.visual_features)):
        q = torch.from_numpy(getattr(table, f"good_{name}")[index])[:, None]
        seen.append(q * features + (1 - q) * (q * features).sum(0) / q.sum())
    torch.testing.assert_close(shown.fused, network.fusion(*seen))
    torch.testing.assert_close(shown.audio, plain.audio)
    terms = guided.adaptive_terms(shown, labels, index)
    torch.testing.assert_close(terms["fusion"], 1.5 * ce(shown.fused, labels).mean())
    w_a = 1 + 100 * table.good_audio.astype(np.float64)
    torch.testing.assert_close(terms["audio"], (mean_one(w_a, index) * ce(shown.audio, labels)).mean())


@pytest.mark.parametrize("name", ["gmm_adaptive", "gmm_scores"])
def test_a_mixture_over_a_history_knows_nothing_of_this_training(name: str) -> None:
    guided = method(name, gap__source="history", mixture__refit_every=0)
    table, other = ledger(), ledger(epochs=1)
    history = np.stack([table.audio_mean, table.visual_mean])
    fitted = []
    for one in (table, other):
        one.history = history
        metrics = method(name, gap__source="history", mixture__refit_every=0).refit(one)
        fitted.append(metrics)
        assert metrics["mixture_degenerate"] == 0
        assert metrics["mixture_ashman_d"] > 0  # of the gap, beside the scores
    assert fitted[0] == fitted[1]
    np.testing.assert_array_equal(table.balanced, other.balanced)
    table.history = np.full_like(history, np.nan)
    assert guided.refit(table)["mixture_degenerate"] == 1


@pytest.mark.parametrize("name", ["gmm_adaptive", "gmm_scores"])
def test_weights_have_mean_one_over_the_ledger_and_do_not_know_batches(name: str) -> None:
    guided = method(name)
    guided.refit(ledger())
    for term in ("fusion", "align"):
        assert float(guided.weights[term].mean()) == pytest.approx(1, abs=1e-5)
    outputs, labels, index = batch()
    whole = sum(guided.adaptive_terms(outputs, labels, index).values())
    halves = []
    for part in (slice(0, 8), slice(8, 16)):
        cut = Outputs(*(getattr(outputs, field)[part] for field in vars(outputs)))
        halves.append(sum(guided.adaptive_terms(cut, labels[part], index[part]).values()))
    torch.testing.assert_close(whole, torch.stack(halves).mean())


@pytest.mark.parametrize("name", ["gmm_adaptive", "gmm_scores"])
def test_a_degenerate_fit_keeps_the_last_good_one(name: str) -> None:
    guided = method(name)
    outputs, labels, index = batch()
    plain = method("unimodal_losses").adaptive_terms(outputs, labels, index)

    empty = Ledger(CLIPS, beta=0.8)
    metrics = guided.refit(empty)
    assert metrics["mixture_degenerate"] == 1
    assert metrics["mixture_reason"]
    before = guided.adaptive_terms(outputs, labels, index)
    for term in plain:  # weight 1 everywhere
        torch.testing.assert_close(before[term], plain[term])

    table = ledger()
    guided.refit(table)
    good, balanced = guided.adaptive_terms(outputs, labels, index), table.balanced.copy()
    table.record(np.arange(CLIPS), np.full(CLIPS, np.nan), np.full(CLIPS, np.nan))
    assert guided.refit(table)["mixture_degenerate"] == 1
    assert np.array_equal(table.balanced, balanced)
    after = guided.adaptive_terms(outputs, labels, index)
    assert all(torch.equal(good[term], after[term]) for term in good)


@pytest.mark.parametrize("name", ["gmm_adaptive", "gmm_scores"])
def test_controls_change_what_the_loss_sees(name: str) -> None:
    balanced = {}
    for control in ("fitted", "shuffled", "inverted", "constant"):
        table = ledger()
        method(name, mixture__posterior=control).refit(table)
        balanced[control] = table.balanced
    fitted = balanced["fitted"]
    np.testing.assert_allclose(balanced["inverted"], 1 - fitted, atol=1e-6)
    np.testing.assert_allclose(balanced["constant"], fitted.mean(), atol=1e-6)
    assert not np.allclose(balanced["shuffled"], fitted)
    for label in range(CLASSES):
        mine = label == LABELS
        np.testing.assert_allclose(np.sort(balanced["shuffled"][mine]), np.sort(fitted[mine]))


@pytest.mark.parametrize("name", ["gmm_adaptive", "gmm_scores"])
def test_state_restores_loss_and_next_fit(name: str) -> None:
    one, other = method(name), method(name)
    table = ledger()
    one.refit(table)
    other.load_state_dict(one.state_dict())
    outputs, labels, index = batch()
    first, second = (m.adaptive_terms(outputs, labels, index) for m in (one, other))
    assert all(torch.equal(first[term], second[term]) for term in first)
    table.record(np.arange(CLIPS), table.audio[::-1].copy(), table.visual)
    assert one.refit(table) == other.refit(table)


def test_joint_trains_separate_heads_as_probes_only() -> None:
    outputs, labels, _ = batch()
    assert method("joint").plain_terms(outputs, labels).keys() == {"fusion"}
    assert method("joint", model__readout="heads").plain_terms(outputs, labels).keys() == {"fusion", "audio", "visual"}


def test_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean gmm_scores"):
        find_method("gmm_score")


@pytest.mark.parametrize("name", list(METHODS))
def test_what_a_method_says_of_itself_is_so(name: str) -> None:
    kind = METHODS[name]
    one = kind(from_mapping({"method": name}), LABELS, CPU)
    assert kind.guided == (kind.separate is not Method.separate)
    one.refit(ledger())
    assert kind.own_separator == (one.mixture is None)
    outputs, labels, _ = batch()
    heavier = kind(from_mapping({"method": name, "warmup.unimodal_weight": 3.0}), LABELS, CPU)
    assert kind.plain_unimodal == (one.plain_terms(outputs, labels) != heavier.plain_terms(outputs, labels))
