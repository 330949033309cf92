"""Figures that the papers print: facts, each with its paper and table. They are never passed as ours."""

import csv
import functools
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reproduce.cells import Cell

FILE = Path(__file__).with_name("published.csv")


class Figure(NamedTuple):
    """One published number; what the paper does not print is empty."""

    paper: str
    table: str
    model: str
    dataset: str
    method: str
    epochs: str
    sparsity: float | None
    metric: str  # named as in experiments.reproduce.reading
    value: float
    std: float | None
    note: str
    section: str


@functools.cache
def figures() -> tuple[Figure, ...]:
    """All of published.csv."""
    with FILE.open(newline="") as file:
        return tuple(_figure(row) for row in csv.DictReader(file))


def _figure(row: dict[str, str]) -> Figure:
    values: dict[str, Any] = {**row, "value": float(row["value"])}
    for name in ("sparsity", "std"):
        values[name] = float(row[name]) if row[name] else None
    return Figure(**values)


def of_table(paper: str, table: str) -> list[Figure]:
    """The figures of one table."""
    return [f for f in figures() if (f.paper, f.table) == (paper, table)]


def find(paper: str, table: str, cell: Cell, metric: str) -> Figure | None:
    """The published counterpart of a metric of a cell, None where the paper prints none.

    Raises:
      ValueError: more than one fits, so the cell is not described well enough.
    """
    found = [
        f
        for f in of_table(paper, table)
        if (f.model, f.dataset, f.method, f.metric) == (cell.model, cell.dataset, cell.method, metric)
        and (f.sparsity or 0.0) == (cell.sparsity or 0.0)
        and cell.epochs in ("", f.epochs)
    ]
    if len(found) > 1:
        raise ValueError(f"cell {cell.title!r}: {len(found)} published figures fit; give its epochs.")
    return found[0] if found else None
