"""Small stores made without media: training tests need clips that can be learnt, not files that can be decoded."""

from raygap.testing import SMALL, write_store

__all__ = ["SMALL", "write_store"]
