"""The numbers of a finished table as Markdown: methods by settings, as differences to one of the methods."""

from collections import Counter
from typing import Any

import numpy as np

from experiments.report.statistics import deviation, mean, paired
from experiments.reproduce.papers.table import Table
from experiments.reproduce.reading import metric_of

Row = dict[str, Any]  # of results.json
FEW = 2  # metrics that have a grid each; more are the rows of a grid for each setting


def markdown(table: Table, rows: list[Row]) -> str:
    """All grids of a table.

    Args:
      table: whose ``reference`` is the method that others are compared with.
      rows: of its results.json.
    """
    metrics = list(dict.fromkeys(r["metric"] for r in rows))
    blocks = list(dict.fromkeys(map(_block, rows)))
    rows = _named(rows)
    methods = list(dict.fromkeys(r["name"] for r in rows))
    if len(metrics) <= FEW:
        grids = [
            _grid(metric_of(metric).label, methods, blocks, lambda a, b, m=metric: _value(table, rows, m, b, a))
            for metric in metrics
        ]
        return "\n\n".join(grids)
    labels = {metric_of(m).label: m for m in metrics}
    grids = []
    for block in blocks:
        own = [m for m in methods if any(r["name"] == m and _block(r) == block for r in rows)]
        grids.append(_grid(block, list(labels), own, lambda a, b, at=block: _value(table, rows, labels[a], at, b)))
    return "\n\n".join(grids)


def _named(rows: list[Row]) -> list[Row]:
    """Rows with a name each: the method, with its epochs where one setting has it with several."""
    times = Counter((r["metric"], _block(r), r["method"]) for r in rows)
    several = {method for (*_, method), number in times.items() if number > 1}
    return [{**r, "name": named(r) if r["method"] in several else r["method"]} for r in rows]


def named(row: Row) -> str:
    """The method of a row, and for how long it was trained."""
    return row["method"] + (f" ({row['epochs']} epochs)" if row["epochs"] else "")


def _grid(corner: str, down: list[str], across: list[str], value: Any) -> str:
    lines = [f"| {corner} | {' | '.join(across)} |", "|---" * (len(across) + 1) + "|"]
    return "\n".join([*lines, *(f"| {a} | {' | '.join(value(a, b) for b in across)} |" for a in down)])


def _block(row: Row) -> str:
    sparsity = f"{100 * row['sparsity']:g} %" if row["sparsity"] else ""
    at = "" if row["x"] is None else f"{row['x']:g}"
    return ", ".join(p for p in (row["model"], row["dataset"], row["group"], sparsity, at) if p)


def _value(table: Table, rows: list[Row], metric: str, block: str, name: str) -> str:
    """A mean and its deviation, or the paired difference to the reference and half its 95 % interval."""
    here = [r for r in rows if r["metric"] == metric and _block(r) == block]
    row = next((r for r in here if r["name"] == name), None)
    if row is None:
        return ""
    digits = metric_of(metric).digits
    values = np.array([np.nan if v is None else v for v in row["per_seed"]], float)
    references = [r for r in here if r["method"] == table.reference]
    alike = [r for r in references if len(references) == 1 or r["epochs"] == row["epochs"]]
    other = next(iter(alike), None)
    if other is not None and metric == table.metrics[0] and row["method"] != table.reference:
        reference = np.array(other["per_seed"], float)
        if len(reference) == len(values) > 1:
            gap = paired(values, reference)
            return f"{gap.mean:+.{digits}f} ± {gap.half_width:.{digits}f}"
    spread = deviation(values)
    return f"{mean(values):.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "")
