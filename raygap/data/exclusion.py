"""Clips that a user leaves out: a CSV names them, such as the spoiled.csv of a sweep or a diagnosis."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

from raygap.data.clips import SPLITS, ClipList, fault_of
from raygap.data.readers.lists import read_table
from raygap.errors import UserError

COLUMNS = ("id", "clip")
NAMED = 5
"""Unknown clips that a refusal names."""


def leave_out(clip_list: ClipList, file: Path) -> ClipList:
    """The clips without those that the file names in its column `id` (or `clip`); a note says how many of which split.

    Raises UserError if the file cannot be read or has no such column, names clips that are not there, or leaves a split
    or a class without clips.
    """
    table = read_table(file)
    column = next((name for name in COLUMNS if name in table.columns), None)
    if column is None:
        raise UserError(f"--exclude {file}: no column id; name the clips to leave out in one")
    named = dict.fromkeys(table.named(fields)[column] for _, fields in table.rows)
    known = {clip.id: clip for clip in clip_list.clips} | {one.id: None for one in clip_list.left_out}
    unknown = [name for name in named if name not in known]
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise UserError(
            f"--exclude {file}: {clip_list.name} has no clip {', '.join(map(repr, unknown[:NAMED]))}{more}; "
            "give a file that was made of this data set"
        )
    kept = replace(clip_list, clips=tuple(clip for clip in clip_list.clips if clip.id not in named))
    if fault := fault_of(kept):
        raise UserError(f"--exclude {file}: what it leaves is no data set: {fault}")
    splits = Counter(known[name].split for name in named if known[name])
    counts = ", ".join(f"{splits[split]} of {split}" for split in SPLITS if splits[split]) or "none"
    note = f"clips left out, as {file.name} says: {counts}"
    logging.getLogger("raygap").warning("%s: %s", clip_list.name, note)
    return replace(kept, notes=(*kept.notes, note))
