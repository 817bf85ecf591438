"""What a data set is to raygap: a list of labelled clips."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # the names of the readers are told without numpy
    from raygap.data.features import Features

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
class LeftOut:
    """A clip that cannot be used, or a line of a list that names none."""

    id: str
    """The clip's, or file and line: `train.csv, line 4`."""
    reason: str
    """What is wrong with it; what many may have in common stands before a colon."""


def by_reason(left_out: Iterable[LeftOut]) -> dict[str, list[LeftOut]]:
    """By what stands before the reasons' colon (after it, each names its own file); the most frequent first."""
    groups: dict[str, list[LeftOut]] = {}
    for one in left_out:
        groups.setdefault(one.reason.partition(":")[0], []).append(one)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


@dataclass(frozen=True)
class ClipList:
    """A data set: its clips, and its class names in the order of the class indices."""

    name: str
    clips: tuple[Clip, ...]
    class_names: tuple[str, ...]
    root: Path
    """Folder that the media lie under; a store's key holds the paths relative to it."""
    notes: tuple[str, ...] = ()
    """What the reader left out or drew by itself, a line each; shown to the user and kept in the store."""
    left_out: tuple[LeftOut, ...] = ()
    """Faulty lines of the lists; they count among the quarantined clips."""
    features: "Features | None" = field(default=None, compare=False)
    """What other networks have made of the clips, in their order, in place of media."""


def fault_of(clip_list: ClipList) -> str | None:
    """What keeps a list from being a data set, in words; None if nothing does. Files may be missing: they are named
    when they are decoded.
    """
    if not isinstance(clip_list.root, Path):
        return f"root = {clip_list.root!r}: expected a pathlib.Path"
    ids: set[str] = set()
    for clip in clip_list.clips:
        if not isinstance(clip, Clip):
            return f"clips holds {clip!r:.80}, which is no raygap.data.clips.Clip"
        if not isinstance(clip.id, str) or not clip.id or clip.id in ids:
            return f"id {clip.id!r} of a clip is {'taken' if clip.id in ids else 'no text'}; each needs one of its own"
        ids.add(clip.id)
        for name, path, needed in (("video", clip.video, True), ("audio", clip.audio, False)):
            if not isinstance(path, Path) and (needed or path is not None):
                return f"clip {clip.id}: {name} = {path!r}: expected a pathlib.Path"
        if clip.split not in SPLITS:
            return f"clip {clip.id}: split = {clip.split!r}: expected one of {', '.join(SPLITS)}"
        if clip.label not in clip_list.class_names:
            return f"clip {clip.id}: label = {clip.label!r}: not one of class_names"
        times = (clip.start or 0, clip.end if clip.end is not None else math.inf)
        if not all(isinstance(time, int | float) for time in times) or not 0 <= times[0] < times[1]:
            return f"clip {clip.id}: start = {clip.start!r}, end = {clip.end!r}: expected seconds, start before end"
    if len(set(clip_list.class_names)) != len(clip_list.class_names) or len(clip_list.class_names) < 2:
        return f"class_names = {clip_list.class_names!r}: expected two classes or more, each once"
    for split in SPLITS:
        if not any(clip.split == split for clip in clip_list.clips):
            return f"no clips with split {split}"
    for name in clip_list.class_names:
        if not any(clip.label == name and clip.split == "train" for clip in clip_list.clips):
            return f"no clip of class {name!r} for training"
    return None


@dataclass(frozen=True)
class ReaderOptions:
    """How a data set is read, where its folder leaves a choice. Plain values: a sweep's plan keeps them in YAML."""

    splits: str | None = None
    """Folder of the split files; None: the data set's own folder."""
    val: Literal["stratified", "actors"] | None = None
    """How validation is carved from train; None: the reader's own way."""
    keep_overlap: bool = False
    """Leave clips in train that stand in val or test too."""
    exclude: str | None = None
    """A CSV that names clips to leave out."""

    def given(self) -> dict[str, str]:
        """The options that differ from their defaults, as the commands take them: name -> value ("" for a switch)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in values.items() if value not in (None, False)}
        return {f"--{name.replace('_', '-')}": "" if value is True else value for name, value in given.items()}
