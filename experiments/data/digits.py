"""The digits of scikit-learn: 1,797 real handwritten digits, part of the package."""

import numpy as np
from sklearn import datasets

SIZES = (1077, 180, 540)


def load() -> tuple[np.ndarray, np.ndarray, int, tuple[int, int, int], str]:
    """The fields of :class:`experiments.data.Data`; pixels in [0, 2]."""
    bunch = datasets.load_digits()
    x = (bunch.images / 8).astype(np.float32)[..., None]
    y = bunch.target.astype(np.int32)
    if x.shape != (sum(SIZES), 8, 8, 1):
        raise ValueError(f"scikit-learn's digits have shape {x.shape}; expected {(sum(SIZES), 8, 8, 1)}.")
    train, validation, test = SIZES
    return x, y, 10, SIZES, f"digits (scikit-learn): {train} training, {validation} validation, {test} test samples"
