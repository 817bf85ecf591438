"""What each modality contributes to the accuracy: Shapley values of a game with two players.

The exact formula (Shapley 1953), v the accuracy of a coalition of modalities:

    audio  = ((v(audio)  - v(none)) + (v(both) - v(visual))) / 2
    visual = ((v(visual) - v(none)) + (v(both) - v(audio)))  / 2

They add up to v(both) - v(none), and their difference is v(audio) - v(visual), whatever v(none) is.
What a coalition without a modality means is the caller's choice, and has to be told with the values.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np


@dataclass(frozen=True)
class Shapley:
    """Values in units of accuracy; each error is one standard error over the clips."""

    audio: float
    visual: float
    audio_error: float
    visual_error: float
    coalitions: dict[str, float]
    """Accuracy of none, audio, visual and both."""


Worth = TypeVar("Worth", float, np.ndarray)


def two_players(none: Worth, audio: Worth, visual: Worth, both: Worth) -> tuple[Worth, Worth]:
    """Shapley values of audio and visual from the worth of the four coalitions, numbers or arrays."""
    return (audio - none + both - visual) / 2, (visual - none + both - audio) / 2


def shapley_of_accuracy(none: np.ndarray, audio: np.ndarray, visual: np.ndarray, both: np.ndarray) -> Shapley:
    """From whether each coalition answers each of N clips rightly, four (N,) of bool or of probabilities, N > 0."""
    worth = {"none": none, "audio": audio, "visual": visual, "both": both}
    worth = {name: np.asarray(right, dtype=np.float64) for name, right in worth.items()}
    # The values are linear in the worth: a clip has its own, and theirs are the means.
    by_audio, by_visual = two_players(**worth)
    return Shapley(
        audio=float(by_audio.mean()),
        visual=float(by_visual.mean()),
        audio_error=standard_error(by_audio),
        visual_error=standard_error(by_visual),
        coalitions={name: float(right.mean()) for name, right in worth.items()},
    )


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values (N,); NaN for a single one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
