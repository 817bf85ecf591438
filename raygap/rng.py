"""Random draws by purpose: each follows from its key alone, never from what was drawn before it."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator for one purpose (and, say, one epoch). The same arguments give the same draws on every machine."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters]))
    )
