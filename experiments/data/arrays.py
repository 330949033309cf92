"""Data sets whose samples are all in memory."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.data.augment import Augment


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
    splits: Callable[[int], Split] | None = None  # of a seed; None: a permutation of all samples, cut in three
    augment: Augment | None = None  # what training does to the x of a batch, before the mean is subtracted

    def split(self, seed: int) -> Split:
        """The split of a seed. Where a paper has one split, every seed has it."""
        if self.splits is not None:
            return self.splits(seed)
        order = np.random.default_rng((1, seed)).permutation(len(self.x)).astype(np.int32)
        train, validation, test = np.split(order, np.cumsum(self.sizes)[:2])
        return Split(train, validation, test, self.x[train].mean(axis=0, dtype=np.float64).astype(np.float32))
