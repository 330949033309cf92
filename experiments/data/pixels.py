"""Small images as the files hold them, and as networks get them under the protocol of a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import files
from experiments.data.arrays import Data, Split
from experiments.data.augment import Augment

CHUNK = 4096  # images at a time, so that no copy in float64 of a whole data set is made


class Pixels(NamedTuple):
    """Training and test images of a data set."""

    train: np.ndarray  # uint8[n, rows, columns, channels]
    train_labels: np.ndarray  # int32[n]
    test: np.ndarray  # uint8[m, rows, columns, channels]
    test_labels: np.ndarray  # int32[m]
    origin: Path


def checked(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    origin: Path,
    samples: tuple[int, int],
    classes: int,
) -> Pixels:
    """The images and labels of both parts, if there are as many as there should be, of each class some.

    Raises:
      ValueError: there are not.
    """
    for what, (_, labels), n in zip(("training samples", "test samples"), (train, test), samples, strict=True):
        files.check_counts([what], [len(labels)], [n], origin)
        _check_labels(labels, classes, origin)
    return Pixels(*train, *test, origin)


def _check_labels(labels: np.ndarray, classes: int, where: Path) -> None:
    """Refuses labels that are too large, and a class without a sample."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise ValueError(
            f"{str(where)!r}: sample {wrong[0]} has label {labels[wrong[0]]}; expected labels in [0, {classes})."
        )
    absent = np.setdiff1d(np.arange(classes), labels)
    if absent.size:
        raise ValueError(
            f"{str(where)!r} has samples of {classes - absent.size} classes; expected {classes}: "
            f"class {absent[0]} has none."
        )


def scaled(pixels: Pixels, deviation: Sequence[float] | np.ndarray) -> np.ndarray:
    """All images, training first, as float32: pixels / (255 * deviation)."""
    divisor = (255 * np.asarray(deviation)).astype(np.float32)
    shape = len(pixels.train) + len(pixels.test), *pixels.train.shape[1:]
    x = np.empty(shape, np.float32)
    for images, start in ((pixels.train, 0), (pixels.test, len(pixels.train))):
        for i in range(0, len(images), CHUNK):
            part = images[i : i + CHUNK]
            np.divide(part, divisor, out=x[start + i : start + i + len(part)])
    return x


def per_pixel(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every pixel over the images, float64, in [0, 1]; exact sums."""
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    for i in range(0, len(images), CHUNK):
        part = images[i : i + CHUNK].astype(np.int64)
        total += part.sum(axis=0)
        squares += (part * part).sum(axis=0)
    mean = total / len(images)
    variance = np.maximum(squares / len(images) - mean**2, 0)
    return mean / 255, np.sqrt(variance) / 255


def data(
    pixels: Pixels,
    x: np.ndarray,
    mean: np.ndarray,
    *,
    classes: int,
    validation: int,
    augment: Augment | None,
    title: str,
) -> Data:
    """The data set with the last ``validation`` training samples held out; 0: the test samples serve as both."""
    n, m = len(pixels.train), len(pixels.test)
    order = np.arange(n + m, dtype=np.int32)
    cut = n - validation
    held_out = order[cut:n] if validation else order[n:]
    split = Split(order[:cut], held_out, order[n:], mean.astype(np.float32))
    sizes = cut, len(held_out), m
    same = "" if validation else " (the test samples)"
    return Data(
        x=x,
        y=np.concatenate([pixels.train_labels, pixels.test_labels]).astype(np.int32),
        classes=classes,
        sizes=sizes,
        provenance=(f"{title} ({pixels.origin}): {cut:,} training, {sizes[1]:,} validation{same}, {m:,} test samples"),
        splits=lambda seed: split,
        augment=augment,
    )
