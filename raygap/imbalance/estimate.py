"""A mean over clips, with its interval."""

from dataclasses import dataclass

import numpy as np

from raygap.imbalance.shapley import standard_error

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """A mean over clips with the half width of its 95 % interval (normal approximation); NaN for a single clip."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Estimate":
        """Of one value a clip."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), NORMAL_95 * standard_error(values))

    @property
    def clear(self) -> bool:
        """The interval leaves out 0."""
        return abs(self.mean) > self.half_width
