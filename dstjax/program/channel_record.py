"""Holds what is found out about the channels of a program; see :mod:`dstjax.program.channel_reader`."""

import contextlib
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program.labels import Ints, Labels
from dstjax.program.seen import Axis, Floats, Seen, fixed, uniform

Place = tuple[Any, ...]  # the call path of an equation


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One operand of a product or sum: what of it is contracted, and what goes on."""

    contracted: list[Axis]
    kept: list[Axis]
    pattern: np.ndarray | None = None  # bool[contracted..., kept...]: what may be other than zero; None: all
    array: np.ndarray | None = None  # float64, likewise: the numbers, where they are known


@dataclasses.dataclass(eq=False)
class Site:
    """A place where indices are summed over, so that what is removed must have added nothing, or be made up for."""

    sides: list[Side]  # two of a product, one of a sum
    weight: int | None = None  # which side is made of parameters alone, where its numbers are known
    refusal: str = ""  # why a constant cannot be made up for here
    users: int = 0  # equations that take the result
    target: tuple[str, int] | None = None  # the leaf that is added to the result; or subtracted: -1


@dataclasses.dataclass(eq=False)
class Record:
    """Collects labels, sums, and why something is kept."""

    valued: bool  # whether the parameters are known, so that constants are followed
    derives: bool = False  # whether a derivative is read, which says nothing of what is needed
    labels: Labels = dataclasses.field(default_factory=Labels)
    leaves: dict[str, list[Axis]] = dataclasses.field(default_factory=dict)
    sites: list[Site] = dataclasses.field(default_factory=list)
    uses: Counter[str] = dataclasses.field(default_factory=Counter)  # equations that take a leaf as it is
    kept: dict[str, set[str]] = dataclasses.field(default_factory=lambda: defaultdict(set))  # reason -> leaves
    free_inputs: bool = True  # whether data can be cut along axes that weights contract
    cuts: dict[Place, list[list[Ints] | None]] = dataclasses.field(default_factory=dict)  # operands held in full
    looked_into: set[Place] = dataclasses.field(default_factory=set)  # calls, loops and branches
    ends: dict[Place, list[list[Ints] | None]] = dataclasses.field(default_factory=dict)  # results of loops, likewise
    operands: dict[Place, list[list[Ints]]] = dataclasses.field(default_factory=dict)
    results: dict[Place, list[list[Ints]]] = dataclasses.field(default_factory=dict)
    derivatives: dict[Place, Any] = dataclasses.field(default_factory=dict)  # of functions with one of their own

    def fix(self, axis: Axis, why: str = "") -> None:
        """Notes that the indices of an axis must stay; and why, where that is worth telling."""
        labels = axis.labels
        free = labels[self.labels.free(labels)]
        if not free.size:
            return
        if why:
            gone = np.unique(self.labels.roots(free))
            for path, axes in self.leaves.items():
                if any(np.isin(self.labels.roots(a.labels), gone).any() for a in axes):
                    self.kept[why].add(path)
        self.labels.join(free, np.zeros_like(free))

    def join(self, a: Axis, b: Axis) -> None:
        """Joins two axes index by index."""
        self.labels.join(a.labels, b.labels)

    def fresh(self, n: int, value: float | Floats = np.nan) -> Axis:
        """Describes a new axis, whose slices equal some numbers."""
        return Axis(self.labels.fresh(n), np.broadcast_to(np.asarray(value, np.float64), (n,)))

    def constant(self, array: Any) -> Seen:
        """Describes an array that is a part of the program."""
        axes = [fixed(n) for n in np.shape(array)]
        if not self.valued or not is_numeric(array):
            return Seen(tuple(axes), whole="constant")
        return dataclasses.replace(self.known(np.asarray(array), axes), whole="constant")

    def used(self, x: Seen, free: Sequence[int] = ()) -> Seen:
        """Describes an array as it is used: one that is held in full is cut for that, to what it is used with.

        A constant can be cut along any axis; data along those that are ``free``, since their others are not units.
        """
        if not x.whole:
            return x
        axes = [
            Axis(self.labels.fresh(len(a)), a.value) if x.whole == "constant" or k in free else a
            for k, a in enumerate(x.axes)
        ]
        return dataclasses.replace(x, axes=tuple(axes), whole="")

    def settled(self, found: Sequence[Seen], key: Place) -> list[Seen]:
        """Describes results of which each is to be cut, even where it is held in full."""
        used = [self.used(x) for x in found]
        self.ends[key] = [labels_of(y) if x.whole else None for x, y in zip(found, used, strict=True)]
        return used

    def known(self, array: np.ndarray, axes: Sequence[Axis]) -> Seen:
        """Describes an array whose numbers are known."""
        if not array.ndim:
            return Seen((), scalar=float(array) if np.isrealobj(array) else np.nan, array=array)
        if not np.isrealobj(array):
            return Seen(tuple(axes))
        return Seen(tuple(Axis(a.labels, uniform(array, k)) for k, a in enumerate(axes)), array=array)

    def unread(self, eqn: Any, operands: Sequence[Seen], why: str) -> list[Seen]:
        """Fixes all operands of an equation, and describes its results as fixed."""
        for x in operands:
            for axis in x.axes:
                self.fix(axis, why)
        return [plain(v) for v in eqn.outvars]

    def take(self, x: Seen) -> None:
        """Counts a use of an array as it is, where it is a leaf or the result of a product."""
        if x.leaf is not None:
            self.uses[str(x.leaf.of)] += 1
        if x.product is not None:
            self.sites[int(x.product.of)].users += 1

    def forget(self, sites: int, uses: Counter[str]) -> None:
        """Forgets sums and uses since there were so many; labels stay."""
        del self.sites[sites:]
        self.uses = uses.copy()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Labels a program that is only a derivative: what it sums over does not say what is needed."""
        sites, uses, valued = len(self.sites), self.uses.copy(), self.valued
        self.valued, self.derives = False, True
        yield
        self.forget(sites, uses)
        self.valued, self.derives = valued, False


def plain(var: Any) -> Seen:
    """Describes an array of which nothing is known, and of which nothing can be removed."""
    return Seen(tuple(fixed(n) for n in getattr(var.aval, "shape", ())))


def labels_of(x: Seen) -> list[Ints]:
    """Returns the labels of an array."""
    return [a.labels for a in x.axes]


def is_numeric(x: Any) -> bool:
    """Whether an array has numbers, and not random keys."""
    dtype = getattr(x, "dtype", None)
    return dtype is None or not jnp.issubdtype(dtype, jax.dtypes.extended)
