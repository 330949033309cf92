"""How charts look: one style, saved as SVG that takes the page's colours and font."""

import io
import itertools
import math
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.report.names import family

# Stand-ins for colours that the page decides, so that a chart fits a light and a dark background.
TEXT, MUTED, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
PAGE_COLOURS = {TEXT: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}

COLOURS = {"dense": MUTED, "static": "#a8742a", "set": "#2f86d6", "rigl": "#e2632b", "dst_ee": "#8f5bd0"}
MORE_COLOURS = ["#2b9c7e", "#d1457f", "#6d8a1f", "#4c9fb8", "#b5543f", "#5a6fd8"]
MARKERS = {"dense": "s", "static": "v", "set": "s", "rigl": "o", "dst_ee": "D"}
MORE_MARKERS = ["^", "P", "X", "<", ">", "*"]
FAMILY_COLOURS = {
    "pruned at initialisation": "#a8742a",
    "dense to sparse": "#2b9c7e",
    "sparse to sparse": "#2f86d6",
    "performance-driven": "#d1457f",
    "structured": "#8f5bd0",
}
FAMILY_MARKERS = {
    "pruned at initialisation": "v",
    "dense to sparse": "^",
    "sparse to sparse": "o",
    "performance-driven": "P",
    "structured": "s",
}
MANY = 8  # methods: more cannot be told apart, so colours and markers stand for families
PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # of a label around its point
SHADES = 16  # of one colour, from near the paper to near the ink: #010300 and up

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # measures the text; the page's own font draws it
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.labelsize": 10,
    "axes.labelpad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
}


def colour(method: str, methods: list[str]) -> str:
    """The colour of a method, or of its family where there are many; the same in every chart of all methods."""
    if len(methods) > MANY and method != "dense":
        return FAMILY_COLOURS.get(family(method), MUTED)
    unknown = [m for m in methods if m not in COLOURS]
    return COLOURS.get(method) or MORE_COLOURS[unknown.index(method) % len(MORE_COLOURS)]


def marker(method: str, methods: list[str]) -> str:
    """The marker of a method or of its family, so that colour is never the only difference."""
    if len(methods) > MANY and method != "dense":
        return FAMILY_MARKERS.get(family(method), "*")
    unknown = [m for m in methods if m not in MARKERS]
    return MARKERS.get(method) or MORE_MARKERS[unknown.index(method) % len(MORE_MARKERS)]


def look(method: str, methods: list[str]) -> dict[str, Any]:
    """Colour and marker of a method, as matplotlib names them."""
    return {"color": colour(method, methods), "marker": marker(method, methods)}


def in_rows(axes: Axes) -> None:
    """A row for each thing: no axis at the left, lines to read its numbers along."""
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def ramp(n: int) -> list[str]:
    """n shades of DST-EE's colour, from faint to strong on a light and on a dark page."""
    return [f"#0103{round(i / max(n - 1, 1) * (SHADES - 1)):02x}" for i in range(n)]


def css_colour(colour: str) -> str:
    """The CSS of a colour or stand-in."""
    if not colour.startswith("#0103"):
        return PAGE_COLOURS.get(colour, colour)
    place = int(colour[5:], 16) / (SHADES - 1) * 2 - 1
    other, amount = ("--paper", -0.4 * place) if place < 0 else ("--ink", 0.65 * place)
    return f"color-mix(in oklab, {COLOURS['dst_ee']}, var({other}) {amount * 100:.0f}%)"


def styled() -> Any:
    """The context in which charts are drawn: no display, nothing global left behind."""
    return matplotlib.rc_context(STYLE)


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an inline SVG element without metadata, with ids and colours fit for a page.

    Args:
      figure: drawn in :func:`styled`.
      name: makes the ids of this chart different from those of others on the page.
      title: what the chart shows, for readers who cannot see it.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font:([^;\"]*?)(\d[\d.]*px) [^;\"]*", r"font:\1\2 var(--font)", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    svg = re.sub(r"#010[23][0-9a-f]{2}", lambda found: css_colour(found[0]), svg)
    width, height = (float(x) for x in re.findall(r'(?:width|height)="([\d.]+)pt"', svg[:600])[:2])
    return re.sub(
        r'(<svg[^>]*?) (?:width|height)="[^"]*"([^>]*?) (?:width|height)="[^"]*"',
        rf'\1\2 role="img" aria-label="{title}" style="max-width: {width * 4 / 3:.0f}px; '
        rf'aspect-ratio: {width:.0f} / {height:.0f}"',
        svg,
        count=1,
    )


def error_floor(errors: list[np.ndarray]) -> float:
    """Where a run without an error is drawn on the log axis of errors."""
    above_zero = [float(e[e > 0].min()) for e in errors if (e > 0).any()]
    return min([*above_zero, 1.0]) / 2


def accuracy_ticks(axis: Axis, top: float, floor: float) -> None:
    """Accuracies on an axis of errors in percent."""
    values = [v for v in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 80, 100) if floor <= v <= top * 1.25]
    if len(values) < 3:  # a narrow range
        finer = (*np.arange(0.1, 1, 0.1), 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 50, 60, 70)
        values = [v for v in finer if floor <= v <= top * 1.25]
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 - v:.10g}\u00a0%"))


def signed_axis(axes: Axes, largest: float) -> None:
    """Makes x an axis of differences: linear from -1 to 1, logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.8)
    limit = largest * 1.3
    axes.set_xlim(-limit, limit)
    values = [v for v in (0.5, 1, 2, 5, 10, 20, 50, 100) if v < limit]
    axes.set_xticks([-v for v in reversed(values)] + [0, *values], minor=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+.3g}".replace("-", "\u2212") if v else "0"))
    axes.xaxis.set_minor_locator(NullLocator())


def spread_apart(places: list[float], least: float) -> list[float]:
    """Moves labels along an axis as little as needed for ``least`` between neighbours."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [places[i] for i in order]
    groups = [[p] for p in moved]
    # Labels that collide form a group that is spread about its own centre.
    merged = True
    while merged:
        merged = False
        for a in range(len(groups) - 1):
            if _edge(groups[a + 1], least, -1) - _edge(groups[a], least, 1) < least:
                groups[a : a + 2] = [groups[a] + groups[a + 1]]
                merged = True
                break
    spaced = [_edge(g, least, -1) + i * least for g in groups for i in range(len(g))]
    result = [0.0] * len(places)
    for place, i in zip(spaced, order, strict=True):
        result[i] = place
    return result


def _edge(group: list[float], least: float, side: int) -> float:
    return sum(group) / len(group) + side * (len(group) - 1) / 2 * least


def line_labels(axes: Axes, labels: list[tuple[float, str, str]], x: float) -> None:
    """Writes ``(y, text, colour)`` to the right of linear axes, next to the ends of their lines, without overlap."""
    low, high = axes.get_ylim()
    per_point = (high - low) / (axes.get_window_extent().height * 72 / _dpi(axes))
    placed = spread_apart([y for y, _, _ in labels], 14 * per_point)
    for (y, text, of), at in zip(labels, placed, strict=True):
        axes.annotate(
            text,
            (x, y),
            (14, (at - y) / per_point),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": of, "lw": 1.5, "shrinkA": 0, "shrinkB": 0},
        )


def point_labels(axes: Axes, points: list[tuple[float, float, float, float]], labels: list[tuple[str, str]]) -> None:
    """Writes ``(text, colour)`` beside the first points ``(x, y, x deviation, y deviation)``, where it hides least."""
    scale = 72 / _dpi(axes)
    to_points = axes.transData.transform
    taken: list[tuple[float, float, float, float]] = []
    for x, y, dx, dy in points:
        (left, low), (right, high) = (to_points((x + s * dx, y + s * dy)) * scale for s in (-1, 1))
        (cx, cy) = to_points((x, y)) * scale
        taken += [(cx - 5, cy - 5, cx + 5, cy + 5), (cx - 1, low, cx + 1, high), (left, cy - 1, right, cy + 1)]
    box = axes.get_window_extent()
    inside = (box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
    for (x, y, _, _), (text, of) in zip(points, labels, strict=False):
        cx, cy = to_points((x, y)) * scale
        width, best = 5.6 * len(text), (math.inf, 0.0, 0.0, "left")
        for distance, (across, up) in itertools.product((9, 18, 28, 40), PLACES):
            start = cx + across * distance - {1: 0, 0: width / 2, -1: width}[across]
            area = (start, cy + up * distance - 5, start + width, cy + up * distance + 5)
            cost = (
                distance + sum(_shared(area, other) for other in taken) * 3 + (_size(area) - _shared(area, inside)) * 5
            )
            if cost < best[0]:
                best = (cost, across * distance, up * distance, {1: "left", 0: "center", -1: "right"}[across])
        _, across_by, up_by, align = best
        axes.annotate(
            text,
            (x, y),
            (across_by, up_by),
            textcoords="offset points",
            va="center",
            ha=align,
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": of, "lw": 1, "shrinkA": 1, "shrinkB": 0},
        )
        start = cx + across_by - {"left": 0, "center": width / 2, "right": width}[align]
        taken.append((start, cy + up_by - 5, start + width, cy + up_by + 5))


def _shared(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


def _size(a: tuple[float, float, float, float]) -> float:
    return (a[2] - a[0]) * (a[3] - a[1])


def _dpi(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure.dpi
