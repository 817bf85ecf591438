"""What a user should know about data and numbers before believing them: a line each, where a command comes by it."""

import math

import numpy as np
import scipy  # whose parts load when they are used

from raygap.config import Prepare, TrialConfig
from raygap.data.clips import Split
from raygap.data.store import Store

MUCH_SILENCE = 0.5
FEW_STEPS = 10


def on_silence(store: Store, settings: Prepare) -> list[str]:
    """Whether most of what the network hears is the silence behind sounds shorter than the window."""
    lengths = np.array([seconds for seconds in store.clips["seconds"].to_pylist() if seconds], np.float64)
    if settings.fill != "silence" or not len(lengths):
        return []
    silence = float(np.maximum(1 - lengths / settings.seconds, 0).mean())
    if silence < MUCH_SILENCE:
        return []
    enough = math.ceil(10 * float(np.quantile(lengths, 0.9))) / 10
    return [
        f"half of the clips last {np.median(lengths):.2g} s or less, and prepare.seconds = {settings.seconds:g}: "
        f"{100 * silence:.0f} % of what the network hears is silence; try --set prepare.seconds={enough:g}"
    ]


def on_steps(store: Store, config: TrialConfig) -> list[str]:
    """Whether an epoch has too few steps to learn much in it."""
    clips = sum(len(store.rows(split)) for split in (("train", "val") if config.protocol == "paper" else ("train",)))
    batch = config.optimizer.batch_size * config.optimizer.accumulate
    steps = math.ceil(clips / batch)
    if steps >= FEW_STEPS:
        return []
    smaller = max(2 ** int(math.log2(max(clips / FEW_STEPS, 1))), 4)
    other = "accumulate=1" if config.optimizer.accumulate > 1 else f"batch_size={smaller}"
    mend = f"; try --set optimizer.{other}, or more epochs" if smaller < batch else "; give it more epochs"
    plural = "step" if steps == 1 else "steps"
    return [f"{steps} {plural} an epoch: {clips} training clips, {batch} a step{mend}"]


def on_chance(what: str, accuracy: float, store: Store, split: Split) -> list[str]:
    """Whether an accuracy on a split can be told from that of always naming its most frequent class."""
    labels = store.labels[store.rows(split)]
    chance = float(np.bincount(labels).max() / len(labels))
    right = round(accuracy * len(labels))
    if chance == 1 or scipy.stats.binomtest(right, len(labels), chance, alternative="greater").pvalue < 0.05:
        return []
    return [
        f"{what} {accuracy:.3f} cannot be told from chance ({chance:.3f}, by always naming the most frequent of "
        f"{len(store.class_names)} classes) on {len(labels)} clips: nothing, or too little, has been learnt"
    ]
