"""Data sets by name: all samples in memory, and the split that belongs to a seed. Nothing is ever downloaded."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dstjax._checks import check_choice
from experiments.data import digits


class Split(NamedTuple):
    """Which samples serve what, and the mean input of those that are trained on."""

    train: np.ndarray  # int32, indices
    validation: np.ndarray  # int32
    test: np.ndarray  # int32
    mean: np.ndarray  # float32, the shape of one sample: subtracted from every input


@dataclasses.dataclass(frozen=True)
class Data:
    """All samples of a data set."""

    x: np.ndarray  # float32[n, ...]
    y: np.ndarray  # int32[n]
    classes: int
    sizes: tuple[int, int, int]  # samples for training, validation and test
    provenance: str  # one line: what it is, how many, from where

    def split(self, seed: int) -> Split:
        """The split of a seed: a permutation of all samples, cut in three."""
        order = np.random.default_rng((1, seed)).permutation(len(self.x)).astype(np.int32)
        train, validation, test = np.split(order, np.cumsum(self.sizes)[:2])
        return Split(train, validation, test, self.x[train].mean(axis=0, dtype=np.float64).astype(np.float32))


LOADERS: dict[str, Callable[[], Data]] = {"digits": lambda: Data(*digits.load())}


def load(name: str) -> Data:
    """The data set of a name.

    Raises:
      ValueError: there is no such data set.
    """
    check_choice("dataset", name, LOADERS)
    return LOADERS[name]()
