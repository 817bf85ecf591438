"""raygap.predict: class probabilities of media files by a trained network."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from joblib import cpu_count

from raygap.api.arguments import Count, checked, progress_of
from raygap.data.tables import table_writer
from raygap.errors import UserError
from raygap.tasks.source import check_network, load_classifier
from raygap.training.inference import (
    answer_columns,
    answer_row,
    answers,
    choose_correction,
    combined_in_words,
    read_media,
)


@checked
def predict(
    media: Sequence[Path] | Path,
    checkpoint: Path,
    *,
    correction: Path | None = None,
    uncorrected: bool = False,
    out: Path | None = None,
    workers: Count | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Class probabilities of clips, fused and by modality, a row a clip; labels are not needed.

    The arguments are those of `raygap predict`: `media` are video and sound files and .csv files that list clips,
    `checkpoint` is a best.pt or a sweep's run folder, whose ensemble answers if it keeps one (keep_top of sweep).
    `out`, a .csv or .parquet file, gets the table too. A clip that cannot be used has its reason in its row. Without a
    correction the one that the checkpoint keeps is applied, if it helped on validation, unless `uncorrected`; the
    table's `attrs["notes"]`, sentences, say so.
    """
    if out and out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {out}: unknown kind of file; end it in .csv or .parquet")
    check_network(checkpoint)
    classifier = load_classifier(checkpoint)
    shown = progress_of(progress)
    if correction and uncorrected:
        raise UserError("--correction and --uncorrected contradict each other; leave one out")
    corrected, notes = choose_correction(classifier, correction, uncorrected)
    notes = [*combined_in_words(classifier), *(note.replace("--uncorrected", "uncorrected=True") for note in notes)]
    shown.note(notes)
    clips = read_media([media] if isinstance(media, Path) else media, classifier)
    with shown.preparing() as bar:
        found = answers(classifier, clips, workers=workers or cpu_count(), correction=corrected, progress=bar)
        rows = [answer_row(answer, classifier.class_names) for answer in found]
    columns = answer_columns(classifier.class_names)
    if out:
        with table_writer(out, columns) as write:
            for row in rows:
                write(row)
    table = pd.DataFrame(rows, columns=list(columns))
    table.attrs["notes"] = notes
    return table
