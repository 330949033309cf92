"""The statistics of comparisons over seeds, shared by ``experiments.compare`` and ``experiments.reproduce``.

Two methods are compared on the same seeds: what a seed makes easy or hard for both cancels. The spread of these paired
differences is judged by Student's t for their number, and what is looked at together is corrected together (Holm, "A
simple sequentially rejective multiple test procedure", 1979): the chance that luck alone makes any of it clear is LEVEL
at most. How sure seeds make a difference says nothing of the samples that it was measured on; :func:`resolution` does.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.05  # of all tests of one family together
WANTED = 0.8  # the power that a difference that is called detectable is found with


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean of paired differences, one a seed."""

    mean: float
    standard_error: float  # NaN with one seed
    n: int  # seeds
    p: float = math.nan  # two-sided, of no difference; after together() corrected
    resolution: float = 0.0  # what the test samples resolve, in the unit of the mean

    @property
    def known(self) -> bool:
        """Whether the seeds alone make it clear, whatever it was measured on."""
        return self.n > 1 and self.p <= LEVEL

    @property
    def clear(self) -> bool:
        """Whether there is a difference: beyond the chance of the seeds, and more than the test samples resolve."""
        return self.known and abs(self.mean) >= self.resolution

    @property
    def half_width(self) -> float:
        """How far the interval that holds the mean with 1 - LEVEL reaches to each side, uncorrected; NaN: one seed."""
        return critical(self.n, LEVEL) * self.standard_error if self.n > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """That interval."""
        return self.mean - self.half_width, self.mean + self.half_width

    def chance(self, bound: float, *, above: bool) -> float:
        """One-sided p of a true mean that is not above (not below) a bound; 1 with one seed."""
        if self.n < 2:
            return 1.0
        gap = self.mean - bound if above else bound - self.mean
        if self.standard_error == 0:  # the same in every seed: nothing is left to chance
            return 0.0 if gap > 0 else 1.0
        from scipy import special

        return float(special.stdtr(self.n - 1, -gap / self.standard_error))


def paired(values: np.ndarray, reference: np.ndarray | float = 0.0) -> Difference:
    """The mean of ``values - reference`` with its error; arrays in the order of the same seeds."""
    difference = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    n = difference.size
    error = float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    found = Difference(float(difference.mean()), error, n)
    return dataclasses.replace(found, p=min(1.0, 2 * found.chance(0.0, above=found.mean > 0)))


def together(differences: Sequence[Difference], resolutions: Sequence[float] | None = None) -> list[Difference]:
    """Differences that are looked at together: p by Holm's correction, and what the test samples of each resolve."""
    adjusted = holm([d.p for d in differences])
    resolved = [0.0] * len(differences) if resolutions is None else resolutions
    return [dataclasses.replace(d, p=p, resolution=r) for d, p, r in zip(differences, adjusted, resolved, strict=True)]


def holm(values: Sequence[float]) -> list[float]:
    """The p of tests that are made together, each such that ``p <= LEVEL`` keeps the level of all of them."""
    p = np.asarray(values, np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


@functools.cache
def critical(n: int, level: float) -> float:
    """The t that a two-sided test of ``level`` with n seeds wants to see exceeded; infinite with one seed."""
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - level / 2)) if n > 1 else math.inf


def power(effect: float, standard_error: float, n: int, level: float = LEVEL) -> float:
    """The chance that a two-sided test finds a true difference of ``effect``, with its sign; NaN with one seed.

    Args:
      effect: at least 0; for a claim with a margin, what lies beyond the margin.
      standard_error: of the mean of the paired differences.
      n: seeds.
      level: of the test; of m tests that are corrected together, LEVEL / m is the least that each gets.
    """
    return _power(effect, standard_error, n, level, bounded=False)


def power_within(margin: float, standard_error: float, n: int, level: float = LEVEL) -> float:
    """The chance that two things that are equal are found to differ by less than ``margin``; NaN with one seed."""
    return _power(margin, standard_error, n, level, bounded=True)


def _power(effect: float, standard_error: float, n: int, level: float, *, bounded: bool) -> float:
    if n < 2 or not math.isfinite(standard_error):
        return math.nan
    if standard_error == 0:
        return float(effect > 0)
    from scipy import special

    # Student's t is a normal mean over a spread of its own: the mean over the quantiles of that spread.
    quantiles = (np.arange(4000) + 0.5) / 4000
    spread = np.sqrt(2 * special.gammaincinv((n - 1) / 2, quantiles) / (n - 1))
    over = effect / standard_error - critical(n, level) * spread
    found = 2 * special.ndtr(over) - 1 if bounded else special.ndtr(over)
    return float(np.maximum(found, 0.0).mean())


def detectable(standard_error: float, n: int, level: float = LEVEL) -> float:
    """The true difference that is found in WANTED of all cases, about; infinite with one seed."""
    from scipy import special

    if n < 2:
        return math.inf
    return (critical(n, level) + float(special.stdtrit(n - 1, WANTED))) * standard_error


def resolution(accuracy: float, samples: int) -> float:
    """The difference, in points, that a number of test samples resolves: 1.96 standard errors of one accuracy.

    An accuracy is a share of samples, with binomial noise. That of a difference is up to sqrt(2) times as large where
    two networks fail on other samples, and less where they share most of their errors.

    Args:
      accuracy: in percent.
      samples: how many different ones are behind it, over all seeds.
    """
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 196 * math.sqrt(share * (1 - share) / samples)


def mean(values: np.ndarray) -> float:
    """The mean, in float64."""
    return float(np.mean(np.asarray(values, np.float64)))


def spread_of(values: np.ndarray, digits: int) -> str:
    """Mean and standard deviation over seeds; the mean alone of one seed, whose spread nobody knows."""
    shown = f"{mean(values):.{digits}f}"
    return f"{shown} ± {deviation(values):.{digits}f}" if len(values) > 1 else shown


def deviation(values: np.ndarray) -> float:
    """The standard deviation over seeds (n - 1), 0 for one seed."""
    return float(np.std(np.asarray(values, np.float64), ddof=1)) if np.size(values) > 1 else 0.0


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's, NaN where it is not defined."""
    if np.size(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def rank_correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Spearman's; 0 where one of them is constant."""
    from scipy import stats  # as slow to import as jax

    if np.ptp(np.asarray(y)) == 0 or np.ptp(np.asarray(x, np.float64)) == 0:
        return 0.0
    return float(stats.spearmanr(x, y).statistic)
