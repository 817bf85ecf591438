"""What scans of folders share: which files in them are none of the data set's, and names in two Unicode forms."""

import os
import re
import unicodedata
from collections.abc import Container, Iterator
from pathlib import Path

SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
"""In lower case. They hold thumbnails, or halves of files, under the names of the files themselves."""

# Unfinished and intermediate files, as yt-dlp, FFmpeg's callers and browsers write them: clip.temp.mp4,
# clip.f137.mp4 (the picture alone), clip.part.mp4; clip.mp4.part and clip.mp4.crdownload end in no medium's suffix.
_UNFINISHED = re.compile(r".*\.(temp|tmp|part|partial|download|crdownload|incomplete|f\d+(-\w+)?)", re.IGNORECASE)
# What file managers add to the name of a copy: "clip (1)", "clip copy 2", "clip - Copy".
_COPY = re.compile(r"(?P<of>.+?)( \(\d+\)|( -)? copy( \d+| \(\d+\))?|_copy\d*)", re.IGNORECASE)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is hidden (as ._clip.mp4, which macOS writes beside clip.mp4) or not finished."""
    return name.startswith((".", "~$")) or _UNFINISHED.fullmatch(os.path.splitext(name)[0]) is not None


def copy_of(stem: str, others: Container[str]) -> bool:
    """Whether this is a file manager's copy of one of the others; both are names without suffix."""
    match = _COPY.fullmatch(stem)
    return match is not None and match["of"] in others


def media_files(folder: Path, suffixes: Container[str], passed_over: list[str]) -> list[Path]:
    """The files in a folder with one of these suffixes (lower case), sorted, without leftovers and copies.

    The names of leftovers and copies are added to `passed_over`.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return _without_leftovers(paths, passed_over)


def media_files_below(root: Path, suffixes: Container[str], passed_over: list[str]) -> Iterator[Path]:
    """The same at any depth, links followed, but not in hidden folders and those of the system."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_hidden_folder(name))
        paths = sorted(Path(folder, name) for name in names if os.path.splitext(name)[1].lower() in suffixes)
        yield from _without_leftovers(paths, passed_over)


def is_hidden_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _without_leftovers(paths: list[Path], passed_over: list[str]) -> list[Path]:
    finished = [path for path in paths if not is_leftover(path.name)]
    stems = {path.stem for path in finished}
    kept = [path for path in finished if not copy_of(path.stem, stems)]
    passed_over += sorted(path.name for path in set(paths).difference(kept))
    return kept


def note_passed_over(names: list[str], notes: list[str]) -> None:
    """Say how many files were none of the data set's."""
    if names:
        more = ", ..." if len(names) > 3 else ""
        notes.append(f"hidden or unfinished files, and copies, passed over: {len(names)}: {', '.join(names[:3])}{more}")


class FileFinder:
    """Finds files by paths that were written on another system."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, text: str) -> Path:
        r"""Where `text`, relative to the folder or whole, leads: with / in place of \, and with é in one letter or two,
        if only so it leads anywhere. Nothing need be there."""
        path = Path(os.path.normpath(folder / text))
        if os.path.exists(path):  # Path.exists would raise for a name too long
            return path
        if "\\" in text:
            path = Path(os.path.normpath(folder / text.replace("\\", "/")))
        found = Path(path.anchor)
        for part in path.parts[1 if path.anchor else 0 :]:
            if not os.path.exists(found / part):
                part = self._names(found).get(unicodedata.normalize("NFC", part), part)
            found /= part
        return found

    def _names(self, folder: Path) -> dict[str, str]:
        """The names in a folder by their composed form."""
        if folder not in self._listings:
            names = os.listdir(folder) if folder.is_dir() else []
            self._listings[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listings[folder]
