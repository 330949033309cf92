"""The chart of what accuracy costs: a panel per sparsity, a marker per method."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.report import style
from experiments.report.cells import CellResult, Comparison, percent
from experiments.report.names import family, method_label

WIDTH = 9.0  # inches
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


def accuracy_against_cost(comparison: Comparison) -> str | None:
    """Test accuracy against the cost of training by the exact convention."""
    cells = [c for c in (*comparison.sparse, *comparison.patterned) if c.cost is not None]
    if not cells:
        return None
    groups = [(f"{percent(s)} sparsity", [c for c in cells if not c.pattern and c.sparsity == s]) for s in spans(cells)]
    groups += [(f"{p} by the pattern", [c for c in cells if c.pattern and c.place == p]) for p in patterns(cells)]
    with style.styled():
        columns = 1 if comparison.many else min(len(groups), 3)
        lines = math.ceil(len(groups) / columns)
        heights = [3.3] * lines
        if columns == 1 and patterns(cells):
            heights[-len(patterns(cells)) :] = [1.8] * len(patterns(cells))  # a few markers
        figure = Figure(figsize=(WIDTH, 0.5 + sum(heights)))
        grid = figure.subplots(lines, columns, squeeze=False, height_ratios=heights)
        for axes in grid.flat[len(groups) :]:
            axes.set_visible(False)
        for axes, (title, members) in zip(grid.flat, groups, strict=False):
            _panel(axes, comparison, members)
            axes.set_title(title)
        for row in grid:
            row[0].set_ylabel("test accuracy")
        for axes in grid[-1]:
            axes.set_xlabel("cost of training, dense = 1")
        _legend(figure, comparison, cells)
        if comparison.many:
            figure.draw_without_rendering()
            for axes, (_, members) in zip(grid.flat, groups, strict=False):
                _name_front(axes, comparison, members)
        return style.to_svg(figure, "cost", "Test accuracy against the cost of training, one marker per method")


def _legend(figure: Figure, comparison: Comparison, cells: list[CellResult]) -> None:
    methods = comparison.all_methods
    handles: dict[str, Line2D] = {}
    for method in [m for m in ("dense", *methods) if m in {c.method for c in (*cells, *comparison.grid)}]:
        name = family(method) if comparison.many and method != "dense" else method_label(method)
        handles.setdefault(name, Line2D([], [], ls="none", **style.look(method, methods)))
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=6)


def spans(cells: list[CellResult]) -> list[float]:
    """The sparsities that were asked for, rising."""
    return sorted({c.sparsity for c in cells if not c.pattern})


def patterns(cells: list[CellResult]) -> list[str]:
    """The patterns that give a sparsity of their own."""
    return sorted({c.place for c in cells if c.pattern})


def front(cells: list[CellResult]) -> list[CellResult]:
    """The cells that none of the others beats at no higher cost, the cheapest first; too dense ones do not count."""
    best, found = -math.inf, []
    for cell in sorted((c for c in cells if not c.too_dense), key=lambda c: (_cost(c), -c.mean)):
        if cell.mean > best:
            best = cell.mean
            found.append(cell)
    return found


def _panel(axes: Axes, comparison: Comparison, cells: list[CellResult]) -> None:
    dense = comparison.dense if comparison.dense and comparison.dense.cost else None
    drawn = [*cells, *([dense] if dense else [])]
    errors = [100 - c.accuracy for c in drawn]
    floor = style.error_floor(errors)
    costs, means = [_cost(c) for c in drawn], [_error(c, floor) for c in drawn]
    edges = min(costs) / 1.4, max(costs) * 1.4
    axes.set(xscale="log", yscale="log", xlim=edges)
    for cell in drawn:
        axes.errorbar(
            _cost(cell),
            _error(cell, floor),
            **style.look(cell.method, comparison.all_methods),
            fillstyle="none" if cell.off_density else "full",
            ls="none",
        )
    at_front = front(cells)
    axes.plot([_cost(c) for c in at_front], [_error(c, floor) for c in at_front], color=style.MUTED, lw=1, zorder=1)
    top, low = max(means), min(means)
    style.accuracy_ticks(axes.yaxis, top, low / 1.3)
    axes.set_ylim(min(top * 1.3, 100), low / 1.3)
    axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS if edges[0] <= t <= edges[1]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _name_front(axes: Axes, comparison: Comparison, cells: list[CellResult]) -> None:
    """Names the cells of the front, the reference and those that are denser than asked; of few cells all."""
    chosen = front(cells)
    chosen += [c for c in cells if c not in chosen and (c.method == comparison.reference or c.too_dense or c.pattern)]
    dense = comparison.dense
    floor = style.error_floor([100 - c.accuracy for c in (*cells, *([dense] if dense else []))])
    # The others come last and without a text: labels keep off them too.
    rest = [c for c in cells if c not in chosen] + ([dense] if dense and dense.cost else [])
    points = [(_cost(c), _error(c, floor), 0.0, 0.0) for c in (*chosen, *rest)]
    style.point_labels(axes, points, [(c.label, style.MUTED) for c in chosen])


def _cost(cell: CellResult) -> float:
    return cell.cost.training_exact if cell.cost is not None else math.nan


def _error(cell: CellResult, floor: float) -> float:
    return max(100 - cell.mean, floor)
