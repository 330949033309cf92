"""Claims of the papers, and whether what was run shows them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.statistics import Difference, paired
from experiments.reproduce.reading import Measured, metric_of

VERDICTS = ("shown", "not shown", "reversed")


class Verdict(NamedTuple):
    """What became of a claim."""

    claim: str
    verdict: str  # one of VERDICTS, or 'not run' where its cells are missing
    evidence: str
    blocks: tuple[str, ...] = ()  # the evidence of each block


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement about cells: those that have the attributes ``left`` against those that have ``right``.

    Each cell on the left is compared with the one on the right of the same block and seeds. Where the dense network is
    on the right, it serves every sparsity.

    kind: 'above', or 'below': left minus right is positive, negative, by more than 2 standard errors over the seeds,
      and by more than ``margin``; 'no worse', 'no gain': left is at most ``margin`` below, above, with 2 standard
      errors on top; 'close': they differ by less than ``margin``, with 2 standard errors on top; 'rising', 'falling':
      the metric does along x, by Spearman's correlation of each seed (``right`` is not used).
    """

    text: str
    left: Mapping[str, Any]
    right: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kind: str = "above"
    metric: str = "accuracy"
    other: str | None = None  # the metric on the right, where that is another one
    margin: float = 0.0


def judge(claim: Claim, cells: Sequence[Measured]) -> Verdict:
    """Whether the cells show a claim."""
    if claim.kind in ("rising", "falling"):
        return _trend(claim, cells)
    pairs = _pairs(claim, cells)
    if not pairs:
        return Verdict(claim.text, "not run", "no cells of this claim were run")
    gaps = [a.values[claim.metric] - b.values[claim.other or claim.metric] for a, b in pairs]
    # Seeds are the unit: blocks of one seed are averaged first, since their errors are not independent.
    pooled = paired(np.mean(gaps, axis=0), np.zeros(len(gaps[0])))
    blocks = []
    for (a, b), gap in zip(pairs, gaps, strict=True):
        names = f"{a.cell.title} minus {b.cell.method if a is not b else claim.other}"
        blocks.append(f"{names}: {_shown(claim, paired(gap, np.zeros(len(gap))))}")
    evidence = _shown(claim, pooled) + (f", mean of {len(gaps)} settings" if len(gaps) > 1 else "")
    decide: Callable[[Claim, Difference], str] = _close if claim.kind == "close" else _directed
    return Verdict(claim.text, decide(claim, pooled), f"{evidence}, {pooled.n} seeds", tuple(blocks))


def _directed(claim: Claim, gap: Difference) -> str:
    sign = -1 if claim.kind in ("below", "no gain") else 1
    if gap.n < 2:
        return "not shown"
    low, high = (sign * gap.mean + s * 2 * gap.standard_error for s in (-1, 1))
    least = -claim.margin if claim.kind in ("no worse", "no gain") else claim.margin
    return "shown" if low > least else "reversed" if high < -claim.margin else "not shown"


def _close(claim: Claim, gap: Difference) -> str:
    if gap.n < 2:
        return "not shown"
    near, far = (abs(gap.mean) + s * 2 * gap.standard_error for s in (1, -1))
    return "shown" if near < claim.margin else "reversed" if far > claim.margin else "not shown"


def _trend(claim: Claim, cells: Sequence[Measured]) -> Verdict:
    series: dict[tuple[Any, ...], list[Measured]] = {}
    for m in cells:
        if _has(m, claim.left) and m.cell.x is not None and claim.metric in m.values:
            key = m.cell.model, m.cell.dataset, m.cell.group, m.cell.sparsity, m.cell.method
            series.setdefault(key, []).append(m)
    long = [sorted(s, key=lambda m: m.cell.x or 0.0) for s in series.values() if len(s) > 2]
    if not long:
        return Verdict(claim.text, "not run", "no cells of this claim were run")
    found, blocks = [], []
    for s in long:
        places, table = [m.cell.x for m in s], np.array([m.values[claim.metric] for m in s])
        found.append([_spearman(places, column) for column in table.T])
        ends = " to ".join(f"{m.values[claim.metric].mean():.{metric_of(claim.metric).digits}f}" for m in (s[0], s[-1]))
        names = " ".join(n for n in (s[0].cell.model, s[0].cell.group, s[0].cell.method) if n)
        blocks.append(f"{names}: {ends}, rank correlation {np.mean(found[-1]):+.2f}")
    pooled = paired(np.mean(found, axis=0), np.zeros(len(found[0])))
    sign = -1 if claim.kind == "falling" else 1
    low, high = (sign * pooled.mean + s * 2 * pooled.standard_error for s in (-1, 1))
    verdict = "not shown" if pooled.n < 2 else "shown" if low > 0 else "reversed" if high < 0 else "not shown"
    evidence = f"{ends}, " if len(long) == 1 else ""
    return Verdict(
        claim.text,
        verdict,
        f"{evidence}rank correlation {pooled.mean:+.2f} ± {pooled.standard_error:.2f}, {pooled.n} seeds",
        tuple(blocks),
    )


def _pairs(claim: Claim, cells: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    left = [m for m in cells if _has(m, claim.left) and claim.metric in m.values]
    right = [m for m in cells if _has(m, claim.right) and (claim.other or claim.metric) in m.values]
    compared = {*claim.left, *claim.right}
    pairs = []
    for a in left:
        for b in right:
            if (a is b) == bool(claim.other) and a.seeds == b.seeds and _same_block(a, b, compared):
                pairs.append((a, b))
    return pairs


def _same_block(a: Measured, b: Measured, compared: set[str]) -> bool:
    dense = not b.cell.sparsity  # one dense run serves every sparsity and every rule of growth
    names = [n for n in ("model", "dataset", "group", "sparsity", "x", "method") if n not in compared]
    return all(getattr(a.cell, n) == getattr(b.cell, n) or (dense and n in ("sparsity", "group", "x")) for n in names)


def _has(measured: Measured, wanted: Mapping[str, Any]) -> bool:
    for name, value in wanted.items():
        found = getattr(measured.cell, name)
        if name == "method" and value is None:  # any: it only says that methods need not be the same
            continue
        if found not in value if isinstance(value, tuple) else found != value:
            return False
    return True


def _shown(claim: Claim, gap: Difference) -> str:
    digits = metric_of(claim.metric).digits
    unit = " points" if "%" in metric_of(claim.metric).label else ""
    spread = f" ± {gap.standard_error:.{digits}f}" if gap.n > 1 else ""
    return f"{gap.mean:+.{digits}f}{spread}{unit}"


def _spearman(x: Sequence[Any], y: Sequence[float] | np.ndarray) -> float:
    """The rank correlation; 0 where one of them is constant."""
    from scipy import stats  # as slow to import as jax

    if np.ptp(np.asarray(y)) == 0 or np.ptp(np.asarray(x, np.float64)) == 0:
        return 0.0
    return float(stats.spearmanr(x, y).statistic)
