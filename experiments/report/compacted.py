"""What compaction has made of the networks of a run: rows, a table as text, and a page with a chart."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.report import style
from experiments.report.document import document, escaped, row, table

WIDTH, HEIGHT = 9.0, 2.6  # inches


class Row(NamedTuple):
    """What became of one network."""

    seed: int
    parameters: tuple[int, int]  # before and after
    flops: tuple[float, float] | None  # of the example; None where they cannot be counted
    changed: int  # test samples with another prediction
    samples: int
    call: tuple[float, float]  # seconds of a call with one batch
    looped: tuple[float, float]  # seconds of a batch in a compiled loop over several


MEASURES = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "call": "time of a call",
    "looped": "time in a compiled loop",
}


def times(found: Row, measure: str) -> float | None:
    """How many times less there is after compaction than before."""
    values = getattr(found, measure)
    return None if values is None else values[0] / max(values[1], 1e-12)


def text(found: Sequence[Row], batch_size: int) -> str:
    """The table of all seeds, for a terminal."""
    lines = [
        f"seed  parameters before -> after       FLOPs  other predictions  ms a batch of {batch_size}  faster  "
        "in a compiled loop  faster"
    ]
    for r in found:
        parameters = f"{r.parameters[0]:,} -> {r.parameters[1]:,}, {times(r, 'parameters'):.1f}x"
        work = times(r, "flops")
        flops = "unknown" if work is None else f"{work:.1f}x less"
        cells = [f"{r.seed:>4}", f"{parameters:>26}", f"{flops:>10}", f"{f'{r.changed} of {r.samples}':>17}"]
        cells += [f"{_milliseconds(r.call):>18}", f"{times(r, 'call'):>5.1f}x"]
        cells += [f"{_milliseconds(r.looped):>18}", f"{times(r, 'looped'):>5.1f}x"]
        lines.append("  ".join(cells))
    if len(found) > 1:
        smaller = _values(found, "parameters")
        lines.append(
            f"mean of {len(found)}: {statistics.mean(smaller):.1f}x smaller (standard deviation "
            f"{statistics.stdev(smaller):.1f}), {statistics.mean(_values(found, 'call')):.1f}x faster, "
            f"{statistics.mean(_values(found, 'looped')):.1f}x in a compiled loop"
        )
    return "\n".join(lines)


def page(found: Sequence[Row], batch_size: int, *, title: str, machine: str, layers: str, command: str) -> str:
    """The page.

    Args:
      found: a row for each network.
      batch_size: samples of a batch.
      title: of the page.
      machine: where the times were measured.
      layers: the table of the first network's leaves, as text.
      command: what makes the page.
    """
    changed, samples = sum(r.changed for r in found), sum(r.samples for r in found)
    mean = {m: statistics.mean(v) for m in MEASURES if (v := _values(found, m))}
    networks = f"{len(found)} networks are" if len(found) > 1 else "The network is"
    lead = (
        f"{networks} {mean['parameters']:.1f} times smaller. "
        f"{f'{changed:,} of {samples:,}' if changed else f'None of {samples:,}'} predictions of test samples differ. "
        f"A call with {batch_size} samples is {mean['call']:.1f} times faster, a compiled loop over such batches "
        f"{mean['looped']:.1f} times. {'Means. ' * (len(found) > 1)}Measured on {machine}."
    )
    names = ["seed", "parameters", "FLOPs", "other predictions", "ms a call", "faster", "ms in a loop", "faster"]
    rows = "".join(row(str(r.seed), _cells(r)) for r in found)
    return document(
        title,
        [
            f'<p class="lead">{escaped(lead)}</p>',
            f"<figure>{chart(found)}<figcaption>How many times less after compaction: a dot for each network, a bar "
            "for their mean. A call takes some microseconds before anything is computed; a loop that is compiled "
            "does not.</figcaption></figure>",
            f"<h2>Networks</h2>{table(names, rows)}",
            f"<h2>Layers of the first</h2><pre>{escaped(layers)}</pre>",
            f"<h2>Made by</h2><pre>{escaped(command)}</pre>",
        ],
    )


def chart(found: Sequence[Row]) -> str:
    """How many times less there is of each measure: a row for each, a dot for each network."""
    with style.styled():
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.subplots()
        shown = [m for m in MEASURES if _values(found, m)]
        for y, measure in enumerate(shown):
            values = _values(found, measure)
            of, mean = style.MORE_COLOURS[0], statistics.mean(values)
            axes.barh(y, mean - 1, left=1, height=0.5, color=of, alpha=0.3)
            axes.plot(values, [y] * len(values), "o", color=of, ms=5, alpha=0.7, mew=0)
            axes.annotate(
                f"{mean:.1f}",
                (max([mean, *values]), y),
                (8, 0),
                textcoords="offset points",
                va="center",
                color=style.TEXT,
            )
        axes.set_xscale("log")
        axes.axvline(1, color=style.MUTED, lw=1)
        every = [v for m in shown for v in _values(found, m)]
        axes.set_xlim(min(0.9, min(every) / 1.1), max(every) * 1.35)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("times less than before (log scale)")
        axes.set_yticks(range(len(shown)), [MEASURES[m] for m in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        style.in_rows(axes)
        return style.to_svg(figure, "compacted", "Parameters, FLOPs and time before and after compaction")


def _values(found: Sequence[Row], measure: str) -> list[float]:
    return [value for r in found if (value := times(r, measure)) is not None]


def _cells(r: Row) -> list[str]:
    flops = times(r, "flops")
    return [
        f"{r.parameters[0]:,} → {r.parameters[1]:,}, {times(r, 'parameters'):.1f}x",
        "unknown" if flops is None else f"{flops:.1f}x",
        f"{r.changed:,} of {r.samples:,}",
        _milliseconds(r.call, "→"),
        f"{times(r, 'call'):.1f}x",
        _milliseconds(r.looped, "→"),
        f"{times(r, 'looped'):.1f}x",
    ]


def _milliseconds(seconds: tuple[float, float], arrow: str = "->") -> str:
    return f"{seconds[0] * 1e3:.3f} {arrow} {seconds[1] * 1e3:.3f}"
