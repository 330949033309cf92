"""Generated data sets on which methods of dynamic sparse training differ by more than their seeds do.

Each is one data set, the same on every machine and in every process: seeds split it, and draw the networks. They are
hard enough that a sparse network stays below its ceiling, and have inputs that do not serve, so that it matters which
weights a network has.
"""

import dataclasses
import functools

import numpy as np
from scipy.ndimage import gaussian_filter1d
from sklearn.datasets import load_digits, make_classification

from experiments.data.arrays import Data, Split

SIZES = (6_000, 1_000, 4_000)  # samples for training, validation and test
CHANNELS = 40  # of a spectrum


@functools.cache
def tabular() -> Data:
    """Seven classes of 54 inputs, the shape of Covertype: 14 inputs inform, 10 are mixtures of those, 30 are noise.

    Three Gaussian clusters a class, on the corners of a hypercube, as scikit-learn's ``make_classification`` draws
    them; 2 % of the labels are drawn anew.
    """
    x, y = make_classification(
        sum(SIZES),
        54,
        n_informative=14,
        n_redundant=10,
        n_classes=7,
        n_clusters_per_class=3,
        class_sep=1.2,
        flip_y=0.02,
        random_state=0,
    )
    return _data(x / x.std(axis=0), y, 7, "tabular (generated): 54 inputs, 7 classes")


@functools.cache
def teacher() -> Data:
    """Ten classes of 128 normal inputs, told by a sparse network that reads 24 of them.

    The teacher has 32 hidden units with ReLU, of 6 inputs each, and 3 of 10 of the weights that lead on from them. Its
    outputs are standardised over the samples, and the largest tells the class.
    """
    rng = np.random.default_rng((4, 0))
    x = rng.standard_normal((sum(SIZES), 128))
    read = rng.permutation(128)[:24]
    hidden = np.zeros((128, 32))
    for unit in range(32):
        hidden[rng.permutation(read)[:6], unit] = rng.standard_normal(6)
    out = rng.standard_normal((32, 10)) * (rng.random((32, 10)) < 0.3)
    scores = np.maximum(x @ hidden, 0) @ out
    scores = (scores - scores.mean(axis=0)) / (scores.std(axis=0) + 1e-6)
    return _data(x, scores.argmax(axis=1), 10, "teacher (generated): 128 inputs, 10 classes told by a sparse network")


@functools.cache
def spectra() -> Data:
    """Ten classes of spectra of 40 channels: a pattern at a random place, on a slope and smooth noise.

    The patterns have 12 of 60 channels and random strength; noise, smoothing and the mean over neighbours (to 40
    channels) follow the task MNIST-1D. Reference: Greydanus and Kobak, "Scaling down deep learning with
    MNIST-1D", ICML 2024, for the idea.
    """
    rng = np.random.default_rng((4, 1))
    n, length = sum(SIZES), 60
    patterns = rng.standard_normal((10, 12))
    y = rng.integers(0, 10, n)
    places = rng.integers(6, 42, n)[:, None] + np.arange(12)
    x = np.zeros((n, length))
    x[np.arange(n)[:, None], places] = patterns[y] * (1 + rng.uniform(-0.4, 0.4, (n, 1)))
    x = gaussian_filter1d(x, 1.0) + 0.6 * gaussian_filter1d(rng.standard_normal((n, length)), 2.0)
    x += np.linspace(-1, 1, length) * rng.uniform(-0.3, 0.3, (n, 1))
    at = np.linspace(0, length - 1, CHANNELS)
    left = np.minimum(at.astype(int), length - 2)
    x = x[:, left] + (at - left) * (x[:, left + 1] - x[:, left])
    return _data(x / x.std(), y, 10, f"spectra (generated): {CHANNELS} channels, 10 classes")


@functools.cache
def noisydigits() -> Data:
    """scikit-learn's digits as 64 inputs beside 448 of noise, of which 400 are for training.

    A network can learn the samples by heart from the noise, so that growth by gradients of the training loss misleads.
    """
    bunch = load_digits()
    noise = np.random.default_rng((4, 2)).standard_normal((len(bunch.target), 448))
    x = np.concatenate([(bunch.data - bunch.data.mean()) / bunch.data.std(), noise], axis=1)
    title = "noisydigits (scikit-learn, and generated noise): 64 pixels, 448 inputs of noise, 10 classes"
    return _data(x, bunch.target, 10, title, (400, 180, 1_217))


@functools.cache
def cluttereddigits() -> Data:
    """scikit-learn's digits as 12 x 12 pictures: one at a random place, among quarters of three others.

    Hard enough that a narrower network is less accurate, by more than its seeds differ. Each split trains on pictures
    of 1,200 digits, and tests on pictures of the other 597, which are the same for all seeds. Reference: Mnih et al.,
    "Recurrent models of visual attention", NeurIPS 2014, for the idea.
    """
    bunch = load_digits()
    rng = np.random.default_rng((4, 3))
    order = rng.permutation(len(bunch.target))
    train, validation, _ = SIZES
    x = np.zeros((sum(SIZES), 12, 12))
    y = np.zeros(sum(SIZES), int)
    for n in range(sum(SIZES)):
        known = order[:1_200] if n < train + validation else order[1_200:]
        for other in rng.choice(known, 3):
            top, left, row, column = (*rng.integers(0, 5, 2), *rng.integers(0, 9, 2))
            part = bunch.images[other][top : top + 4, left : left + 4]
            x[n, row : row + 4, column : column + 4] = np.maximum(x[n, row : row + 4, column : column + 4], part)
        digit, (row, column) = rng.choice(known), rng.integers(0, 5, 2)
        x[n, row : row + 8, column : column + 8] = np.maximum(
            x[n, row : row + 8, column : column + 8], bunch.images[digit]
        )
        y[n] = bunch.target[digit]
    title = "cluttereddigits (scikit-learn, and generated places): 12 x 12 pixels, 10 classes"
    made = _data((x[..., None] - x.mean()) / x.std(), y, 10, title)

    def split(seed: int) -> Split:
        order = np.random.default_rng((1, seed)).permutation(train + validation).astype(np.int32)
        mean = made.x[order[:train]].mean(axis=0, dtype=np.float64).astype(np.float32)
        return Split(order[:train], order[train:], np.arange(train + validation, sum(SIZES), dtype=np.int32), mean)

    return dataclasses.replace(made, splits=split)


def _data(x: np.ndarray, y: np.ndarray, classes: int, title: str, sizes: tuple[int, int, int] = SIZES) -> Data:
    train, validation, test = sizes
    said = f"{title}: {train:,} training, {validation:,} validation, {test:,} test samples"
    x, y = x.astype(np.float32), y.astype(np.int32)
    for array in (x, y):
        array.flags.writeable = False  # all who ask get the same arrays
    return Data(x, y, classes, sizes, said)
