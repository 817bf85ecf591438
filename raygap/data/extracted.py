"""What circulates in place of media: of each clip a folder of frames, and a spectrogram in a file.

Image-01-FPS/<clip>/00001.jpg, visual/<clip>/frame_00001.jpg, train-frames-1fps/train/<clip>/frame_00001.jpg
audio/<clip>.wav, Audio-1004-SE/<clip>.pkl, train_spec/<clip>.npy, audio/<clip>.pt
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PICTURE_FILES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SPECTROGRAM_FILES = (".npy", ".pt", ".pkl")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", *SPECTROGRAM_FILES)
"""In the order in which one of several of a clip is taken."""

_RATE = re.compile(r"(\d+)-?fps", re.IGNORECASE)
_CUT = re.compile(r".*[-_]SE", re.IGNORECASE)


def is_spectrogram(path: Path) -> bool:
    """Whether a clip's sound is a spectrogram that others have made, by the file's name."""
    return path.suffix.lower() in SPECTROGRAM_FILES


def pictures_in(folder: Path) -> list[Path]:
    """The frames in a folder, in their order: frame_2 before frame_10. Raises OSError if it cannot be read."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_FILES and file.name[0] != "."]
    # Letters and numbers in turn, so that like is compared with like.
    return sorted(files, key=lambda file: [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", file.name)])


def rate_of(folder: Path) -> float | None:
    """Frames a second, as a folder above the clip's says it (Image-01-FPS); None if none does."""
    said = [match for part in folder.parts[-4:-1] if (match := _RATE.search(part))]
    return float(said[-1][1]) or None if said else None


@dataclass
class Extracted:
    """The folders of frames and the files of sounds below a data set's root, by the name of their clip."""

    frames: dict[str, Path] = field(default_factory=dict)
    sounds: dict[str, Path] = field(default_factory=dict)

    def cut(self, name: str) -> bool:
        """Whether a clip's are cut to its event: they lie in folders named -SE, as in PMR's code for AVE."""
        found = [place[name].parts for place in (self.frames, self.sounds) if name in place]
        return any(_CUT.fullmatch(part) for parts in found for part in parts)

    def note(self, root: Path) -> str:
        """Where they were found."""
        first = [next(iter(place.values()), root / "-").parent for place in (self.frames, self.sounds)]
        frames, sounds = (Path(os.path.relpath(folder, root)).as_posix() for folder in first)
        return (
            f"in place of media: folders of frames of {len(self.frames)} clips (such as in {frames}), sound of "
            f"{len(self.sounds)} (such as in {sounds})"
        )


def find_extracted(root: Path, is_clip: Callable[[str], bool]) -> Extracted:
    """At any depth below the root, links followed: folders with pictures, and files of sound, named as a clip is.

    Of several of one clip those cut to their event (-SE) are taken, then by the order of SOUNDS, then of their paths.
    """
    found, ranks = Extracted(), dict[tuple[str, str], tuple[bool, int, str]]()

    def take(kind: str, place: dict[str, Path], clip: str, path: Path, order: int) -> None:
        rank = (not any(map(_CUT.fullmatch, path.parts)), order, str(path))
        if rank < ranks.get((kind, clip), (True, len(SOUNDS), "")):
            ranks[kind, clip], place[clip] = rank, path

    for folder, names in _walk(root):
        clip = _clip_of(folder.name)
        if is_clip(clip) and any(os.path.splitext(name)[1].lower() in PICTURE_FILES for name in names):
            take("frames", found.frames, clip, folder, 0)
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SOUNDS and is_clip(stem):
                take("sound", found.sounds, stem, folder / name, SOUNDS.index(suffix.lower()))
    return found


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    from raygap.data.readers.folders import is_hidden_folder

    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_hidden_folder(name))
        yield Path(folder), sorted(name for name in names if name[0] != ".")


def _clip_of(folder: str) -> str:
    """Some folders of frames keep the ending of the film: <clip>.mp4/."""
    stem, suffix = os.path.splitext(folder)
    return stem if suffix.lower() in (".mp4", ".flv", ".mkv", ".webm", ".avi") else folder
