"""The charts of a comparison. Each function returns one SVG element, or None where there is nothing to draw."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from experiments.report import rows, style, tables
from experiments.report.cells import CellResult, Comparison, UpdateRecords, percent
from experiments.report.names import method_label
from experiments.report.statistics import deviation, mean

WIDTH = 9.0  # inches
MOVING = 6  # methods whose mask updates are drawn where there are many


def accuracy(comparison: Comparison) -> str | None:
    """Test accuracy against sparsity."""
    if comparison.many or comparison.patterned:
        return rows.accuracy(comparison)
    if not comparison.sparse:
        return None
    with style.styled():
        figure = Figure(figsize=(WIDTH, 4.6))
        axes = figure.subplots()
        errors = [100 - c.accuracy for c in comparison.grid]
        floor = style.error_floor(errors)
        places = {s: -math.log10(1 - s) for s in comparison.sparsities}
        gaps = np.diff(sorted(places.values()))
        dodge = min([*gaps, 0.4]) / 5 / max(len(comparison.methods), 3)
        dense = comparison.dense
        edges = (min(places.values()) - 6 * dodge, max(places.values()) + 6 * dodge)
        if dense is not None:
            low, high = (max(100 - dense.mean + s * dense.deviation, floor) for s in (1, -1))
            axes.fill_between(edges, low, high, color=style.colour("dense", []), alpha=0.22, lw=0)
            level = max(100 - dense.mean, floor)
            axes.plot(edges, [level] * 2, color=style.colour("dense", []), ls=(0, (5, 2)), lw=1.4, label="dense")
        for i, method in enumerate(comparison.methods):
            cells = [c for s in comparison.sparsities if (c := comparison.find(method, s))]
            shift = (i - (len(comparison.methods) - 1) / 2) * dodge
            x = np.array([places[c.sparsity] + shift for c in cells])
            y = np.array([max(100 - c.mean, floor) for c in cells])
            spread = np.array([c.deviation for c in cells])
            bars = np.array([np.minimum(spread, y - floor), spread])
            of = style.colour(method, comparison.all_methods)
            for place, cell in zip(x, cells, strict=True):
                dots = np.maximum(100 - cell.accuracy, floor)
                axes.plot([place] * len(dots), dots, "o", ms=3, color=of, alpha=0.35, mew=0)
            look = style.look(method, comparison.all_methods)
            axes.errorbar(x, y, bars, **look, capsize=3, elinewidth=1.2, label=method_label(method))
        axes.set_yscale("log")
        axes.set_xlim(*edges)
        top = max(2 * floor, *(float(e.max()) for e in errors))
        axes.set_ylim(min(top * 1.25, 100), floor * 0.85)
        style.accuracy_ticks(axes.yaxis, top, floor)
        axes.set_xticks(list(places.values()), [percent(s) for s in places])
        axes.set_xlabel("sparsity: share of the weights that are zero (log scale of the rest)")
        axes.set_ylabel("test accuracy (log scale of the error)")
        _legend_on_top(figure, axes)
        return style.to_svg(figure, "accuracy", "Test accuracy against sparsity, one line per method")


def differences(comparison: Comparison) -> str | None:
    """Paired differences to the reference method, with their 95 % intervals."""
    others = [m for m in comparison.methods if m != comparison.reference]
    if not others or len(comparison.sparse[0].seeds) < 2:
        return None
    if comparison.many:
        return rows.differences(comparison)
    with style.styled():
        height = 1.5 + 0.3 * (len(others) + 1) * len(comparison.sparsities)
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.subplots()
        y, ticks, largest = 0.0, [], 1.0
        gaps = tables.differences(comparison)
        for sparsity in comparison.sparsities:
            top = y
            for method in others:
                cell = comparison.find(method, sparsity)
                if cell is None or cell.name not in gaps:
                    continue
                reach = rows.mark_difference(axes, comparison, cell, gaps[cell.name], y, capsize=3, elinewidth=1.4)
                ticks.append((y, f"{method_label(method)}, {percent(sparsity)}"))
                largest = max(largest, reach)
                y += 1
            if top:
                axes.axhline(top - 0.85, color=style.GRID, lw=0.8)
            y += 0.7
        axes.axvline(0, color=style.MUTED, lw=1)
        style.signed_axis(axes, largest)
        axes.set_yticks([t[0] for t in ticks], [t[1] for t in ticks])
        axes.set_ylim(y - 0.9, -0.8)
        style.in_rows(axes)
        name = method_label(comparison.reference or "")
        axes.set_xlabel(f"test accuracy minus that of {name} on the same seeds, percentage points")
        return style.to_svg(figure, "differences", f"Paired differences in test accuracy to {name}")


def exploration(comparison: Comparison) -> str | None:
    """Exploration rate over the mask updates, and against the final accuracy (DST-EE, Figure 3)."""
    sweep = [c for c in comparison.sweep if len(c.updates)]
    if not sweep:
        return None
    sparsity = sweep[0].sparsity
    lines: list[tuple[CellResult, str, str, str]] = [
        (c, f"c = {c.coefficient:g}", of, "D") for c, of in zip(sweep, style.ramp(len(sweep)), strict=True)
    ]
    for method in ("set", "rigl"):
        cell = comparison.find(method, sparsity)
        if cell is not None and len(cell.updates):
            lines.append((cell, cell.label, style.colour(method, []), style.marker(method, [])))
    with style.styled():
        figure = Figure(figsize=(WIDTH, 4.2))
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1], gridspec_kw={"wspace": 0.03})
        for cell, _, of, _ in lines:
            rounds = np.arange(1, len(cell.updates) + 1)
            r = cell.updates.exploration
            dashes = "-" if cell.method == "dst_ee" else (0, (4, 2))
            left.plot(rounds, r.mean(1), color=of, ls=dashes)
            spread = np.array([deviation(row) for row in r])
            left.fill_between(rounds, r.mean(1) - spread, r.mean(1) + spread, color=of, alpha=0.2, lw=0)
        left.set_ylim(0, None)
        last = max(len(c.updates) for c, *_ in lines)
        left.set_xlim(1, last)
        left.set_xlabel("mask update (count)")
        left.set_ylabel("exploration rate R (share of weights)")
        left.set_title(f"Explored so far, at {percent(sparsity)} sparsity")
        for cell, _, of, mark in lines:
            right.errorbar(
                mean(cell.exploration),
                cell.mean,
                cell.deviation,
                deviation(cell.exploration),
                color=of,
                marker=mark,
                ls="none",
                capsize=3,
                elinewidth=1.2,
            )
        right.set_xlabel("R at the end (share of weights)")
        right.set_ylabel("test accuracy (%)")
        right.set_title("Did more exploration pay?")
        right.margins(x=0.25, y=0.15)
        figure.draw_without_rendering()
        ends = [(float(c.updates.exploration[-1].mean()), label, of) for c, label, of, _ in lines]
        style.line_labels(left, ends, last)
        points = [(mean(c.exploration), c.mean, deviation(c.exploration), c.deviation) for c, *_ in lines]
        style.point_labels(right, points, [(label, of) for _, label, of, _ in lines])
        return style.to_svg(figure, "exploration", "Exploration rate over mask updates and against accuracy")


def layers(comparison: Comparison) -> str | None:
    """Requested and realised density of each layer."""
    cells = [c for c in comparison.sparse if c.layers]
    if not cells:
        return None
    with style.styled():
        names = list(dict.fromkeys(layer.path for c in cells for layer in c.layers))
        figure = Figure(figsize=(WIDTH, 1.5 + 0.36 * len(names) * len(comparison.sparsities)))
        axes = figure.subplots()
        y, ticks, lowest = 0.0, [], 1.0
        for sparsity in comparison.sparsities:
            here = [c for c in cells if c.sparsity == sparsity]
            for name in names:
                found = [layer for c in here for layer in c.layers if layer.path == name]
                if not found:  # methods of other sparsities alone have it
                    continue
                requested = sorted({layer.requested for layer in found})
                active = np.unique(np.concatenate([layer.active for layer in found]))
                size = found[0].size
                lowest = min(lowest, float(active.min()) / size, requested[0] / size)
                of = style.COLOURS["set"]
                axes.plot(np.array(requested) / size, [y] * len(requested), "o", ms=11, mfc="none", mec=style.TEXT)
                axes.plot(active / size, [y] * active.size, "o", ms=5, color=of)
                axes.text(
                    1.0,
                    y,
                    f"{_span(active)} of {size:,}",
                    transform=axes.get_yaxis_transform(),
                    ha="right",
                    va="center",
                    color=style.MUTED,
                )
                ticks.append((y, f"{_short(name)}, {percent(sparsity)}"))
                y += 1
            y += 0.6
        axes.set_xscale("log")
        axes.set_xlim(lowest / 1.6, 6)
        axes.xaxis.set_major_locator(FixedLocator([v for v in (1e-4, 1e-3, 1e-2, 0.1, 1) if v > lowest / 1.6]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
        axes.set_yticks([t[0] for t in ticks], [t[1] for t in ticks])
        axes.set_ylim(y - 0.8, -0.8)
        style.in_rows(axes)
        axes.set_xlabel("density: share of the layer's weights that are active (log scale)")
        axes.plot([], [], "o", ms=11, mfc="none", mec=style.TEXT, label="requested")
        axes.plot(
            [],
            [],
            "o",
            ms=5,
            color=style.COLOURS["set"],
            label="realised, every method and seed (at the right in numbers)",
        )
        _legend_on_top(figure, axes)
        return style.to_svg(figure, "layers", "Requested and realised density of each layer")


def turnover(comparison: Comparison) -> str | None:
    """Survival of grown weights and mask error over the mask updates, a column per sparsity."""
    shown = moving(comparison)
    told_apart = shown if comparison.many else comparison.all_methods  # not by family
    cells = [c for c in comparison.sparse if c.method in shown]
    if not cells:
        return None
    with style.styled():
        sparsities = sorted({c.sparsity for c in cells})
        figure = Figure(figsize=(WIDTH, 5.2))
        grid = figure.subplots(2, len(sparsities), squeeze=False, sharex=True, sharey="row")
        measures: list[tuple[str, Callable[[UpdateRecords], np.ndarray]]] = [
            ("survival rate (share)", lambda u: u.survival),
            ("mask error \u03c4\u00b2 (share)", lambda u: u.mask_error),
        ]
        for column, sparsity in enumerate(sparsities):
            for row, (name, read) in enumerate(measures):
                axes = grid[row][column]
                for cell in (c for c in cells if c.sparsity == sparsity):
                    _band(axes, read(cell.updates), style.colour(cell.method, told_apart), cell.label)
                if column == 0:
                    axes.set_ylabel(name)
            grid[0][column].set_title(percent(sparsity) + " sparsity")
            grid[1][column].set_xlabel("mask update (count)")
            grid[1][column].xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[0][0].set_ylim(0, 1.02)
        grid[1][0].set_ylim(0, None)
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
        return style.to_svg(figure, "turnover", "Survival of grown weights and mask error over the mask updates")


def moving(comparison: Comparison) -> list[str]:
    """The methods whose mask updates are drawn: all that have some, or of many the reference and the best."""
    found = [c for c in comparison.sparse if len(c.updates)]
    if not comparison.many:
        return [m for m in comparison.methods if any(c.method == m for c in found)]
    # Where nothing that grew survives an update, or nothing grows, there is no line to be seen.
    drawn = {c.method for c in found if (c.updates.survival > 0).any()}
    best = [m for m in (comparison.reference, *comparison.ranked) if m in drawn]
    return [m for m in comparison.methods if m in list(dict.fromkeys(best))[:MOVING]]


def _band(axes: Axes, values: np.ndarray, of: str, label: str) -> None:
    known = ~np.isnan(values).any(1) if values.size else np.zeros(0, bool)
    if not known.any():
        return
    rounds = np.arange(1, len(values) + 1)[known]
    centre = values[known].mean(1)
    spread = np.array([deviation(row) for row in values[known]])
    axes.plot(rounds, centre, color=of, label=label, lw=1.5)
    axes.fill_between(rounds, centre - spread, centre + spread, color=of, alpha=0.2, lw=0)


def _legend_on_top(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=6)


def _span(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _short(path: str) -> str:
    """'params/Dense_0/kernel' -> 'Dense_0': the part of a path that tells layers apart."""
    parts = [p for p in path.split("/") if p not in ("params", "kernel")]
    return "/".join(parts) or path
