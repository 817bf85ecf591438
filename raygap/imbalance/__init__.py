"""Numbers of modality imbalance: gaps, mixtures, shares of a modality, corrections. Nothing here knows of raygap."""

from typing import Literal

GapScore = Literal["absolute", "signed", "min_score"]
"""What the mixture is fitted to; see gap.mixture_values."""
