import optuna
import pytest

from raygap.tracking.choice import choice_in_words, rival_of
from raygap.tracking.run_folder import PLAIN, best_trial


def study_of(*trials: tuple[float, bool]) -> optuna.Study:
    """Complete trials by value and whether they are plain."""
    study = optuna.create_study(direction="maximize")
    for value, plain in trials:
        attributes = {PLAIN: True} if plain else {}
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs=attributes))
    return study


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (
            ((0.85, True), (0.90, False), (0.80, True)),
            "a guided trial, 5.0 points (8.0 of 160 clips) above the best of",
        ),
        (
            ((0.85, True), (0.80, False)),
            "a plain trial, 5.0 points (8.0 of 160 clips) above the only guided",
        ),
        (((0.85, False),), "No plain trial was among the candidates"),
        (((0.85, True),), "No guided trial was among the candidates"),
    ],
)
def test_it_is_said_what_was_chosen_and_by_how_much(trials: tuple[tuple[float, bool], ...], said: str) -> None:
    assert said in choice_in_words(study_of(*trials), guided=not trials[0][1] or len(trials) == 3, clips=160)


def test_a_method_without_mixture_has_nothing_to_say_and_a_plain_winners_rival_is_the_best_guided_trial() -> None:
    assert choice_in_words(study_of((0.8, False), (0.9, False)), guided=False, clips=100) == ""
    study = study_of((0.7, False), (0.9, True), (0.8, False))
    assert rival_of(study, best_trial(study)).number == 2
