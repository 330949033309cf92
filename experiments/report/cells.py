"""A finished cell of a comparison: one method at one sparsity, over all seeds."""

import dataclasses
from typing import Any

import numpy as np

from experiments.report.names import method_label
from experiments.report.statistics import deviation, mean
from experiments.report.style import MANY

PICTURED = 4  # methods whose masks are shown where there are many


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
class UpdateRecords:
    """What was recorded at each mask update; empty where the topology never changes. NaN: not defined yet."""

    step: np.ndarray  # int[updates]
    exploration: np.ndarray  # float[updates, seeds]
    survival: np.ndarray
    mask_error: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations, see experiments.training.costing."""

    dense_forward: float  # of the dense network, for one sample
    inference: float  # as a share of dense_forward
    training_paper: float  # as a share of dense training of as many steps
    training_exact: float


@dataclasses.dataclass(frozen=True)
class CellResult:
    """Everything that the report says about one cell."""

    name: str  # its folder
    method: str
    sparsity: float
    coefficient: float | None  # of DST-EE
    seeds: tuple[int, ...]
    accuracy: np.ndarray  # test accuracy in percent, [seeds], last epoch
    exploration: np.ndarray  # R at the end, [seeds]
    density: float  # realised, over the masked leaves, mean over seeds
    active_weights: int  # mean over seeds
    weights: int  # weights in the masked leaves
    steps: int
    seconds: float
    settings: dict[str, str]  # what the method is made of, see settings.describe
    config: dict[str, Any]
    versions: dict[str, str]
    off_count: int  # largest distance of a recorded count of active weights from the requested one
    mask_updates: int  # of each seed
    updates: UpdateRecords  # of those that were recorded one by one: none where nearly every step is one
    layers: tuple[Layer, ...]
    first_masks: tuple[np.ndarray, np.ndarray] | None  # first masked leaf, initial and final: bool[seeds, ...]
    counts: str = "kept"  # Method.counts: which numbers of active weights the method promises
    pattern: str = ""  # '2:4' where this gives the sparsity, which then is not one of those asked for
    cost: Cost | None = None
    variant: str = ""  # what its name stands for, where that is one of the user's own

    @property
    def unrecorded(self) -> bool:
        """Whether there were mask updates that were not recorded one by one."""
        return self.mask_updates > len(self.updates)

    @property
    def place(self) -> str:
        """The sparsity, in words."""
        if self.method == "dense":
            return "–"
        return f"{self.pattern}, {percent(round(self.sparsity, 4))}" if self.pattern else percent(self.sparsity)

    @property
    def active(self) -> np.ndarray:
        """Active weights after the last step, int[seeds]."""
        if not self.layers:
            return np.full(len(self.seeds), self.active_weights)
        return np.asarray(np.sum([layer.active for layer in self.layers], axis=0))

    @property
    def off_density(self) -> bool:
        """Whether the density is another than was asked for, beyond the rounding of each layer's count."""
        return abs(mean(self.active) - (1 - self.sparsity) * self.weights) > max(len(self.layers), 1)

    @property
    def off_weights(self) -> int:
        """By how many active weights the network of a seed is off at most, at the end."""
        requested = sum(layer.requested for layer in self.layers)
        return int(np.max(np.abs(self.active - requested), initial=0))

    @property
    def too_dense(self) -> bool:
        """Whether it has more weights than were asked for, so that its accuracy is no match for the others'."""
        return self.off_density and self.density > 1 - self.sparsity

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

    grid: tuple[CellResult, ...]  # methods x sparsities
    sweep: tuple[CellResult, ...]  # DST-EE at one sparsity, by rising coefficient
    dataset: str
    data: str  # one line: what the data are, how many, from where
    n_test: int  # test examples
    command: str
    failures: tuple[str, ...] = ()  # cells that are missing, and why
    tested: int | None = None  # different test examples over all seeds; None: every seed has the same

    @property
    def samples(self) -> int:
        """How many different test examples are behind the mean accuracy of a cell."""
        return self.n_test if self.tested is None else self.tested

    @property
    def dense(self) -> CellResult | None:
        """The dense reference."""
        return next((c for c in self.grid if c.method == "dense"), None)

    @property
    def sparse(self) -> tuple[CellResult, ...]:
        """The cells of the grid at the sparsities that were asked for."""
        return tuple(c for c in self.grid if c.method != "dense" and not c.pattern)

    @property
    def patterned(self) -> tuple[CellResult, ...]:
        """The cells of methods whose sparsity is that of their pattern."""
        return tuple(c for c in self.grid if c.pattern)

    @property
    def methods(self) -> list[str]:
        """Methods at the sparsities that were asked for, in order."""
        return list(dict.fromkeys(c.method for c in self.sparse))

    @property
    def all_methods(self) -> list[str]:
        """All methods but the dense one, in order."""
        return list(dict.fromkeys(c.method for c in self.grid if c.method != "dense"))

    @property
    def many(self) -> bool:
        """Whether the methods are too many to have a colour and a sentence each."""
        return len(self.all_methods) > MANY

    @property
    def ranked(self) -> list[str]:
        """The methods with a cell at each sparsity and no more weights than asked for, best mean rank first."""
        whole = [m for m in self.methods if all((c := self.find(m, s)) and not c.too_dense for s in self.sparsities)]
        return sorted(whole, key=lambda m: self.mean_rank(m, whole))

    def mean_rank(self, method: str, among: list[str]) -> float:
        """The mean over sparsities of a method's place by accuracy, 0 for the first."""
        places = []
        for s in self.sparsities:
            own = self.find(method, s)
            others = [c for m in among if (c := self.find(m, s))]
            if own is not None:
                places.append(sum(c.mean > own.mean for c in others))
        return mean(np.array(places)) if places else np.inf

    @property
    def shown(self) -> list[str]:
        """The methods whose masks are shown: all, or of many the reference, static and the best of the others."""
        if not self.many:
            return self.methods
        first = [m for m in dict.fromkeys(("static", self.reference)) if m in self.methods]
        best = [m for m in self.ranked if m not in first]
        chosen = [*first, *best][:PICTURED]
        return [m for m in self.methods if m in chosen]

    @property
    def sparsities(self) -> list[float]:
        """Sparsities, rising."""
        return sorted({c.sparsity for c in self.sparse})

    @property
    def reference(self) -> str | None:
        """The method that the others are compared with: RigL where it is there, else the first sparse one."""
        return "rigl" if "rigl" in self.methods else next(iter(self.methods), None)

    def find(self, method: str | None, sparsity: float) -> CellResult | None:
        """The cell of the grid at a place."""
        return next((c for c in self.grid if c.method == method and c.sparsity == sparsity), None)

    @property
    def every(self) -> tuple[CellResult, ...]:
        """All cells once."""
        return tuple({c.name: c for c in (*self.grid, *self.sweep)}.values())


def percent(share: float) -> str:
    """0.98 -> '98 %', 0.985 -> '98.5 %'; with a no-break space."""
    return f"{share * 100:.10g}\u00a0%"
