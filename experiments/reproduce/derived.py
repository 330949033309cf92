"""Numbers that follow from several cells: ranks, shares of another row, what frequent updates cost."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reproduce.reading import Measured, metric_of

Derive = Callable[[Sequence[Measured]], Sequence[Measured]]


def ranks(metric: str) -> Derive:
    """Adds 'rank': the place of a cell within its block by a metric, in each seed; ties share theirs, 1 is best."""

    def add(cells: Sequence[Measured]) -> Sequence[Measured]:
        from scipy import stats

        sign = -1 if metric_of(metric).higher_is_better else 1
        blocks: dict[Any, list[Measured]] = {}
        for m in cells:
            if metric in m.values:
                blocks.setdefault((m.cell.block, m.seeds), []).append(m)
        placed: dict[int, np.ndarray] = {}
        for block in blocks.values():
            table = stats.rankdata([sign * m.values[metric] for m in block], axis=0)
            placed |= {id(m): row for m, row in zip(block, table, strict=True)}
        return [_with(m, {"rank": placed[id(m)]}) if id(m) in placed else m for m in cells]

    return add


def fewer(than: Mapping[str, str]) -> Derive:
    """Adds, for each name and method in ``than``, by how many percent a cell has fewer connections than that method."""

    def add(cells: Sequence[Measured]) -> Sequence[Measured]:
        found = []
        counted = [o for o in cells if "connections" in o.values]
        for m in cells:
            values = {}
            for name, method in than.items():
                other = next((o for o in counted if o.cell.method == method and o.seeds == m.seeds), None)
                if other is not None and other is not m and "connections" in m.values:
                    values[name] = 100 * (1 - m.values["connections"] / other.values["connections"])
            found.append(_with(m, values))
        return found

    return add


def cost_of_frequency(metric: str) -> Derive:
    """Adds to cells with the shortest x 'lost by frequent updates': the middle of their series minus theirs."""

    def add(cells: Sequence[Measured]) -> Sequence[Measured]:
        series: dict[Any, list[Measured]] = {}
        for m in cells:
            if m.cell.x is not None and metric in m.values:
                key = m.cell.model, m.cell.dataset, m.cell.group, m.cell.sparsity, m.cell.method, m.seeds
                series.setdefault(key, []).append(m)
        lost = {}
        for group in series.values():
            first = min(group, key=lambda m: m.cell.x or 0.0)
            middle = sorted(group, key=lambda m: m.cell.x or 0.0)[len(group) // 2]
            if middle is not first:
                lost[id(first)] = middle.values[metric] - first.values[metric]
        return [_with(m, {"lost by frequent updates": lost[id(m)]}) if id(m) in lost else m for m in cells]

    return add


def _with(measured: Measured, values: Mapping[str, np.ndarray]) -> Measured:
    return dataclasses.replace(measured, values={**measured.values, **values})
