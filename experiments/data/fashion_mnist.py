"""Fashion-MNIST: the IDX files of its authors, or a directory that TFDS has prepared.

70,000 grey images of 28 x 28, 60,000 of them for training (Xiao et al., 2017). An IDX file is a header of big-endian
32-bit integers (a magic number: type and dimensions, then the size of each dimension) and a byte for each entry.
"""

import math
from pathlib import Path

import numpy as np

from dstjax.checks import check_choice
from experiments.data import files, pixels, prepared
from experiments.data.arrays import Data
from experiments.data.pixels import Pixels

CLASSES, SHAPE, SAMPLES = 10, (28, 28, 1), (60_000, 10_000)
MOST = 2**30  # bytes of a file: the largest of the data set has 47,040,000
FOLDER = "fashion-mnist"
ACCEPTED = ("fashion_mnist/VERSION (TFDS, array_record)", FOLDER)
FILES = {"train": "train", "test": "t10k"}
PROTOCOLS = {"paper": "54,000 / 6,000 / 10,000, the last tenth of training held out; (x - 0.5) / 0.5; no augmentation"}


def load(root: Path, protocol: str, samples: tuple[int, int] = SAMPLES) -> Data:
    """Fashion-MNIST as the pruning criteria's study has it; see :func:`experiments.data.cifar.load`.

    A directory of TFDS holds the samples in another order than the files, so another tenth is held out.

    Raises:
      ValueError: files that are missing, damaged or of another data set.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    found = read(root, samples)
    return pixels.data(
        found,
        pixels.scaled(found, (0.5,)),
        np.ones(SHAPE),
        classes=CLASSES,
        validation=len(found.train) // 10,
        augment=None,
        title=f"Fashion-MNIST, protocol {protocol}",
    )


def read(root: Path, samples: tuple[int, int] = SAMPLES) -> Pixels:
    """The images and labels.

    Raises:
      ValueError: see :func:`load`.
    """
    folder = prepared.find(root, "fashion_mnist")
    if folder is not None:
        train, test = (prepared.images(folder, split, shape=SHAPE, classes=CLASSES) for split in FILES)
    elif (root / FOLDER).is_dir():
        folder = root / FOLDER
        train, test = (_part(folder, prefix) for prefix in FILES.values())
    else:
        raise files.missing("fashion_mnist", root, ACCEPTED)
    return pixels.checked(train, test, folder, samples, CLASSES)


def idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file, gzipped where its name ends so, uint8 with that many dimensions.

    Raises:
      ValueError: the file is missing, cut off, or no such file.
    """
    start, expected = 4 * (1 + dimensions), f"an IDX file of {dimensions} dimensions"
    with files.reading(path, expected):
        data = files.unpacked(path, start)
    header = np.frombuffer(data[:start], ">u4") if len(data) >= start else np.zeros(1, ">u4")
    magic = 0x800 + dimensions
    if header[0] != magic:
        raise files.damaged(path, f"it begins with {data[:4]!r}", f"the number {magic:#010x} of an IDX file")
    shape = tuple(int(size) for size in header[1:])
    size = math.prod(shape)
    if size > MOST:
        raise files.damaged(path, f"a header that says {shape}", f"at most {MOST:,} bytes")
    with files.reading(path, expected):
        data = files.unpacked(path, start + size + 1)
    found = len(data) - start
    if found != size:
        count = f"more than {size:,}" if found > size else f"{found:,}"
        raise files.damaged(path, f"{count} bytes after the header", f"{shape} bytes, as the header says")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _part(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images = idx(_file(folder, f"{prefix}-images-idx3-ubyte"), 3)
    labels = idx(_file(folder, f"{prefix}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != SHAPE[:2]:
        raise ValueError(f"{str(folder)!r} has images of {images.shape[1:]} pixels; expected {SHAPE[:2]}.")
    if len(images) != len(labels):
        raise ValueError(f"{str(folder)!r} has {len(images):,} images and {len(labels):,} labels ({prefix}).")
    return images[..., None], labels.astype(np.int32)


def _file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"
