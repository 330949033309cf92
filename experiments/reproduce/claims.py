"""Claims of the papers, and whether what was run shows them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.statistics import LEVEL, Difference, holm, paired, power, power_within, rank_correlation
from experiments.reproduce import sides
from experiments.reproduce.cells import Cell
from experiments.reproduce.reading import Measured, metric_of

VERDICTS = ("shown", "not shown", "reversed", "not tested", "not run")
TREND = 0.5  # the rank correlation that the power of a trend is about
Published = Callable[[Cell, str], float | None]  # the paper's number for a metric of a cell


class Verdict(NamedTuple):
    """What became of a claim."""

    claim: str
    verdict: str  # one of VERDICTS
    evidence: str
    blocks: tuple[str, ...] = ()  # the evidence of each block
    direction: str = ""  # what would show it: the sides, the sign and the margin
    paper: float | None = None  # the paper's own difference, over the same settings where it prints both sides
    ours: float | None = None
    low: float | None = None  # the 95 % interval of ours, by Student's t
    high: float | None = None
    p: float | None = None  # of the verdict, corrected over the claims of the table
    seeds: int = 0
    effect: float | None = None  # the true difference that the power is about
    effect_of: str = ""  # whose it is: "the paper's", 'stated' for the smallest of interest, 'none' for equal sides
    power: float | None = None  # the chance that these seeds, with this spread, show it
    remarks: tuple[str, ...] = ()  # what is left out, and what else differs


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement about cells: those that have the attributes ``left`` against those that have ``right``.

    Each cell on the left is compared with the one on the right of the same block and seeds. Where the dense network is
    on the right, it serves every sparsity.

    kind: 'above', or 'below': left minus right is more than ``margin``, less than minus it; 'no worse', 'no gain': it
      is more than minus ``margin``, less than it; 'close': it lies between both; 'rising', 'falling': the metric does
      along x, by Spearman's correlation of each seed (``right`` is not used); 'diverges': the cells on the left have
      failed, which is no test. Each of the others is shown, or reversed, where the
      interval at the level that Holm's correction leaves lies wholly on that side.
    """

    text: str
    left: Mapping[str, Any]
    right: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kind: str = "above"
    metric: str = "accuracy"
    other: str | None = None  # the metric on the right, where that is another one
    margin: float = 0.0


class Tested(NamedTuple):
    """A claim that can be tested."""

    found: Difference  # of the seeds, blocks averaged
    evidence: str
    blocks: tuple[str, ...]
    paper: float | None
    level: float  # of the right side, what a share of is of interest
    sides: sides.Sides


def judge(
    claims: Sequence[Claim],
    cells: Sequence[Measured],
    lost: Sequence[tuple[Cell, str]] = (),
    published: Published = lambda cell, metric: None,
) -> list[Verdict]:
    """What becomes of the claims of a table, corrected together.

    Args:
      claims: of the table.
      cells: what was measured.
      lost: cells that were not, each with the reason.
      published: the paper's numbers.
    """
    tests = [_test(c, cells, lost, published) for c in claims]
    tested = [(c, t) for c, t in zip(claims, tests, strict=True) if isinstance(t, Tested)]
    chances = [2 * min(_for(c, t.found), _against(c, t.found)) for c, t in tested]
    corrected = dict(zip([id(c) for c, _ in tested], holm([min(p, 1.0) for p in chances]), strict=True))
    return [
        _decided(c, t, corrected[id(c)], len(tested)) if isinstance(t, Tested) else t
        for c, t in zip(claims, tests, strict=True)
    ]


def _test(
    claim: Claim, cells: Sequence[Measured], lost: Sequence[tuple[Cell, str]], published: Published
) -> Tested | Verdict:
    if claim.kind == "diverges":
        return _diverged(claim, cells, lost)
    if claim.kind in ("rising", "falling"):
        return _trend(claim, cells, lost)
    return _gap(claim, cells, lost, published)


def _decided(claim: Claim, test: Tested, p: float, family: int) -> Verdict:
    side = "shown" if _for(claim, test.found) <= _against(claim, test.found) else "reversed"
    effect, whose = _effect(claim, test)
    beyond = effect - claim.margin if claim.kind in ("above", "below") else claim.margin or effect
    find = power_within if claim.kind == "close" else power
    low, high = test.found.interval
    return Verdict(
        claim.text,
        side if p <= LEVEL else "not shown",
        test.evidence,
        test.blocks,
        direction(claim),
        test.paper,
        test.found.mean,
        low,
        high,
        p,
        test.found.n,
        effect,
        whose,
        find(beyond, test.found.standard_error, test.found.n, LEVEL / family),
        test.sides.remarks,
    )


def _effect(claim: Claim, test: Tested) -> tuple[float, str]:
    """The true difference that a claim's power is about, without its sign, and whose it is."""
    if claim.kind in ("no worse", "no gain", "close"):
        return 0.0, "none"
    if claim.kind in ("rising", "falling"):
        return TREND, "stated"
    paper = math.nan if test.paper is None else _sign(claim) * test.paper
    if paper > claim.margin:
        return paper, "the paper's"
    smallest = metric_of(claim.metric).smallest
    return claim.margin + (0.05 * abs(test.level) if smallest is None else smallest), "stated"


def _for(claim: Claim, found: Difference) -> float:
    """One-sided p of the claim's opposite."""
    m = claim.margin
    below = found.chance(m if claim.kind == "no gain" else -m, above=False)
    above = found.chance(-m if claim.kind == "no worse" else m, above=True)
    if claim.kind == "close":
        return max(found.chance(-m, above=True), found.chance(m, above=False))
    return below if _sign(claim) < 0 else above


def _against(claim: Claim, found: Difference) -> float:
    """One-sided p of the claim, as far as its reversal is concerned."""
    m = claim.margin
    over, under = found.chance(m, above=True), found.chance(-m, above=False)
    if claim.kind == "close":
        return min(over, under)
    return over if _sign(claim) < 0 else under


def _sign(claim: Claim) -> int:
    return -1 if claim.kind in ("below", "no gain", "falling") else 1


def direction(claim: Claim) -> str:
    """What shows a claim, in signs: 'test accuracy (%): DST-EE - RigL > 0'."""
    metric = metric_of(claim.metric)
    if claim.kind == "diverges":
        return f"{_named(claim.left)}: the loss is not finite"
    if claim.kind in ("rising", "falling"):
        return f"rank correlation of {metric.label} with x, {_named(claim.left)}: {'<' if _sign(claim) < 0 else '>'} 0"
    unit = " points" if metric.in_points else ""
    gap = f"{_named(claim.left)} - {_named(claim.right)}"
    if claim.other:
        gap = f"{claim.metric} - {claim.other}, {_named(claim.left)}"
    m = f"{claim.margin:g}"
    bound = {
        "above": f"> {m}",
        "below": f"< {'-' if claim.margin else ''}{m}",
        "no worse": f"> -{m}",
        "no gain": f"< {m}",
        "close": f"between -{m} and {m}",
    }[claim.kind]
    return f"{'' if claim.other else metric.label + ': '}{gap} {bound}{unit}"


def _named(side: Mapping[str, Any]) -> str:
    parts = []
    for name, value in side.items():
        values = [v for v in (value if isinstance(value, tuple) else (value,)) if v not in (None, "")]
        words = {"sparsity": lambda v: f"{100 * v:g} %", "epochs": lambda v: f"{v} epochs"}.get(name, str)
        parts.append("/".join(map(words, values)))
    return ", ".join(p for p in parts if p) or "all"


def _gap(
    claim: Claim, cells: Sequence[Measured], lost: Sequence[tuple[Cell, str]], published: Published
) -> Tested | Verdict:
    found = sides.compare(claim.left, claim.right, claim.metric, claim.other, cells, lost)
    if not found.run:
        return Verdict(claim.text, "not run", found.refused, direction=direction(claim))
    paper = _paper(claim, found.pairs, published)
    # Seeds are the unit: blocks of one seed are averaged first, since their errors are not independent.
    gaps = [p.a - p.b for p in found.pairs]
    pooled = paired(np.mean(gaps, axis=0)) if gaps else None
    blocks = []
    for p, gap in zip(found.pairs, gaps, strict=True):
        names = f"{p.left.cell.title} minus {p.right.cell.method if p.left is not p.right else claim.other}"
        blocks.append(f"{names}: {_shown(claim, paired(gap))}{', the same numbers' if p.same else ''}")
    if pooled is None or found.refused:
        shown = "" if pooled is None or math.isnan(pooled.mean) else f"{_shown(claim, pooled)}, "
        return Verdict(
            claim.text,
            "not tested",
            f"{shown}{found.refused}",
            tuple(blocks),
            direction(claim),
            paper,
            None if pooled is None else pooled.mean,
            seeds=len(found.seeds),
            remarks=found.remarks,
        )
    settings = f", mean of {len(gaps)} settings" if len(gaps) > 1 else ""
    evidence = f"{_shown(claim, pooled)}{settings}, {pooled.n} seeds"
    level = float(np.mean([p.b for p in found.pairs]))
    return Tested(pooled, evidence, tuple(blocks), paper, level, found)


def _paper(claim: Claim, pairs: Sequence[sides.Pair], published: Published) -> float | None:
    """The paper's own difference over the settings that it prints both sides of."""
    found = [
        (published(p.left.cell, claim.metric), published(p.right.cell, claim.other or claim.metric)) for p in pairs
    ]
    both = [a - b for a, b in found if a is not None and b is not None]
    return float(np.mean(both)) if both else None


def _diverged(claim: Claim, cells: Sequence[Measured], lost: Sequence[tuple[Cell, str]]) -> Verdict:
    """A claim that training fails: shown where all cells did, reversed where none did."""
    finite = [m for m in cells if sides.has(m.cell, claim.left)]
    own = [(c, why) for c, why in lost if sides.has(c, claim.left)]
    failed = [c for c, why in own if why.startswith("failed")]
    remarks = sides.without([(c, why) for c, why in own if not why.startswith("failed")], claim.left)
    if not finite and not failed:
        why = "; ".join(["no cells of this claim were run", *remarks])
        return Verdict(claim.text, "not run", why, direction=direction(claim))
    verdict = "not shown" if finite and failed else "reversed" if finite else "not tested" if remarks else "shown"
    said = f"{len(failed)} of {len(finite) + len(failed)} cells diverged"
    seeds = max((len(m.seeds) for m in finite), default=0)
    return Verdict(claim.text, verdict, said, direction=direction(claim), seeds=seeds, remarks=tuple(remarks))


def _trend(claim: Claim, cells: Sequence[Measured], lost: Sequence[tuple[Cell, str]]) -> Tested | Verdict:
    remarks = [*sides.without(lost, claim.left), *sides.unmeasured(cells, [(claim.left, claim.metric)])]
    series: dict[tuple[Any, ...], list[Measured]] = {}
    for m in cells:
        if sides.has(m.cell, claim.left) and m.cell.x is not None and claim.metric in m.values:
            key = m.cell.model, m.cell.dataset, m.cell.group, m.cell.sparsity, m.cell.method
            series.setdefault(key, []).append(m)
    long = [sorted(s, key=lambda m: m.cell.x or 0.0) for s in series.values() if len(s) > 2]
    if not long:
        why = "; ".join(["no cells of this claim were run", *remarks])
        return Verdict(claim.text, "not run", why, direction=direction(claim))
    if short := [s for s in series.values() if len(s) <= 2]:
        remarks.append(f"without {len(short)} line(s) of fewer than three points")
    found, blocks, flat = [], [], True
    seeds = sorted(set.intersection(*({*m.seeds} for s in long for m in s)))
    if more := {i for s in long for m in s for i in m.seeds}.difference(seeds):
        remarks.append(f"{len(more)} of {len(more) + len(seeds)} seeds do not pair and are left out")
    apart = sorted({name for s in long for m in s[1:] for name in sides.undeclared(s[0], m)})
    for s in long:
        table = np.array([sides.of_seeds(m, claim.metric, seeds) for m in s])
        flat &= bool(np.ptp(table, axis=0).max(initial=0.0) == 0)
        found.append([rank_correlation([m.cell.x or 0.0 for m in s], column) for column in table.T])
        ends = " to ".join(f"{m.values[claim.metric].mean():.{metric_of(claim.metric).digits}f}" for m in (s[0], s[-1]))
        names = " ".join(n for n in (s[0].cell.model, s[0].cell.group, s[0].cell.method) if n)
        blocks.append(f"{names}: {ends}, rank correlation {np.mean(found[-1]):+.2f}")
    checks = (
        (bool(apart), f"its rows were run with other recipes: {', '.join(apart)}"),
        (not seeds, "no seed was run everywhere"),
        (not np.isfinite(found).all(), "not finite"),
        (flat, "both ends are the same numbers"),
        (len(seeds) < 2, "one seed has no spread"),
    )
    refused = next((why for so, why in checks if so), "")
    if refused:
        return Verdict(claim.text, "not tested", refused, tuple(blocks), direction(claim), remarks=tuple(remarks))
    pooled = paired(np.mean(found, axis=0))
    if (
        pooled.standard_error == 0
    ):  # ranks are few: as many seeds may agree by chance, with the spread of no correlation
        error = 1 / math.sqrt((min(len(s) for s in long) - 1) * pooled.n)
        pooled = dataclasses.replace(pooled, standard_error=error)
    spread = f"rank correlation {pooled.mean:+.2f} ± {pooled.standard_error:.2f}, {pooled.n} seeds"
    evidence = f"{ends}, {spread}" if len(long) == 1 else spread
    return Tested(pooled, evidence, tuple(blocks), None, 0.0, sides.Sides(seeds=tuple(seeds), remarks=tuple(remarks)))


def _shown(claim: Claim, gap: Difference) -> str:
    metric = metric_of(claim.metric)
    spread = f" ± {gap.standard_error:.{metric.digits}f}" if gap.n > 1 else ""
    return f"{gap.mean:+.{metric.digits}f}{spread}{' points' if metric.in_points else ''}"
