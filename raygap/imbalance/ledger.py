"""The ledger: scores, averages and posteriors of every training clip, one row a clip."""

from typing import Any

import numpy as np

from raygap.imbalance.gap import modality_gap

MEANS = ("audio_mean", "visual_mean")
COLUMNS = ("audio", "visual", "audio_average", "visual_average", *MEANS, "balanced", "good_audio", "good_visual")


class Ledger:
    """Table of N training clips, by clip index. Every column is (N,) float32, NaN until first written.

    `audio`, `visual`: the latest scores. `audio_average`, `visual_average`: their debiased exponential averages.
    `audio_mean`, `visual_mean`: their plain means over all training passes, the clip's history in this training.
    `balanced`, `good_audio`, `good_visual`: probabilities that the methods write in place (`ledger.balanced[:] = ...`).
    `records`: (N,) int64, how many scores of each clip are averaged.
    `history`: (2, N) float32, audio and visual scores of other trainings of these clips, or None; no part of the state.

    >>> ledger = Ledger(clips=3, beta=0.8)
    >>> ledger.record(np.array([2, 0]), audio=np.array([0.75, 0.5]), visual=np.array([0.25, 0.5]))
    >>> ledger.gap
    array([0. , nan, 0.5], dtype=float32)
    """

    def __init__(self, clips: int, beta: float) -> None:
        """`beta`, the memory of the averages: 0 keeps the latest score alone. Raises ValueError outside [0, 1)."""
        if not 0 <= beta < 1:
            raise ValueError(f"beta must lie in [0, 1), not {beta}")
        self.beta = beta
        self.records = np.zeros(clips, dtype=np.int64)
        self.audio, self.visual = _unseen(clips), _unseen(clips)
        self.audio_average, self.visual_average = _unseen(clips), _unseen(clips)
        self.audio_mean, self.visual_mean = _unseen(clips), _unseen(clips)
        self.balanced = _unseen(clips)
        self.good_audio, self.good_visual = _unseen(clips), _unseen(clips)
        self.history: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def gap(self) -> np.ndarray:
        """(N,) latest gap, p_audio - p_visual, in [-1, 1]; NaN for clips not seen yet."""
        return modality_gap(self.audio, self.visual)

    def record(self, index: np.ndarray, audio: np.ndarray, visual: np.ndarray, average: bool = True) -> None:
        """Write the scores of the clips `index`, all three (B,); no other row changes.

        `average`: they are of a training pass, and enter the averages.

        Raises ValueError if a clip comes twice, lies outside the ledger, or the lengths differ.
        """
        index = np.asarray(index, dtype=np.int64)
        if not index.shape == np.shape(audio) == np.shape(visual) or index.ndim != 1:
            raise ValueError(
                f"index, audio and visual must be of one length, not {index.shape}, "
                f"{np.shape(audio)}, {np.shape(visual)}"
            )
        # numpy would take a negative index from the end, and keep only the last of two scores of one clip.
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise ValueError(f"clip index outside 0 to {len(self) - 1}")
        if len(np.unique(index)) != index.size:
            raise ValueError("a clip comes twice in one record; drop the sampler's padding first")
        self.audio[index] = audio
        self.visual[index] = visual
        if not average:
            return
        self.records[index] += 1
        # Debiased exponential average (Adam, Kingma and Ba 2015, section 3), written as a running mean whose
        # step is (1 - beta) / (1 - beta^n), n the clip's own count: equal to m_n / (1 - beta^n), with no second
        # column. The first step is 1 and must not read the NaN that stands there.
        step = (1 - self.beta) / (1 - self.beta ** self.records[index].astype(np.float64))
        first = self.records[index] == 1
        even = 1 / self.records[index].astype(np.float64)
        for averages, score, step_of in (
            (self.audio_average, audio, step),
            (self.visual_average, visual, step),
            (self.audio_mean, audio, even),
            (self.visual_mean, visual, even),
        ):
            before = np.where(first, 0.0, averages[index].astype(np.float64))
            averages[index] = (1 - step_of) * before + step_of * np.asarray(score, dtype=np.float64)

    def blended(self, passes: int, own: bool) -> tuple[np.ndarray, np.ndarray]:
        """Audio and visual scores (N,), float32: the history, of so many `passes`, to which the means of this training
        are added if `own`, each pass counting alike. Raises ValueError if there is no history.
        """
        if self.history is None:
            raise ValueError("this ledger has no history")
        share = self.records / (passes + self.records) if own else np.zeros(len(self))
        audio, visual = (
            np.where(share > 0, (1 - share) * before + share * mean, before).astype(np.float32)
            for before, mean in zip(self.history, (self.audio_mean, self.visual_mean), strict=True)
        )
        return audio, visual

    def columns(self) -> dict[str, np.ndarray]:
        """Copies of all columns by name, each (N,), and `gap` and `records`: a table of the clips, in order."""
        table = {name: getattr(self, name).copy() for name in COLUMNS}
        if self.history is not None:
            table |= {"audio_history": self.history[0].copy(), "visual_history": self.history[1].copy()}
        return {**table, "gap": self.gap, "records": self.records.copy()}

    def state_dict(self) -> dict[str, Any]:
        """Plain arrays and numbers, copied, that load_state_dict restores exactly."""
        arrays = {name: getattr(self, name).copy() for name in (*COLUMNS, "records")}
        return {"beta": self.beta, **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a ledger of the same clips. Raises ValueError if its length or beta differ."""
        if len(state["records"]) != len(self) or state["beta"] != self.beta:
            raise ValueError(
                f"this ledger has {len(self)} clips and beta {self.beta}, "
                f"the saved one {len(state['records'])} and {state['beta']}"
            )
        for name in (*COLUMNS, "records"):
            # A training begun by a version that kept no means goes on without them.
            getattr(self, name)[:] = np.nan if name in MEANS and name not in state else state[name]


def _unseen(clips: int) -> np.ndarray:
    return np.full(clips, np.nan, dtype=np.float32)
