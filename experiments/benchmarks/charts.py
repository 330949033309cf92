"""The charts of the page; each function returns one SVG element, or None where there is nothing to draw."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.benchmarks.records import Row, duration
from experiments.report import style

WIDTH = 9.0  # inches
TREES = {"conv": "small conv net", "resnet50": "ResNet-50", "vit_b16": "ViT-B/16", "gpt_1.3b": "GPT 1.3B"}
COLOURS = ("#8f5bd0", "#e2632b", "#2f86d6", "#2b9c7e", "#a8742a", "#d1457f", "#6d8a1f")
MARKERS = "oDsv^PX"


def selection(rows: Sequence[Row], dtype: str = "float32") -> str | None:
    """Time against size, one line per algorithm."""
    lines: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        if row["kind"] == "time" and row["case"]["dtype"] == dtype and "bits" not in row["case"]["contender"]:
            lines.setdefault(row["case"]["contender"], []).append((row["case"]["entries"], row))
    if not lines:
        return None
    with style.styled():
        figure = Figure(figsize=(WIDTH, 4.4))
        axes = figure.subplots()
        for i, (name, points) in enumerate(lines.items()):
            x = [size for size, _ in points]
            axes.plot(
                x, [row["seconds"]["median"] for _, row in points], color=COLOURS[i], marker=MARKERS[i], label=name
            )
        longest = max(lines.values(), key=len)
        floor = [row["floor_seconds"] for _, row in longest]
        axes.plot([s for s, _ in longest], floor, color=style.MUTED, ls=(0, (5, 2)), lw=1.4, label="bandwidth floor")
        axes.set_xscale("log")
        _log_seconds(axes)
        axes.set_xlabel("entries")
        axes.set_ylabel("time for one selection")
        figure.legend(loc="outside upper left", ncols=6)
        return style.to_svg(figure, f"selection-{dtype}", "Time of one selection against the number of entries")


def updates(rows: Sequence[Row]) -> str | None:
    """Mask updates in dense optimiser steps, by tree."""
    found = [
        row
        for row in rows
        if row.get("to") == "dense step" and row["benchmark"] == "update" and row["case"]["tree"] != "one matrix"
    ]
    labels = [f"{_tree(r)}{_note(r)}, {r['case']['contender']}" for r in found]
    return _bars(
        "updates", "Mask update in dense optimiser steps", "dense optimiser steps (log scale)", found, labels, log=True
    )


def steps(rows: Sequence[Row]) -> str | None:
    """The step between updates as a ratio to the dense one."""
    found = [r for r in rows if r.get("to") == "dense" and not r["case"]["contender"].startswith("jaxpruner")]
    labels = [
        f"{_tree(r)}, "
        f"{'whole training step' if r['case'].get('training') else r['case']['optimiser']}: {r['case']['contender']}"
        for r in found
    ]
    return _bars(
        "steps", "Step between updates against the dense step", "times the dense step", found, labels, one=True
    )


def seeds(rows: Sequence[Row]) -> str | None:
    """A vmapped step as a ratio to the dense one vmapped alike."""
    found = [r for r in rows if r.get("to") == "dense"]
    labels = [f"{r['case']['seeds']} seeds, {r['case']['contender']}" for r in found]
    return _bars(
        "seeds", "Step under vmap against the dense step alike", "times the dense step", found, labels, one=True
    )


def collectives(rows: Sequence[Row]) -> str | None:
    """Bytes for a leaf and update against the number of devices, one line per layout."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        if row["kind"] == "value" and row["case"]["method"] == "rigl":
            at = (row["case"]["layout"], row["case"]["mesh"])
            lines.setdefault(at, []).append((row["case"]["devices"], row["values"]["bytes_per_leaf"]))
    if not lines:
        return None
    with style.styled():
        figure = Figure(figsize=(WIDTH, 3.8))
        axes = figure.subplots()
        layouts = list(dict.fromkeys(layout for layout, _ in lines))
        for (layout, mesh), points in lines.items():
            i = layouts.index(layout)
            points.sort()
            dash = "-" if mesh == "auto" else (0, (4, 2))
            devices, sizes = zip(*points, strict=True)
            axes.plot(
                devices,
                np.array(sizes) / 1024,
                color=COLOURS[i],
                marker=MARKERS[i],
                ls=dash,
                label=f"{layout}, {mesh}",
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_ylim(0)
        axes.set_xlabel("devices (log scale)")
        axes.set_ylabel("KiB received by a device\nfor a leaf and update")
        figure.legend(loc="outside upper left", ncols=4)
        return style.to_svg(figure, "collectives", "Communication of a mask update against the number of devices")


def _bars(
    name: str, title: str, label: str, rows: list[Row], labels: list[str], *, log: bool = False, one: bool = False
) -> str | None:
    """Ratios as points with their quartiles, a line each."""
    if not rows:
        return None
    with style.styled():
        figure = Figure(figsize=(WIDTH, 0.6 + 0.3 * len(rows)))
        axes = figure.subplots()
        middle = np.array([r["ratio"]["median"] for r in rows])
        low = middle - [r["ratio"]["q1"] for r in rows]
        high = np.array([r["ratio"]["q3"] for r in rows]) - middle
        y = np.arange(len(rows))[::-1]
        axes.errorbar(middle, y, xerr=[low, high], fmt="o", color=COLOURS[0], capsize=3, elinewidth=1.2)
        for x, at in zip(middle, y, strict=True):
            axes.annotate(f"{x:.3g}", (x, at), (0, 6), textcoords="offset points", ha="center", fontsize=8.5)
        axes.set_yticks(y, labels)
        axes.set_ylim(-0.7, len(rows) - 0.2)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        if one:
            axes.axvline(1, color=style.MUTED, ls=(0, (5, 2)), lw=1.4)
        axes.set_xlabel(label)
        return style.to_svg(figure, name, title)


def _log_seconds(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: duration(x)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _tree(row: Row) -> str:
    return TREES.get(row["case"]["tree"], row["case"]["tree"])


def _note(row: Row) -> str:
    notes = [row["case"][k] for k in ("shortened",) if k in row["case"]]
    if row["case"].get("dtype", "float32") != "float32":
        notes.append(row["case"]["dtype"])
    return f" ({', '.join(notes)})" if notes else ""
