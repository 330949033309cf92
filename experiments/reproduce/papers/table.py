"""What a table is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.reading import Measured


def as_they_are(cells: Sequence[Measured]) -> Sequence[Measured]:
    """No numbers but those of each cell."""
    return cells


@dataclasses.dataclass(frozen=True)
class Table:
    """A table or figure of a paper, declared: the cells that it needs, and what it is said to show."""

    name: str
    title: str
    paper: str  # as in published.csv
    printed: str  # the table of published.csv, or what the paper calls it
    cells: Callable[[bool], list[Cell]]  # of whether the proxy is wanted
    metrics: tuple[str, ...] = ("accuracy",)
    claims: tuple[Claim, ...] = ()
    seeds: int = 3  # of the paper
    proxy_seeds: int = 5
    first_seed: int = 0
    axis: str = "sparsity"  # what x is on the chart
    curve: str | None = None  # the metric that a second chart shows over training
    ranks: bool = False  # whether average ranks and a critical distance are made
    note: str = ""  # what our cells leave out, or do in another way
    proxy_only: str = ""  # why there is no full run
    drawn: int = 3  # how many of the metrics have a chart of their own
    curves: Mapping[str, str] = dataclasses.field(default_factory=dict)  # metrics that charts show over other axes
    reference: str = ""  # the method that --summary compares the others with
    usual: Callable[[Cell], bool] = lambda cell: True  # which cells of the proxy are run without --whole
    # Fields in which rows differ because the table is about them, and how: see experiments.reproduce.fairness.
    varies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    derive: Callable[[Sequence[Measured]], Sequence[Measured]] = as_they_are  # adds what follows from several cells
    against: str | None = None  # the metric that a chart of the first metric has on its other axis
    zoom: str | None = None  # the metric that a chart shows over the last tenth of training
