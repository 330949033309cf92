"""A finished cell of a comparison: one method at one sparsity, over all seeds."""

import dataclasses
from typing import Any

import numpy as np

from experiments.report.statistics import deviation, mean


@dataclasses.dataclass(frozen=True)
class Layer:
    """One masked leaf."""

    path: str
    shape: tuple[int, ...]
    requested: int  # active weights asked for
    active: np.ndarray  # int[seeds], after the last step

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Updates:
    """What was recorded at each mask update; empty where the topology never changes. NaN: not defined yet."""

    step: np.ndarray  # int[updates]
    exploration: np.ndarray  # float[updates, seeds]
    survival: np.ndarray
    mask_error: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


@dataclasses.dataclass(frozen=True)
class Cell:
    """Everything that the report says about one cell."""

    name: str  # its folder
    method: str
    sparsity: float
    coefficient: float | None  # of DST-EE
    seeds: tuple[int, ...]
    accuracy: np.ndarray  # test accuracy in percent, [seeds], last epoch
    exploration: np.ndarray  # R at the end, [seeds]
    density: float  # realised, over the masked leaves
    active_weights: int
    weights: int  # weights in the masked leaves
    steps: int
    seconds: float
    settings: dict[str, str]  # what the method is made of, see settings.describe
    config: dict[str, Any]
    versions: dict[str, str]
    off_count: int  # largest distance of a recorded count of active weights from the requested one
    updates: Updates
    layers: tuple[Layer, ...]
    first_masks: tuple[np.ndarray, np.ndarray] | None  # first masked leaf, initial and final: bool[seeds, ...]

    @property
    def label(self) -> str:
        """The name in charts and tables."""
        return method_label(self.method)

    @property
    def mean(self) -> float:
        """Mean test accuracy in percent."""
        return mean(self.accuracy)

    @property
    def deviation(self) -> float:
        """Standard deviation of the test accuracy over seeds."""
        return deviation(self.accuracy)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The cells of one command, in the order in which they were asked for."""

    grid: tuple[Cell, ...]  # methods x sparsities
    sweep: tuple[Cell, ...]  # DST-EE at one sparsity, by rising coefficient
    dataset: str
    data: str  # one line: what the data are, how many, from where
    n_test: int  # test examples
    command: str
    failures: tuple[str, ...] = ()  # cells that are missing, and why

    @property
    def dense(self) -> Cell | None:
        """The dense reference."""
        return next((c for c in self.grid if c.method == "dense"), None)

    @property
    def sparse(self) -> tuple[Cell, ...]:
        """The cells of the grid that mask something."""
        return tuple(c for c in self.grid if c.method != "dense")

    @property
    def methods(self) -> list[str]:
        """Sparse methods in order."""
        return list(dict.fromkeys(c.method for c in self.sparse))

    @property
    def sparsities(self) -> list[float]:
        """Sparsities, rising."""
        return sorted({c.sparsity for c in self.sparse})

    @property
    def reference(self) -> str | None:
        """The method that the others are compared with: RigL where it is there, else the first sparse one."""
        return "rigl" if "rigl" in self.methods else next(iter(self.methods), None)

    def find(self, method: str | None, sparsity: float) -> Cell | None:
        """The cell of the grid at a place."""
        return next((c for c in self.grid if c.method == method and c.sparsity == sparsity), None)

    @property
    def every(self) -> tuple[Cell, ...]:
        """All cells once."""
        return tuple({c.name: c for c in (*self.grid, *self.sweep)}.values())


LABELS = {
    "dense": "dense",
    "static": "static",
    "set": "SET",
    "rigl": "RigL",
    "rigl_itop": "RigL-ITOP",
    "mest": "MEST",
    "dst_ee": "DST-EE",
}


def method_label(method: str) -> str:
    """The name of a method as its paper writes it."""
    return LABELS.get(method, method.upper())


def percent(share: float) -> str:
    """0.98 -> '98 %', 0.985 -> '98.5 %'; with a no-break space."""
    return f"{share * 100:.10g}\u00a0%"
