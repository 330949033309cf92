"""Average ranks of methods over many settings, and the critical-distance diagram."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.report import rank_tests, style
from experiments.reproduce.reading import Measured, metric_of

SUBSETS = {"all densities": (0.0, 1.0), "densities up to 0.2": (0.8, 1.0), "densities above 0.2": (0.0, 0.7999)}


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One diagram."""

    name: str
    blocks: int
    comparison: rank_tests.RankComparison

    def as_text(self) -> str:
        """Methods by rank, and which do not differ."""
        c = self.comparison
        listed = ", ".join(f"{n} {r:.2f}" for n, r in zip(c.names, c.ranks, strict=True))
        alike = "; ".join(" = ".join(g) for g in c.groups) or "none"
        return (
            f"{self.name} ({self.blocks} blocks): average ranks {listed}; critical distance {c.critical_distance:.2f}; "
            f"not told apart: {alike}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        c = self.comparison
        return {
            "subset": self.name,
            "blocks": self.blocks,
            "ranks": dict(zip(c.names, c.ranks, strict=True)),
            "critical_distance": c.critical_distance,
            "p_value": c.test.f_p_value,
            "alike": [list(g) for g in c.groups],
        }


def rankings(cells: Sequence[Measured], metric: str) -> list[Ranking]:
    """The ranking of each subset of densities that has two blocks or more; scores are means over the seeds."""
    found = []
    for name, (low, high) in SUBSETS.items():
        blocks: dict[tuple[Any, ...], dict[str, float]] = {}
        for m in cells:
            if low <= (m.cell.sparsity or 0.0) <= high:
                blocks.setdefault(m.cell.block, {})[m.cell.method] = float(np.mean(m.values[metric]))
        methods = sorted({method for block in blocks.values() for method in block})
        whole = [b for b in blocks.values() if len(b) == len(methods)]
        if len(whole) < 2 or len(methods) < 2:
            continue
        scores = {method: [b[method] for b in whole] for method in methods}
        compared = rank_tests.compare(scores, higher_is_better=metric_of(metric).higher_is_better)
        found.append(Ranking(name, len(whole), compared))
    return found


def diagram(ranking: Ranking) -> str:
    """The critical-distance diagram: methods on a line of ranks, bars over those that are not told apart."""
    c = ranking.comparison
    n = len(c.names)
    with style.styled():
        figure = Figure(figsize=(9.0, 1.5 + 0.28 * ((n + 1) // 2) + 0.16 * len(c.groups)))
        axes = figure.subplots()
        axes.set_xlim(0.8, n + 0.2)
        bottom = -1.0 - (n + 1) // 2
        axes.set_ylim(bottom, 1.6 + 0.5 * len(c.groups))
        axes.axhline(0, color=style.MUTED, lw=1)
        for place in range(1, n + 1):
            axes.plot([place, place], [0, 0.18], color=style.MUTED, lw=1)
            axes.text(place, 0.3, str(place), ha="center", color=style.MUTED, fontsize=9)
        for i, (name, rank) in enumerate(zip(c.names, c.ranks, strict=True)):
            left = i < (n + 1) // 2
            y = -1.0 - (i if left else n - 1 - i)
            end = 0.85 if left else n + 0.15
            axes.plot([rank, rank, end], [0, y, y], color=style.TEXT, lw=1)
            axes.text(end, y + 0.12, f"{name} ({rank:.2f})", ha="left" if left else "right", va="bottom", fontsize=9)
        by_name = dict(zip(c.names, c.ranks, strict=True))
        for i, group in enumerate(c.groups):
            height = 0.9 + 0.5 * i
            ends = [by_name[group[0]] - 0.03, by_name[group[-1]] + 0.03]
            axes.plot(ends, [height, height], color=style.TEXT, lw=3.5)
        top = 1.3 + 0.5 * len(c.groups)
        axes.plot([1, 1 + c.critical_distance], [top, top], color=style.COLOURS["rigl"], lw=2)
        axes.text(
            1 + c.critical_distance + 0.05, top, f"critical distance {c.critical_distance:.2f}", va="center", fontsize=9
        )
        axes.axis("off")
        return style.to_svg(figure, f"ranks-{ranking.name.replace(' ', '-')}", f"Average ranks, {ranking.name}")
