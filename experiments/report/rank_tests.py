"""Whether methods differ over many settings: average ranks, Friedman's test, Nemenyi's critical distance.

A block is one setting that every method was run in: a model, a density, a growth rule. The tests take blocks as
independent; those of neighbouring densities are not, so a difference among such blocks is weaker than it looks.

Reference: Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR, 2006 (from general knowledge;
the paper was not at hand); used by Nowak et al., "Fantastic weights and how to find them", 2023, Figure 3.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dstjax.checks import check_integer, check_number


class Friedman(NamedTuple):
    """Result of :func:`friedman`."""

    ranks: np.ndarray  # float64[methods]: mean rank of each method, 1 is best
    chi_square: float
    p_value: float  # of chi_square, k - 1 degrees of freedom
    f: float  # Iman and Davenport; infinite where every block ranks alike
    f_p_value: float  # of f, k - 1 and (k - 1) (N - 1) degrees of freedom


class RankComparison(NamedTuple):
    """Result of :func:`compare`, with the best method first."""

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    test: Friedman  # its ranks are in the order that was given
    critical_distance: float
    groups: tuple[tuple[str, ...], ...]  # methods that do not differ


def ranks(scores: Any, *, higher_is_better: bool = True) -> np.ndarray:
    """Rank of each method in each block: 1 is best, equal scores share the mean of their ranks.

    Args:
      scores: finite numbers of shape [blocks, methods].
      higher_is_better: True for accuracies, False for losses.

    Returns:
      float64[blocks, methods]; each row sums to k (k + 1) / 2.

    Raises:
      ValueError: not two axes, one block or one method alone, a NaN or an infinity.
    """
    table = _table(scores)
    return _stats().rankdata(-table if higher_is_better else table, axis=1)


def friedman(scores: Any, *, higher_is_better: bool = True, correct_ties: bool = True) -> Friedman:
    """Friedman's test that k methods rank alike in N blocks, and Iman and Davenport's F of it.

    chi2 = 12 N / (k (k + 1)) * (sum of squared mean ranks - k (k + 1)^2 / 4) and F = (N - 1) chi2 / (N (k - 1) - chi2).

    Args:
      scores: finite numbers of shape [blocks, methods].
      higher_is_better: True for accuracies, False for losses.
      correct_ties: divide chi2 by 1 - sum(t^3 - t) / (N (k^3 - k)) over groups of t equal scores. The formula above
        leaves that out, which makes it too careful.

    Raises:
      ValueError: as in :func:`ranks`.
    """
    ranked = ranks(scores, higher_is_better=higher_is_better)
    n, k = ranked.shape
    mean = ranked.mean(axis=0)
    chi_square = 12 * n / (k * (k + 1)) * (math.fsum(mean**2) - k * (k + 1) ** 2 / 4)
    if correct_ties:
        sizes = [np.unique(row, return_counts=True)[1] for row in ranked]
        untied = 1 - sum(int(np.sum(t**3 - t)) for t in sizes) / (n * (k**3 - k))
        chi_square = chi_square / untied if untied > 0 else 0.0  # all tied: nothing to tell methods apart
    chi_square = min(max(chi_square, 0.0), n * (k - 1.0))  # what rounding puts outside its range
    rest = n * (k - 1) - chi_square
    f = (n - 1) * chi_square / rest if rest > 1e-12 * n * k else math.inf
    stats = _stats()
    p_value, f_p_value = stats.chi2.sf(chi_square, k - 1), stats.f.sf(f, k - 1, (k - 1) * (n - 1))
    return Friedman(mean, float(chi_square), float(p_value), float(f), float(f_p_value))


def critical_distance(methods: int, blocks: int, *, alpha: float = 0.05) -> float:
    """Nemenyi: two of k methods differ if their mean ranks over N blocks are further apart than this.

    q sqrt(k (k + 1) / (6 N)), q being the 1 - alpha quantile of the Studentised range of k at infinite degrees of
    freedom, divided by sqrt(2).

    Args:
      methods: k, at least 2.
      blocks: N, at least 2.
      alpha: chance of seeing any difference where there is none, in (0, 1).

    Raises:
      ValueError: a number is out of range.
    """
    check_integer("methods", methods, 2)
    check_integer("blocks", blocks, 2)
    check_number("alpha", alpha, "a number in (0, 1)", lambda a: 0 < a < 1)
    q = _stats().studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * blocks)))


def groups(mean_ranks: Mapping[str, float], distance: float) -> tuple[tuple[str, ...], ...]:
    """The largest sets of two or more methods that lie within ``distance`` of each other, best first.

    These are the bars of a critical-distance diagram. A method in no set differs from every other.

    Raises:
      ValueError: a rank or the distance is not finite, or the distance is negative.
    """
    check_number("distance", distance, "a finite number >= 0", lambda d: 0 <= d < math.inf)
    for name, rank in mean_ranks.items():
        check_number(f"rank of {name!r}", rank, "a finite number", math.isfinite)
    order = sorted(mean_ranks, key=lambda name: mean_ranks[name])
    found: list[tuple[str, ...]] = []
    last = 0
    for i, name in enumerate(order):
        end = next((j for j in range(i, len(order)) if mean_ranks[order[j]] - mean_ranks[name] > distance), len(order))
        if end > last and end - i >= 2:
            found.append(tuple(order[i:end]))
        last = max(last, end)
    return tuple(found)


def compare(
    scores: Mapping[str, Sequence[float]], *, higher_is_better: bool = True, alpha: float = 0.05
) -> RankComparison:
    """Ranks methods over blocks and says which of them do not differ.

    Nemenyi's test is made only where Iman and Davenport's F rejects at ``alpha``; where it does not, all methods are
    one group.

    Args:
      scores: for each method its score in each block, the blocks in the same order.
      higher_is_better: True for accuracies, False for losses.
      alpha: level of both tests.

    Raises:
      ValueError: methods with different numbers of blocks, one block or one method alone, a NaN or an infinity.
    """
    lengths = {name: len(column) for name, column in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the methods have different numbers of blocks: {lengths}; expected one score in each block.")
    names = list(scores)
    table = np.array([list(scores[name]) for name in names], np.float64).T
    test = friedman(table, higher_is_better=higher_is_better)
    distance = critical_distance(len(names), len(table), alpha=alpha)
    by_name = dict(zip(names, test.ranks.tolist(), strict=True))
    order = tuple(sorted(names, key=lambda name: by_name[name]))
    alike = groups(by_name, distance) if test.f_p_value < alpha else (order,)
    return RankComparison(order, tuple(by_name[name] for name in order), test, distance, alike)


def _table(scores: Any) -> np.ndarray:
    table = np.asarray(scores, np.float64)
    if table.ndim != 2:
        raise ValueError(f"scores have shape {table.shape}; expected [blocks, methods].")
    for count, what in zip(table.shape, ("block", "method"), strict=True):
        if count < 2:
            raise ValueError(f"scores have shape {table.shape}, {count} {what}(s); expected at least 2 to compare.")
    if not np.all(np.isfinite(table)):
        block, method = (int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise ValueError(
            f"scores[{block}, {method}]={table[block, method]} is not accepted; expected finite numbers. Leave out a "
            "block that lacks a score, or rank the failed run last by a score of your own."
        )
    return table


def _stats() -> Any:
    """scipy.stats, on first use: importing it takes as long as importing jax."""
    from scipy import stats

    return stats
