from raygap.tracking.comparison_outcome import main_baseline, outcome
from raygap.tracking.comparison_table import SHOWN, MethodResult


def result(method: str, accuracies: list[float], validation: float | None = 0.5) -> MethodResult:
    return MethodResult(
        method, validation, {seed: dict.fromkeys(SHOWN, value) for seed, value in enumerate(accuracies)}
    )


BASE = result("unimodal_losses", [0.50, 0.52, 0.54, 0.53], 0.56)
WINNER = result("gmm_scores", [0.55, 0.565, 0.60, 0.57], 0.58)
LOSER = result("mla", [0.40, 0.43, 0.435, 0.42], 0.44)
LEVEL = result("ogm_ge", [0.51, 0.51, 0.55, 0.52], 0.57)


def test_the_baseline_is_the_one_that_validation_prefers() -> None:
    assert main_baseline([result("joint", [0.9], 0.7), result("unimodal_losses", [0.1], 0.8)]) == "unimodal_losses"
    assert main_baseline([result("joint", [0.1], 0.8), result("unimodal_losses", [0.9], 0.8)]) == "unimodal_losses"
    assert main_baseline([result("joint", [0.1], 0.9), result("unimodal_losses", [0.9], 0.8)]) == "joint"
    assert main_baseline([MethodResult("joint", 0.9), WINNER]) is None  # without a test result nothing is compared


def test_who_is_clearly_better_or_worse_stands_first() -> None:
    told = outcome([BASE, WINNER, LOSER, LEVEL])
    assert told.startswith("1 of 3 methods is clearly better than unimodal_losses (paired t-test, corrected after Holm")
    assert "gmm_scores by 4.9 ± 1.4 points, ahead on 4 of 4 seeds" in told
    assert "Clearly worse: mla." in told
    assert "Validation chooses gmm_scores (58.00 %), which reaches 57.12 ± 3.34 % on test" in told
    assert "did not choose" not in told


def test_a_null_result_is_said_to_be_one() -> None:
    told = outcome([BASE, LEVEL])
    assert told.startswith("None of 1 method is clearly better than unimodal_losses (paired t-test, 5 %)")
    assert "Validation chooses ogm_ge" in told
    one_seed = outcome([result("joint", [0.5]), result("ogm_ge", [0.9])])
    assert one_seed.startswith("None of 1 method is clearly better than joint")


def test_what_validation_chose_is_not_what_is_highest_on_test() -> None:
    unlucky = result("pmr", [0.5, 0.51, 0.52, 0.5], 0.9)
    told = outcome([BASE, WINNER, unlucky])
    assert "Validation chooses pmr (90.00 %)" in told
    assert "Highest on test is gmm_scores (57.12 ± 3.34 %), which validation did not choose." in told


def test_what_cannot_be_said_is_not() -> None:
    assert outcome([MethodResult("joint", 0.9)]) == "No method has a test result yet."
    assert outcome([WINNER]).startswith("No baseline (joint or unimodal_losses) took part")
    assert outcome([BASE]).startswith("Only the baseline unimodal_losses has a result")
