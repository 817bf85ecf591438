"""Histories: mean scores of each clip over all epochs of whole trainings, a modality.

h_m(i) = mean over epochs and trainings of p_m(i, t): how early and how lastingly clip i is learned through modality m
alone. It does not forget what memorisation hides later, and a slow modality has had its time.
"""

import numpy as np

from raygap.imbalance.ledger import Ledger


def blended(ledger: Ledger, passes: int, own: bool) -> tuple[np.ndarray, np.ndarray]:
    """Audio and visual scores (N,), float32: the ledger's history of so many `passes`, to which its own passes are
    added if `own`, each counting alike. Raises ValueError if the ledger has no history.
    """
    if ledger.history is None:
        raise ValueError("this ledger has no history")
    share = ledger.records / (passes + ledger.records) if own else np.zeros(len(ledger))
    audio, visual = (
        np.where(share > 0, (1 - share) * before + share * np.nan_to_num(mean), before).astype(np.float32)
        for before, mean in zip(ledger.history, (ledger.audio_mean, ledger.visual_mean), strict=True)
    )
    return audio, visual
