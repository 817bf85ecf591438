"""What a data set is to raygap: a list of labelled clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Clip:
    """One labelled stretch of video with its sound."""

    id: str
    """Unique within the data set."""
    video: Path
    audio: Path | None
    """None: the sound of the video file."""
    label: str
    split: Split
    start: float | None = None
    """Seconds from the beginning of both files; None: from the beginning."""
    end: float | None = None
    """Seconds from the beginning of both files; None: to the end."""


@dataclass(frozen=True)
class ClipList:
    """A data set: its clips, and its class names in the order of the class indices."""

    name: str
    clips: tuple[Clip, ...]
    class_names: tuple[str, ...]
    root: Path
    """Folder that the media lie under; a store's key holds the paths relative to it."""
