"""What a search was worth, in numbers and words, from seeds whose differences are known."""

import math

import pytest

from raygap.tracking.seed_results import Paired, SeedResults
from raygap.tracking.worth import CHOSEN, CORRECTED, SHUFFLED, Worth, control_of


def seeds(*accuracies: float, validation: float = 0.5, corrected: float = 0.0) -> SeedResults:
    rows = {
        seed: {"test_accuracy": accuracy, "best_val_accuracy": validation, "epoch": 12, "epochs_reused": 4}
        | ({CORRECTED: accuracy + corrected} if corrected else {})
        for seed, accuracy in enumerate(accuracies, start=1)
    }
    return SeedResults(rows, {})


def worth(**results: SeedResults) -> Worth:
    return Worth("gmm_scores", {CHOSEN: seeds(0.80, 0.82, 0.84), **results})


def test_differences_are_paired_by_the_seeds_that_both_have() -> None:
    base = {1: {"a": 0.7}, 2: {"a": 0.5}, 3: {"b": 0.5}, 5: {"a": 0.1}}
    paired = Paired.of({1: {"a": 0.8}, 2: {"a": 0.4}, 3: {"a": 0.9}, 4: {"a": 0.2}}, base, "a")
    assert paired.gains == pytest.approx((0.1, -0.1))
    assert (paired.wins, paired.seeds, paired.clear) == (1, 2, False)
    # t-interval of two differences that are 0.1 from their mean: t(0.975, 1) = 12.706.
    assert paired.interval.half_width == pytest.approx(12.7062 * 0.1 * math.sqrt(2) / math.sqrt(2), rel=1e-4)
    assert Paired.of({1: {"a": 1.0}}, {2: {"a": 1.0}}, "a") is None


@pytest.mark.parametrize(
    ("baseline", "said", "advised"),
    [
        ((0.77, 0.79, 0.82), "is better than unimodal_losses by 2.7 ± 1.4 points on 3 of 3 seeds;", False),
        (
            (0.75, 0.84, 0.83),
            "is ahead of unimodal_losses by 1.3 ± 8.7 points on 2 of 3 seeds, which may",
            False,
        ),
        ((0.80, 0.82, 0.84), "is equal to unimodal_losses on each seed, 3 in all", True),
        (
            (0.83, 0.80, 0.85),
            "is behind unimodal_losses by 0.7 ± 6.3 points, ahead on 1 of 3 seeds, which",
            True,
        ),
        ((0.83, 0.85, 0.86), "is worse than unimodal_losses by 2.7 ± 1.4 points, ahead on 0 of 3 seeds", True),
    ],
)
def test_the_first_sentence_tells_who_won_and_the_plain_one_is_advised_unless_it_was_beaten(
    baseline: tuple[float, ...], said: str, advised: bool
) -> None:
    found = worth(shuffled=seeds(0.79, 0.80, 0.83), unimodal_losses=seeds(*baseline))
    assert said in found.sentence
    assert "mixture" in found.sentence
    assert bool(found.advice) == found.lost == advised
    assert ("has lost" in found.advice) == ("worse than" in said)
    assert not advised or "baseline.yaml" in found.advice


def test_what_the_mixture_adds_is_claimed_only_beyond_its_interval() -> None:
    clear = worth(shuffled=seeds(0.77, 0.79, 0.82))
    assert clear.sentence.startswith("the mixture accounts for 2.7 ± 1.4 points")
    for control in (seeds(0.75, 0.84, 0.83), seeds(0.83, 0.85, 0.86)):
        assert "cannot be told" in worth(shuffled=control).sentence
    assert worth().sentence == worth().advice == ""


def test_the_baseline_to_use_is_the_better_one_on_validation_not_on_test() -> None:
    found = worth(
        unimodal_losses=seeds(0.70, 0.71, 0.72, validation=0.9), joint=seeds(0.90, 0.91, 0.92, validation=0.8)
    )
    assert found.baseline == "unimodal_losses"
    assert not found.lost
    assert any("worse than joint" in line for line in found.lines())
    equals = worth(unimodal_losses=seeds(0.7, 0.7, 0.7), joint=seeds(0.7, 0.7, 0.7))
    assert equals.baseline == "unimodal_losses"


def test_beside_a_plain_choice_stands_the_guided_rival_with_its_control_and_validation_over_the_seeds_advises() -> None:
    def found(validation: float, count: int = 3) -> Worth:
        guided = seeds(*(0.83, 0.85, 0.86)[:count], validation=validation)
        results = {CHOSEN: seeds(0.80, 0.82, 0.84, validation=0.7), "gmm_scores": guided}
        results |= {control_of("gmm_scores"): seeds(0.80, 0.82, 0.84), "joint": seeds(0.6, 0.6, 0.6, validation=0.6)}
        return Worth("unimodal_losses", results)

    better = found(0.75)
    assert (better.rival, better.preferred, better.baseline) == ("gmm_scores", True, "joint")
    assert "worse than gmm_scores by 2.7 ± 1.4 points" in better.sentence
    assert "the mixture accounts for 2.7 ± 1.4 points of gmm_scores's accuracy" in better.sentence
    assert better.advice.startswith("Use gmm_scores, whose configuration is in guided.yaml: ")
    assert "by 5.0 ± 0.0 points" in better.advice
    assert not any("shuffled" in line for line in better.lines())
    # Test has no say: the rival is as far ahead on it each time. Of equals the plain one stays; one seed cannot tell.
    for other in (found(0.7), found(0.65), found(0.75, count=1)):
        assert not other.preferred
        assert other.advice == ""
    assert worth(shuffled=seeds(0.7, 0.7, 0.7), joint=seeds(0.6, 0.6, 0.6)).rival is None


def test_corrections_and_cost_are_told_beside_it_and_a_seed_that_failed_is_left_out() -> None:
    results = {
        CHOSEN: seeds(0.80, 0.82, corrected=0.01),
        SHUFFLED: SeedResults({}, {1: "the loss became nan", 2: "the loss became nan"}),
        "joint": SeedResults({2: seeds(0.6, 0.61, corrected=0.1).rows[2]}, {1: "died"}),
    }
    found = Worth("gmm_scores", results)
    assert found.references == ["joint"]
    assert "ahead of joint by 21.0 points on 1 of 1 seeds, which one seed cannot tell" in found.sentence
    lines = " ".join(found.lines())
    assert "corrected: ahead of joint by 12.0 points" in lines
    assert "cost 8 epochs, and 4 more of shared warm-up" in lines
    header, *rows = found.table()
    assert [row[0] for row in rows] == ["gmm_scores", "joint"]
    assert all(len(row) == len(header) for row in rows)
