"""Charts of many methods: a row per method, the families one below the other, a column per sparsity."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report import rank_tests, style
from experiments.report.cells import CellResult, Comparison, percent
from experiments.report.document import listed
from experiments.report.names import by_family, method_label
from experiments.report.statistics import Difference
from experiments.report.tables import differences as judged

WIDTH = 9.0  # inches
ROW = 0.205  # inches
BLOCKS = 5  # fewer say nothing about ranks
LABEL = 0.08  # of the width: room that the number below an axis needs
SLIP = 1.7  # rows that a family's name takes


def accuracy(comparison: Comparison) -> str | None:
    """Test accuracy; methods whose pattern gives the sparsity stand in a panel of their own."""
    if not comparison.sparse and not comparison.patterned:
        return None
    with style.styled():
        places, ticks, height = _layout(comparison, comparison.methods)
        figure, panels, below = _panels(comparison, height)
        for axes, sparsity in zip(panels, comparison.sparsities, strict=False):
            cells = [c for c in comparison.sparse if c.sparsity == sparsity]
            _errors(axes, comparison, cells, places, LABEL * len(panels))
            axes.set_title(f"{percent(sparsity)} sparsity")
        if panels:
            _name_rows(panels, ticks, height)
        if below is not None:
            cells = list(comparison.patterned)
            order = sorted({c.method for c in cells}, key=lambda m: -max(c.mean for c in cells if c.method == m))
            _errors(below, comparison, cells, {m: i for i, m in enumerate(order)}, LABEL)
            below.set_title(f"sparsity given by the pattern: {listed(list(dict.fromkeys(c.place for c in cells)))}")
            _name_rows([below], [(i, m) for i, m in enumerate(order)], len(order))
        for axes in (below,) if below is not None else panels:
            axes.set_xlabel("test accuracy (log scale of the error)")
        return style.to_svg(figure, "accuracy", "Test accuracy, one row per method")


def differences(comparison: Comparison) -> str | None:
    """Paired differences to the reference method, with their 95 % intervals."""
    others = [m for m in comparison.methods if m != comparison.reference]
    with style.styled():
        places, ticks, height = _layout(comparison, others)
        figure = Figure(figsize=(WIDTH, 1.3 + ROW * height))
        panels = list(figure.subplots(1, len(comparison.sparsities), squeeze=False, sharey=True)[0])
        gaps = judged(comparison)
        for axes, sparsity in zip(panels, comparison.sparsities, strict=True):
            largest = 1.0
            for method, y in places.items():
                cell = comparison.find(method, sparsity)
                if cell is None or cell.name not in gaps:
                    continue
                reach = mark_difference(axes, comparison, cell, gaps[cell.name], y, ms=5, capsize=2, elinewidth=1.2)
                largest = max(largest, reach)
            axes.axvline(0, color=style.MUTED, lw=1)
            style.signed_axis(axes, largest)
            axes.set_title(f"{percent(sparsity)} sparsity")
            axes.set_xlabel("percentage points")
            values = [v for v in ((0.5, 2, 10, 50) if largest < 20 else (2, 10, 50)) if v < 1.3 * largest]
            axes.set_xticks([-v for v in reversed(values)] + [0, *values], minor=False)  # room for a few numbers
        _name_rows(panels, ticks, height)
        name = method_label(comparison.reference or "")
        return style.to_svg(figure, "differences", f"Paired differences in test accuracy to {name}")


def mark_difference(
    axes: Axes, comparison: Comparison, cell: CellResult, gap: Difference, y: float, **sizes: float
) -> float:
    """Draws a paired difference with its 95 % interval; returns how far from 0 it reaches."""
    look = {**style.look(cell.method, comparison.all_methods), **sizes, "fillstyle": "full" if gap.clear else "none"}
    axes.errorbar(gap.mean, y, xerr=gap.half_width, **look)
    if comparison.many and cell.too_dense:
        _beside(axes, cell, gap.mean + gap.half_width, y)
    return abs(gap.mean) + gap.half_width


def blocks(comparison: Comparison) -> dict[str, list[float]]:
    """The accuracy of each ranked method in each block: one seed at one sparsity."""
    found: dict[str, list[float]] = {}
    for method in comparison.ranked:
        cells = [c for s in comparison.sparsities if (c := comparison.find(method, s))]
        found[method] = [float(a) for c in cells for a in c.accuracy]
    return found


def ranks(comparison: Comparison) -> str | None:
    """Mean ranks over all sparsities and seeds, with a bar along those that do not differ; for many methods."""
    scores = blocks(comparison)
    n = min((len(v) for v in scores.values()), default=0)
    if not comparison.many or len(scores) < 3 or n < BLOCKS:
        return None
    result = rank_tests.compare(scores)
    with style.styled():
        count = len(result.names)
        figure = Figure(figsize=(WIDTH, 1.6 + ROW * count))
        left, right = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
        for y, (name, rank) in enumerate(zip(result.names, result.ranks, strict=True)):
            of = style.colour(name, comparison.all_methods)
            left.plot(rank, y, style.marker(name, comparison.all_methods), color=of, ms=6)
            left.text(rank + 0.02 * count, y, f"{rank:.1f}", va="center", fontsize=8.5, color=style.MUTED)
        left.plot([1, 1 + result.critical_distance], [-1.6, -1.6], color=style.TEXT, lw=1.6, marker="|", ms=7)
        left.text(
            1 + result.critical_distance + 0.02 * count,
            -1.6,
            f"critical distance {result.critical_distance:.1f}",
            va="center",
            fontsize=9,
        )
        left.set_xlim(0.5, count + 0.5)
        left.set_xlabel("mean rank by test accuracy, 1 is best")
        for x, group in enumerate(result.groups):
            ends = [result.names.index(group[0]), result.names.index(group[-1])]
            right.plot([x, x], [ends[0] - 0.3, ends[1] + 0.3], color=style.TEXT, lw=2.4, solid_capstyle="round")
        right.set_xlim(-1, max(len(result.groups), 6))
        right.set_xticks([])
        right.set_title("a bar: no clear difference")
        right.spines["bottom"].set_visible(False)
        _name_rows([left, right], list(enumerate(result.names)), count, top=-2.4)
        return style.to_svg(figure, "ranks", "Mean ranks of the methods with the critical distance")


def _layout(comparison: Comparison, methods: list[str]) -> tuple[dict[str, float], list[tuple[float, str]], float]:
    """Rows: where each method is, what stands beside them (families too), and how many there are."""
    places: dict[str, float] = {}
    ticks: list[tuple[float, str]] = []
    y = 0.0
    for name, members in by_family(methods).items():
        ticks.append((y, f"family {name}"))
        y += 1
        for method in sorted(members, key=lambda m: comparison.mean_rank(m, methods)):
            places[method] = y
            ticks.append((y, method))
            y += 1
        y += SLIP - 1
    return places, ticks, y


def _panels(comparison: Comparison, height: float) -> tuple[Figure, list[Axes], Axes | None]:
    n, extra = len(comparison.sparsities), len({c.method for c in comparison.patterned})
    sizes = [h for h in (height if n else 0, extra + 0.5 if extra else 0) if h]
    figure = Figure(figsize=(WIDTH, 0.7 * len(sizes) + 0.5 + ROW * sum(sizes)))
    grid = figure.add_gridspec(len(sizes), max(n, 1), height_ratios=sizes)
    panels: list[Axes] = []
    for i in range(n):
        panels.append(figure.add_subplot(grid[0, i], sharey=panels[0] if panels else None))
    return figure, panels, figure.add_subplot(grid[len(sizes) - 1, :]) if extra else None


def _errors(axes: Axes, comparison: Comparison, cells: list[CellResult], places: dict[str, float], room: float) -> None:
    """A marker per cell at its error, on a log scale that runs to the right as the error falls."""
    axes.set_xscale("log")
    dense = comparison.dense
    errors = [100 - c.accuracy for c in (*cells, *([dense] if dense else []))]
    floor = style.error_floor(errors)
    top = max(2 * floor, *(float(e.max()) for e in errors))
    if dense is not None:
        level = max(100 - dense.mean, floor)
        low, high = (max(level + s * dense.deviation, floor) for s in (1, -1))
        axes.axvspan(low, high, color=style.colour("dense", []), alpha=0.22, lw=0)
        axes.axvline(level, color=style.colour("dense", []), ls=(0, (5, 2)), lw=1.2)
    for cell in cells:
        y, look = places[cell.method], style.look(cell.method, comparison.all_methods)
        dots = np.maximum(100 - cell.accuracy, floor)
        axes.plot(dots, [y] * len(dots), "o", ms=3, color=look["color"], alpha=0.35, mew=0)
        error = max(100 - cell.mean, floor)
        bars = np.array([[min(cell.deviation, error - floor)], [cell.deviation]])
        axes.errorbar(
            error,
            y,
            xerr=bars,
            **look,
            ms=5.5,
            elinewidth=1,
            fillstyle="none" if cell.off_density else "full",
        )
        if cell.off_density:
            edge = min(float(dots.min()), error - float(bars[0, 0]))
            _beside(axes, cell, max(edge, floor), y)
    least = max(min(float(e.min()) for e in errors), floor) * 0.85
    axes.set_xlim(min(top * 1.25, 100), least)
    style.accuracy_ticks(axes.xaxis, top, least)
    kept: list[float] = []
    for value in sorted(v for v in axes.get_xticks() if least <= v <= top):  # labels need room
        if not kept or math.log(value / kept[-1]) > room * math.log(min(top * 1.25, 100) / least):
            kept.append(value)
    axes.set_xticks(kept, minor=False)


def _beside(axes: Axes, cell: CellResult, x: float, y: float) -> None:
    """Says at the right of a marker which density a cell has."""
    text = density_label(cell)
    axes.annotate(
        text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8, color=style.MUTED, zorder=5
    ).set_annotation_clip(False)


def density_label(cell: CellResult) -> str:
    """'23 % dense': the density that a cell has in place of the one that was asked for."""
    digits = 1 - math.floor(math.log10(max(cell.density, 1e-6) * 100))
    return f"{percent(round(cell.density, max(digits + 2, 2)))} dense"


def _name_rows(panels: list[Axes], ticks: list[tuple[float, str]], height: float, top: float = -0.8) -> None:
    for axes in panels:
        axes.set_ylim(height - 0.3, top)
        style.in_rows(axes)
        axes.tick_params(axis="y", labelleft=axes is panels[0])
    names = [t.removeprefix("family ") if t.startswith("family ") else method_label(t) for _, t in ticks]
    panels[0].set_yticks([y for y, _ in ticks], names)
    for (_, what), label in zip(ticks, panels[0].get_yticklabels(), strict=True):
        if what.startswith("family "):
            label.set(fontweight="bold", fontsize=9)
