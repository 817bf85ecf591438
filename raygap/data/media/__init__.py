"""Pictures and sound out of media files; the parts load when they are used."""

import importlib
from typing import Any

_PARTS = {
    "files": ("BadClip", "file_seconds", "open_media"),
    "pictures": ("decode_frames", "frame_times", "frames_shape"),
    "sound": ("decode_audio", "decode_audio_file", "hear", "hear_file"),
}


def __getattr__(name: str) -> Any:
    for part, names in _PARTS.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{part}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
