"""Charts of any table: the metrics against x, and a metric over training."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.report import style
from experiments.report.statistics import deviation, mean
from experiments.reproduce.outcome import Outcome
from experiments.reproduce.reading import Measured, metric_of

WIDTH, PANELS = 9.0, 3  # inches; panels in a row


def metric(found: Outcome, name: str) -> str | None:
    """A panel for each network, data set and group: the metric against x or sparsity, a line for each method."""
    groups = _grouped([m for m in found.cells if name in m.values])
    if not groups:
        return None
    methods = list(dict.fromkeys(m.cell.method for m in found.cells))
    if len(methods) > 12 or found.table.axis == "":
        return _dots(found, name)
    with style.styled():
        figure, panels = _panels(len(groups))
        for axes, (title, cells) in zip(panels, groups.items(), strict=False):
            swept = any(m.cell.x is not None for m in cells)
            for method in methods:
                own = sorted((m for m in cells if m.cell.method == method), key=lambda m: _place(m, swept))
                if not own:
                    continue
                y = np.array([mean(m.values[name]) for m in own])
                spread = [deviation(m.values[name]) for m in own]
                of = style.colour(method.lower(), [m.lower() for m in methods])
                level = not own[0].cell.sparsity if not swept else own[0].cell.x is None
                if level:  # a reference that has no place on the axis
                    axes.axhline(y[0], color=of, ls=(0, (5, 2)), lw=1.3, label=method)
                    continue
                mark = style.marker(method.lower(), [m.lower() for m in methods])
                x = [_place(m, swept) for m in own]
                axes.errorbar(x, y, spread, color=of, marker=mark, capsize=2.5, elinewidth=1, label=method)
            if swept:
                axes.set_xscale("symlog", linthresh=_smallest(cells))
            axes.set_xlabel(found.table.axis)
            axes.set_ylabel(metric_of(name).label)
            axes.set_title(title)
        _legend(figure, panels)
        return style.to_svg(figure, f"metric-{name.replace(' ', '-')}", f"{metric_of(name).label} of each setting")


def _dots(found: Outcome, name: str) -> str:
    """One row for each cell."""
    cells = [m for m in found.cells if name in m.values]
    with style.styled():
        figure = Figure(figsize=(WIDTH, 1.0 + 0.28 * len(cells)))
        axes = figure.subplots()
        for y, m in enumerate(cells):
            axes.plot(m.values[name], [y] * len(m.seeds), "o", ms=3, alpha=0.4, color=style.COLOURS["set"], mew=0)
            axes.errorbar(
                mean(m.values[name]),
                y,
                xerr=deviation(m.values[name]),
                color=style.COLOURS["set"],
                marker="o",
                capsize=3,
            )
        several = len({m.cell.dataset for m in cells}) > 1
        axes.set_yticks(range(len(cells)), [_short(m, several) for m in cells])
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(metric_of(name).label)
        return style.to_svg(figure, f"metric-{name.replace(' ', '-')}", f"{metric_of(name).label} of each setting")


def against(found: Outcome, name: str) -> str | None:
    """The first metric of the table against another one, a point for each cell."""
    metric = found.table.metrics[0]
    groups = _grouped([m for m in found.cells if {name, metric} <= m.values.keys()])
    if not groups:
        return None
    methods = list(dict.fromkeys(m.cell.method for m in found.cells))
    with style.styled():
        figure, panels = _panels(len(groups))
        for axes, (title, cells) in zip(panels, groups.items(), strict=False):
            for m in cells:
                of = style.colour(m.cell.method.lower(), [x.lower() for x in methods])
                x, y = mean(m.values[name]), mean(m.values[metric])
                axes.errorbar(x, y, deviation(m.values[metric]), color=of, marker="o", capsize=2.5, elinewidth=1)
                axes.annotate(_label(m), (x, y), (4, 3), textcoords="offset points", fontsize=7, color=style.MUTED)
            axes.set_xlabel(metric_of(name).label)
            axes.set_ylabel(metric_of(metric).label)
            axes.set_title(title)
        return style.to_svg(figure, f"against-{name.replace(' ', '-')}", f"{metric_of(metric).label} by cost")


def curves(found: Outcome, name: str, since: float = 0.0, axis: str = "training step") -> str | None:
    """The metric over training or another axis, mean over the seeds, a line for each method or x.

    ``since``: a share of the axis.
    """
    groups = _grouped([m for m in found.cells if name in m.curves])
    if not groups:
        return None
    labels = list(dict.fromkeys(_label(m) for m in found.cells))
    with style.styled():
        figure, panels = _panels(len(groups))
        for axes, (title, cells) in zip(panels, groups.items(), strict=False):
            for m in cells:
                steps, values = m.curves[name]
                late = steps >= since * steps[-1]
                steps, values = steps[late], values[late]
                lines = {"": slice(None)}
                if name == "IoU" and m.cell.method == "IEE":  # prunes and growths by turns
                    lines = {", after prune": slice(0, None, 2), ", after growth": slice(1, None, 2)}
                for i, (ending, part) in enumerate(lines.items()):
                    of = style.colour(_label(m).lower(), [x.lower() for x in labels])
                    axes.plot(
                        steps[part], values[part].mean(axis=1), color=of, ls=("-", ":")[i], label=_label(m) + ending
                    )
            axes.set_xlabel(axis)
            axes.set_ylabel(metric_of(name).label)
            axes.set_title(title)
        _legend(figure, panels)
        of_what = f"curve-{name.replace(' ', '-')}{'-late' if since else ''}"
        return style.to_svg(figure, of_what, f"{metric_of(name).label} by {axis}")


def _grouped(cells: list[Measured]) -> dict[str, list[Measured]]:
    """Cells by network, data and group; those without a group belong to each of theirs."""
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for m in cells:
        groups.setdefault((m.cell.model, m.cell.dataset, m.cell.group), []).append(m)
    result: dict[tuple[str, str, str], list[Measured]] = {}
    for (model, dataset, group), own in groups.items():
        if not group and any((model, dataset) == key[:2] and key[2] for key in groups):
            continue
        shared = groups.get((model, dataset, ""), []) if group else []
        result[model, dataset, group] = [*shared, *own]
    short = {key: ", ".join(p for p in (key[0], key[2]) if p) for key in result}
    if len({*short.values()}) < len(short):  # networks alone do not tell them apart
        short = {key: ", ".join(p for p in key if p) for key in result}
    return {short[key]: own for key, own in result.items()}


def _panels(n: int) -> tuple[Figure, list[Any]]:
    columns = min(n, PANELS)
    rows = -(-n // columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 3.2 * rows))
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axes in panels[n:]:
        axes.set_visible(False)
    return figure, panels


def _legend(figure: Figure, panels: list[Any]) -> None:
    entries = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=min(len(entries), 6))


def _place(m: Measured, swept: bool) -> float:
    return float((m.cell.x if swept else m.cell.sparsity) or 0.0)


def _smallest(cells: list[Measured]) -> float:
    return min((m.cell.x for m in cells if m.cell.x), default=1.0)


def _label(m: Measured) -> str:
    at = "" if m.cell.x is None else f", {m.cell.x:g}"
    return m.cell.method + at + (f", {100 * m.cell.sparsity:g} %" if m.cell.sparsity else "")


def _short(m: Measured, with_data: bool) -> str:
    text = ", ".join(p for p in (m.cell.dataset if with_data else "", m.cell.method, m.cell.group) if p)
    return text if len(text) < 70 else text[:67] + "..."
