"""The two sides of a claim: which cells are compared, on which seeds, and what speaks against comparing them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.reproduce.cells import Cell, declared
from experiments.reproduce.reading import Measured

SHOWN = 3  # names in a remark


class Pair(NamedTuple):
    """Two cells that differ in nothing but what is compared."""

    left: Measured
    right: Measured
    a: np.ndarray  # float64[seeds], the metric on the left, of the seeds that all pairs share
    b: np.ndarray

    @property
    def same(self) -> bool:
        """Whether both sides are the same numbers, so that there is nothing to tell apart."""
        return np.array_equal(self.a, self.b)


@dataclasses.dataclass(frozen=True)
class Sides:
    """What a claim compares."""

    pairs: tuple[Pair, ...] = ()
    seeds: tuple[int, ...] = ()  # those that all pairs share
    refused: str = ""  # why the claim is not tested or not run
    run: bool = True  # whether there is anything to compare
    remarks: tuple[str, ...] = ()  # what is left out, and what else differs


def has(cell: Cell, wanted: Mapping[str, Any]) -> bool:
    """Whether a cell has the attributes of a side; a tuple means any of its values."""
    for name, value in wanted.items():
        found = getattr(cell, name)
        if name == "method" and value is None:  # any: it only says that methods need not be the same
            continue
        if found not in value if isinstance(value, tuple) else found != value:
            return False
    return True


def same_block(a: Cell, b: Cell, compared: set[str]) -> bool:
    """Whether two cells differ in nothing but what is compared."""
    dense = not b.sparsity  # one dense run serves every sparsity and every rule of growth
    names = [n for n in ("model", "dataset", "group", "sparsity", "x", "method") if n not in compared]
    return all(getattr(a, n) == getattr(b, n) or (dense and n in ("sparsity", "group", "x")) for n in names)


def compare(
    left: Mapping[str, Any],
    right: Mapping[str, Any],
    metric: str,
    other: str | None,
    cells: Sequence[Measured],
    lost: Sequence[tuple[Cell, str]] = (),
) -> Sides:
    """Pairs the cells of two sides.

    Args:
      left: the attributes of the cells on the left.
      right: those on the right.
      metric: what is compared.
      other: the metric on the right, where that is another one: then each cell is compared with itself.
      cells: what was measured.
      lost: cells that were not, each with the reason.
    """
    compared = {n for n in {*left, *right} if left.get(n) != right.get(n) or n == "method"}
    remarks = without(lost, left, right) + unmeasured(cells, ((left, metric), (right, other or metric)))
    found = [
        (a, b)
        for a in cells
        if has(a.cell, left) and metric in a.values
        for b in cells
        if has(b.cell, right) and (other or metric) in b.values
        if (a is b) == bool(other) and same_block(a.cell, b.cell, compared)
    ]
    paired = {id(a) for a, _ in found}
    alone = [a.cell.title for a in cells if has(a.cell, left) and metric in a.values and id(a) not in paired]
    if found and alone:
        remarks.append(f"without {len(alone)} cell(s), nothing to compare with: {_listed(alone)}")
    if not found:
        return Sides(refused="; ".join(["no cells of this claim were run", *remarks]), run=False)
    apart = sorted({name for a, b in found for name in undeclared(a, b)})
    if apart:
        return Sides(refused=f"its rows were run with other recipes: {_listed(apart)}", remarks=tuple(remarks))
    shared = [(a, b) for a, b in found if {*a.seeds} & {*b.seeds}]
    seeds = sorted(set.intersection(*({*a.seeds} & {*b.seeds} for a, b in shared))) if shared else []
    if not seeds:
        return Sides(refused="no seed was run on both sides", remarks=tuple(remarks))
    everything = {s for a, b in found for s in (*a.seeds, *b.seeds)}
    if len(everything) > len(seeds):
        remarks.append(f"{len(everything) - len(seeds)} of {len(everything)} seeds do not pair and are left out")
    pairs = tuple(Pair(a, b, of_seeds(a, metric, seeds), of_seeds(b, other or metric, seeds)) for a, b in shared)
    by_declaration = sorted({name for a, b in found for name in a.differences(b)})
    if by_declaration:
        remarks.append(f"the rows differ by declaration in {_listed(by_declaration)}")
    return Sides(pairs, tuple(seeds), _refusal(pairs, seeds), True, (*remarks, *_partly(pairs)))


def _refusal(pairs: Sequence[Pair], seeds: Sequence[int]) -> str:
    """Why pairs cannot be tested, '' where they can."""
    if not all(np.isfinite([p.a, p.b]).all() for p in pairs):
        return f"not finite: {_listed(p.left.cell.title for p in pairs if not np.isfinite([p.a, p.b]).all())}"
    if all(p.same for p in pairs):
        return "both sides are the same numbers"
    return "one seed has no spread" if len(seeds) < 2 else ""


def _partly(pairs: Sequence[Pair]) -> list[str]:
    same = sum(p.same for p in pairs)
    return [f"in {same} of {len(pairs)} settings both sides are the same numbers"] if 0 < same < len(pairs) else []


def without(lost: Sequence[tuple[Cell, str]], *sides: Mapping[str, Any]) -> list[str]:
    """Remarks on the cells of a claim that were not measured."""
    own = [(cell, why) for cell, why in lost if any(has(cell, side) for side in sides)]
    reasons: dict[str, list[str]] = {}
    for cell, why in own:
        reasons.setdefault(why, []).append(cell.title)
    return [f"without {len(titles)} cell(s), {why}: {_listed(titles)}" for why, titles in reasons.items()]


def unmeasured(cells: Sequence[Measured], sides: Iterable[tuple[Mapping[str, Any], str]]) -> list[str]:
    """Remarks on the cells that lack the metric of their side."""
    found = []
    for side, metric in sides:
        titles = [m.cell.title for m in cells if has(m.cell, side) and metric not in m.values]
        if titles:
            found.append(f"no {metric} of {_listed(titles)}")
    return list(dict.fromkeys(found))


def undeclared(a: Measured, b: Measured) -> list[str]:
    """The fields of the recipe in which two cells differ although neither says so."""
    return [name for name in a.differences(b) if name not in declared(a.cell) | declared(b.cell)]


def of_seeds(measured: Measured, metric: str, seeds: Sequence[int]) -> np.ndarray:
    """A metric of some seeds."""
    return measured.values[metric][[measured.seeds.index(s) for s in seeds]]


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more
