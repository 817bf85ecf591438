"""Media files as FFmpeg opens them, and what pictures and sound share: seeking, and what makes a clip unusable."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

# Seconds: what lies further ahead than this is sought; up to it, reading on costs less.
SEEK_BEYOND = 5.0


class BadClip(Exception):
    """A clip that cannot be used; the message is the reason, in a few words."""


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """An open container; whatever FFmpeg says while it is open becomes BadClip."""
    try:
        # Titles in odd encodings are no reason to leave a clip out.
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams:  # an index that was cut off
                raise BadClip("unreadable: no streams")
            yield container
    except av.FFmpegError as error:
        raise BadClip(f"unreadable: {error.strerror}") from None


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS has left a pointer here for a file that was not pulled."""
    try:
        with path.open("rb") as file:
            return file.read(40).startswith(b"version https://git-lfs.github.com/spec/")
    except OSError:  # FFmpeg will say it
        return False


def file_seconds(path: Path) -> float | None:
    """How long a file says it is, in seconds; None if it does not say, or cannot be read."""
    try:
        with open_media(path) as container:
            return container.duration / av.time_base if container.duration else None
    except BadClip:
        return None


def rewind(container: InputContainer, stream: VideoStream | AudioStream) -> None:
    beginning = stream.start_time or 0
    try:  # a second before, where that is allowed: some formats land behind what is sought
        container.seek(int(beginning - 1 / stream.time_base), stream=stream)
    except PermissionError:
        container.seek(beginning, stream=stream)
