"""The few statistics of a comparison over seeds."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference: every seed gives one, so what a seed makes easy or hard for both cancels."""

    mean: float
    standard_error: float  # NaN with one seed
    n: int

    @property
    def clear(self) -> bool:
        """Whether the difference is more than 2 standard errors away from 0."""
        return self.n > 1 and abs(self.mean) > 2 * self.standard_error


def paired(values: np.ndarray, reference: np.ndarray) -> Difference:
    """The mean of ``values - reference`` and its standard error; both arrays in the order of the same seeds."""
    difference = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    n = difference.size
    error = float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Difference(float(difference.mean()), error, n)


def mean(values: np.ndarray) -> float:
    """The mean, in float64."""
    return float(np.mean(np.asarray(values, np.float64)))


def deviation(values: np.ndarray) -> float:
    """The standard deviation over seeds (n - 1), 0 for one seed."""
    return float(np.std(np.asarray(values, np.float64), ddof=1)) if np.size(values) > 1 else 0.0


def chance_of_clear(n: int) -> float:
    """How often n equal pairs differ by more than 2 standard errors by chance alone (Student's t, n - 1 degrees)."""
    degrees = n - 1
    if degrees < 1:
        return 0.0
    angle = math.atan(2 / math.sqrt(degrees))
    # Abramowitz and Stegun 26.7.3 and 26.7.4: P(|t| < 2) in closed form.
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 1 - inside


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's, NaN where it is not defined."""
    if np.size(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])
