"""Describes an array of a program by the labels of its indices; see :mod:`dstjax.program.channel_reader`."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Floats = np.ndarray  # float64
UNKNOWN = float("nan")


class Tag(NamedTuple):
    """Says that an array is a leaf, or the result of a product, but for the order and number of its axes."""

    of: str | int  # path of the leaf, or number of the product
    axes: tuple[int | None, ...]  # which of its axes each axis of the array is


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Describes the indices of an axis."""

    labels: np.ndarray  # int64[n]
    value: Floats  # float64[n]: the number that the whole slice at an index equals, whatever the data; else NaN

    def __len__(self) -> int:
        """Returns the number of indices."""
        return len(self.labels)

    def take(self, at: np.ndarray | slice) -> "Axis":
        """Returns some of the indices."""
        return Axis(self.labels[at], self.value[at])

    def valued(self, value: Floats | None = None) -> "Axis":
        """Returns the same indices with other numbers; None: unknown ones."""
        return Axis(self.labels, unknown(len(self)) if value is None else value)


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """Describes an array."""

    axes: tuple[Axis, ...]
    scalar: float = UNKNOWN  # of an array without axes
    array: np.ndarray | None = None  # the array itself, where it depends on parameters alone
    nonzero: np.ndarray | None = None  # bool, like it: what may be other than zero; None: all
    leaf: Tag | None = None
    product: Tag | None = None
    whole: str = (
        ""  # "data", or "constant" where it is none: held in full, until it is used with what depends on parameters
    )

    @property
    def pattern(self) -> np.ndarray | None:
        """Returns which elements may be other than zero; None: all."""
        return self.nonzero if self.array is None else self.array != 0

    def plain(self) -> "Seen":
        """Returns the same without what is said of leaf and product."""
        return dataclasses.replace(self, leaf=None, product=None)


def unknown(n: int) -> Floats:
    """Returns numbers that nobody knows."""
    return np.full(n, UNKNOWN)


def fixed(n: int) -> Axis:
    """Describes an axis whose indices stay."""
    return Axis(np.zeros(n, np.int64), unknown(n))


def either(first: Floats, second: Floats) -> Floats:
    """Returns the first numbers, and where they are not known the second."""
    return np.where(np.isnan(first), second, first)


def agreed(first: Floats, second: Floats) -> Floats:
    """Returns the numbers that are known and the same in both."""
    return np.where(first == second, first, UNKNOWN)


def uniform(array: np.ndarray, axis: int) -> Floats:
    """Returns the number that each slice along an axis equals throughout, NaN where it does not."""
    if not array.size:
        return unknown(array.shape[axis])
    rows = np.moveaxis(np.asarray(array), axis, 0).reshape(array.shape[axis], -1)
    same = (rows == rows[:, :1]).all(axis=1)
    return np.where(same, rows[:, 0].astype(np.float64), UNKNOWN)


def spread(values: Sequence[Floats]) -> Floats:
    """Returns the array of which some axes have known slices: the number of each element, NaN where none tells it."""
    shape = tuple(len(v) for v in values)
    found = np.full(shape, UNKNOWN)
    for k, value in enumerate(values):
        found = either(found, value.reshape([-1 if i == k else 1 for i in range(len(shape))]))
    return found
