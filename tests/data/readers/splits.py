"""The official split files, where this machine has them."""

import os
from pathlib import Path

import pytest

OFFICIAL = Path(os.environ.get("RAYGAP_SPLITS", "missing"))
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="RAYGAP_SPLITS names no folder with the official split files"
)
