"""The training clips most probably spoiled, from the trainings of a run folder: a list to mend, or to leave out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from raygap.imbalance.spoiled import KINDS, Others, Spoiled, find_spoiled
from raygap.tracking.comparison_table import BASELINES
from raygap.tracking.run_folder import trial_folder, write_csv

ANSWERS = "answers.parquet"
"""Beside a tested training's ledger: what its network takes each training clip for, if not for its label."""
MODALITIES = ("audio", "visual")
HEADER = ["id", "split", "label", "kind", "probability", "audio_score", "visual_score", "audio_other", "visual_other"]


@dataclass(frozen=True, eq=False)
class Suspects:
    """N training clips: ids and labels (N,), text; averaged scores by modality, (N,); and what was found."""

    ids: np.ndarray
    labels: np.ndarray
    scores: dict[str, np.ndarray]
    others: dict[str, Others] | None
    """Labels are text."""
    found: Spoiled
    about: str
    """What the scores are, half a sentence."""

    def other(self, modality: str, row: int) -> str:
        """Which class a modality takes a clip for, if not for its label; empty if that is not known."""
        return str(self.others[modality].label[row]) if self.others else ""

    def write(self, path: Path, split: str = "train") -> None:
        """The clips to look at as CSV, by kind, the most probable first; --exclude takes the file as it is."""
        rows = [
            [self.ids[row], split, self.labels[row], kind, f"{self.found.any[row]:.4f}"]
            + [f"{self.scores[name][row]:.4f}" for name in MODALITIES]
            + [self.other(name, row) for name in MODALITIES]
            for kind in KINDS
            for row in self.found.listed(kind).tolist()
        ]
        write_csv(path, HEADER, rows)


def trainings_of(run: Path, number: int) -> list[Path]:
    """The folders that tell of the clips: of the test seeds of a trial, or, before they are trained, of the trial.

    Of the references unimodal_losses counts too; the control knows nothing, and joint hardly trains a modality alone.
    """
    tested = run / "seeds" / f"trial-{number:04d}"
    found = [*tested.glob("[0-9]*/ledger.parquet"), *tested.glob(f"{BASELINES[1]}/[0-9]*/ledger.parquet")]
    return sorted(file.parent for file in found) or [trial_folder(run, number)]


def suspects(folders: Sequence[Path], seed: int = 0) -> Suspects:
    """From the ledgers of trainings on the same clips, and what their networks take the clips for, where that is known.

    Raises FileNotFoundError if a ledger is missing, DegenerateMixture where no mixture can be fitted.
    """
    ids, labels, scores, count = averaged_scores(folders)
    answers = [pq.read_table(folder / ANSWERS) for folder in folders if (folder / ANSWERS).exists()]
    answers = [answer for answer in answers if answer["clip"].to_pylist() == ids.tolist()]
    others = {name: _pooled(answers, name) for name in MODALITIES} if answers else None
    found = find_spoiled(scores["audio"], scores["visual"], labels, others, seed)
    return Suspects(ids, labels, scores, others, found, averaged_over(count))


def averaged_over(trainings: int) -> str:
    """What scores are, in words."""
    return f"averaged over the epochs of {'a training' if trainings == 1 else f'{trainings} trainings'}"


def averaged_scores(folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], int]:
    """Ids and labels (N,), text, scores (N,) by modality averaged over trainings, and over how many.

    Trainings on other clips than the first are left out. Raises FileNotFoundError.
    """
    ledgers = [pq.read_table(folder / "ledger.parquet") for folder in folders]
    ids, labels = (np.array(ledgers[0][name].to_pylist()) for name in ("clip", "label"))
    ledgers = [ledger for ledger in ledgers if ledger["clip"].to_pylist() == ids.tolist()]
    scores = {name: np.mean([_averaged(ledger, name) for ledger in ledgers], axis=0) for name in MODALITIES}
    return ids, labels, scores, len(ledgers)


def _averaged(ledger: "pq.Table", name: str) -> np.ndarray:
    """A clip's score over the epochs of a training, as evenly averaged as it is known."""
    known = [column for column in (f"{name}_mean", f"{name}_average") if column in ledger.column_names]
    return ledger[known[0]].to_numpy().astype(np.float64)


def _pooled(answers: list["pq.Table"], name: str) -> Others:
    """The mean score of the other class, and the class of the training that is surest."""
    scores = np.array([answer[f"{name}_other_score"].to_numpy() for answer in answers])
    labels = np.array([answer[f"{name}_other"].to_pylist() for answer in answers])
    return Others(labels[scores.argmax(axis=0), np.arange(scores.shape[1])], scores.mean(axis=0))
