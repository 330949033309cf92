"""The table of networks that were trained under a budget of latency."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.statistics import paired


class Row(NamedTuple):
    """What one network came to."""

    method: str
    budget: float
    seed: int
    top1: float  # of the test samples
    top5: float
    predicted: float  # share of the dense latency
    measured: float  # likewise; NaN where it was not timed, and so are the next two
    frames: float  # test images a second
    multiply_adds: float  # of one image
    training: float  # cost relative to dense training


def report(rows: Sequence[Row]) -> str:
    """The table: means over the seeds, and differences in pairs of seeds."""
    lines = [
        "| budget | method | top-1 | top-5 | predicted | measured | frames/s | multiply-adds | training | "
        "top-1 - dense |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    by_cell: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        by_cell.setdefault((row.budget, row.method), []).append(row)
    dense = by_cell[1.0, "dense"]
    for (budget, method), found in by_cell.items():

        def mean(name: str, found: list[Row] = found) -> float:
            return float(np.nanmean([getattr(row, name) for row in found]))

        text = [f"{budget:g}", method, f"{mean('top1'):.2%}", f"{mean('top5'):.2%}"]
        text += [f"{mean('predicted'):.3f}", f"{mean('measured'):.3f}", f"{mean('frames'):,.0f}"]
        text += [f"{mean('multiply_adds'):,.0f}", f"{mean('training'):.2f}", _difference(found, dense)]
        lines.append(f"| {' | '.join(text)} |")
    for budget, method in by_cell:
        if method != "iee_structured":
            continue
        for other in ("halp, once", "random"):
            gap = _difference(by_cell[budget, method], by_cell[budget, other])
            lines.append(f"at {budget:g}: iee_structured - {other}: {gap} points of top-1")
    return "\n".join(lines)


def _difference(found: Sequence[Row], other: Sequence[Row]) -> str:
    mine, others = ({row.seed: 100 * row.top1 for row in cell} for cell in (found, other))
    seeds = sorted(mine.keys() & others.keys())
    difference = paired(*(np.asarray([cell[seed] for seed in seeds]) for cell in (mine, others)))
    return f"{difference.mean:+.2f} ({difference.interval[0]:+.2f} to {difference.interval[1]:+.2f})"
