"""Checksums of media: a store is known by what it was made of, wherever that lies and whenever it was copied there."""

import hashlib
import json
import logging
import stat
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raygap.data.clips import Clip, ClipList
from raygap.data.extracted import pictures_in
from raygap.data.notes import FileNotes
from raygap.plugins import file_name

WHOLE = 16 * 2**20
"""Bytes of the largest file that is read whole; of a larger one so many are, in even steps from its first to its last.
Videos of an hour would else take longer to read than their clips take to decode."""
PIECE = 2**16
THREADS = 8
"""Files that are read at a time: network file systems answer several as fast as one."""
QUIET = 10.0
"""Seconds of reading after which a line says what is going on."""

Checksums = dict[Path, str | None]
"""None: no file that can be read."""


def media_checksums(clip_list: ClipList, cache: Path | None = None, *, anew: bool = False) -> Checksums:
    """Of all files of a data set.

    What is found is noted in `cache`, by the files' paths, sizes and times of change, and taken from there the next
    time, unless it is to be found out `anew`.
    """
    paths = list(dict.fromkeys(path for clip in clip_list.clips for path in (clip.video, clip.audio) if path))
    notes = FileNotes(cache and cache / f"checksums-{file_name(clip_list.name)}.json", checksum, anew=anew)

    def one(path: Path) -> str | None:
        try:
            if path.is_dir():  # of frames, whose names say their order
                sums = [[file.name, notes.of(file)] for file in pictures_in(path)]
                return hashlib.sha256(json.dumps(sums).encode()).hexdigest()
            return notes.of(path)
        except OSError:  # the clip will be quarantined, with the reason
            return None

    found: Checksums = {}
    began, told = time.monotonic(), False
    with ThreadPoolExecutor(THREADS) as threads:
        for path, value in zip(paths, threads.map(one, paths), strict=True):
            found[path] = value
            if not told and time.monotonic() - began > QUIET:
                told = True
                logging.getLogger("raygap").warning(
                    "reading the media once, to know them again: %d of %d files done", len(found), len(paths)
                )
    notes.save()
    return found


def checksum(path: Path) -> str:
    """sha256 of the size and the content (see WHOLE). Raises OSError."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):  # to open a pipe would be to wait for its other end
        raise OSError("not a plain file")
    size = state.st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            digest = hashlib.file_digest(file, "sha256")
        else:
            digest, pieces = hashlib.sha256(), WHOLE // PIECE
            for i in range(pieces):
                file.seek((size - PIECE) * i // (pieces - 1))
                digest.update(file.read(PIECE))
    digest.update(str(size).encode())
    return digest.hexdigest()


def note_twins(clips: tuple[Clip, ...], checksums: Checksums) -> list[str]:
    """A line for each way in which clips of the same content (and times) in different files contradict each other:
    they lie in two splits, or have two labels."""
    twins = defaultdict(list)
    for clip in clips:
        sums = checksums.get(clip.video), clip.audio and checksums.get(clip.audio)
        if sums[0]:
            twins[sums, clip.start or 0.0, clip.end].append(clip)
    notes = []
    for field, what in (("split", "in two splits"), ("label", "under two labels")):
        apart = [group for group in twins.values() if len({getattr(clip, field) for clip in group}) > 1]
        if apart:
            first = apart[0]
            other = next(clip for clip in first if getattr(clip, field) != getattr(first[0], field))
            named = " and ".join(f"{clip.id} ({getattr(clip, field)})" for clip in (first[0], other))
            notes.append(f"files of the same content stand {what}: {len(apart)}, such as {named}; remove one of them")
    return notes
