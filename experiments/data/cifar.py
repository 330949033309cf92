"""CIFAR-10 and CIFAR-100: the binary files of their authors, or a directory that TFDS has prepared.

60,000 colour images of 32 x 32, 50,000 of them for training (Krizhevsky, 2009, Learning multiple layers of features
from tiny images). A record is a label (CIFAR-100: the coarse one, then the fine one, which counts here) and the red,
green and blue plane, a byte each. The variant with Python pickles is not read: that would run code from a file.
"""

import dataclasses
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.checks import check_choice
from experiments.data import augment, files, pixels, prepared
from experiments.data.arrays import Data
from experiments.data.pixels import Pixels

SHAPE = (32, 32, 3)
SAMPLES = (50_000, 10_000)


@dataclasses.dataclass(frozen=True)
class Variant:
    """What differs between the two."""

    title: str
    classes: int
    label_bytes: int  # the last one counts
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    # Of the channels, as the code of ITOP, GraNet and the pruning criteria's study has them.
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    padding: str  # mode of the padding before the crop, in the same code

    def accepted(self, name: str) -> tuple[str, ...]:
        """The places under the root, the preferred one first."""
        return f"{name}/VERSION (TFDS, array_record)", self.folder, self.archive


VARIANTS = {
    "cifar10": Variant(
        "CIFAR-10",
        classes=10,
        label_bytes=1,
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        mean=(0.4914, 0.4822, 0.4465),
        deviation=(0.2023, 0.1994, 0.2010),
        padding="reflect",
    ),
    "cifar100": Variant(
        "CIFAR-100",
        classes=100,
        label_bytes=2,
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        train=("train.bin",),
        test="test.bin",
        mean=(0.50708, 0.48655, 0.44092),
        deviation=(0.26733, 0.25644, 0.27615),
        padding="constant",
    ),
}

PROTOCOLS = {
    "paper": "45,000 / 5,000 / 10,000; normalised by channel; padded by 4, cropped, flipped",
    "reference-code": "CIFAR-100 trains on 50,000 and validates on the test samples, as the released code does",
    "rigl": "50,000, validated on the test samples; standardised by image; padded by 4, cropped, flipped",
    "set": "50,000, validated on the test samples; normalised by pixel; rotated, shifted, flipped",
}


def load(name: str, root: Path, protocol: str, samples: tuple[int, int] = SAMPLES) -> Data:
    """CIFAR-10 or CIFAR-100 under a protocol.

    Args:
      name: 'cifar10' or 'cifar100'.
      root: the folder of data sets.
      protocol: 'paper': the split that DST-EE's and the pruning criteria's baselines use, the last tenth of the
        training samples held out. 'reference-code': the same for CIFAR-10; for CIFAR-100 the code of ITOP, GraNet and
        the pruning criteria's study has no held-out samples. 'rigl': WideResNet-22-2 of RigL and IEE. 'set': the
        Keras code of SET, and the regrowing study.
      samples: of training and test, where the files are a part of the data set.

    Raises:
      ValueError: files that are missing, damaged or of another data set.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    variant = VARIANTS[name]
    found = read(name, root, samples)
    flip_and_crop = augment.chain(augment.pad_and_crop(4, variant.padding), augment.flip)
    zero = np.zeros(SHAPE)
    match protocol:
        case "rigl":
            x, mean = _standardised(pixels.scaled(found, (1.0, 1.0, 1.0))), zero
            change = augment.chain(
                augment.pad_and_crop(4, "reflect"), augment.flip, lambda key, images: augment.standardise(images)
            )
        case "set":
            centre, deviation = pixels.per_pixel(found.train)
            deviation = np.where(deviation > 0, deviation, 1)
            x, mean = pixels.scaled(found, deviation), zero
            x -= (centre / deviation).astype(np.float32)
            change = augment.chain(augment.rotate_and_shift(10, 0.1), augment.flip)
        case _:
            x, mean = pixels.scaled(found, variant.deviation), zero + np.divide(variant.mean, variant.deviation)
            change = flip_and_crop
    held_out = protocol == "paper" or (protocol == "reference-code" and name == "cifar10")
    return pixels.data(
        found,
        x,
        mean,
        classes=variant.classes,
        validation=len(found.train) // 10 if held_out else 0,
        augment=change,
        title=f"{variant.title}, protocol {protocol}",
    )


def read(name: str, root: Path, samples: tuple[int, int] = SAMPLES) -> Pixels:
    """The images and labels in the order of the original files.

    Raises:
      ValueError: see :func:`load`.
    """
    variant = VARIANTS[name]
    folder = prepared.find(root, name)
    if folder is not None:
        train, test = (
            prepared.images(folder, split, shape=SHAPE, classes=variant.classes, order="id")
            for split in ("train", "test")
        )
    elif (root / variant.folder).is_dir():
        folder = root / variant.folder
        train, test = _binary(variant, {file: folder / file for file in (*variant.train, variant.test)})
    elif (root / variant.archive).is_file():
        folder = root / variant.archive
        train, test = _archive(variant, folder)
    else:
        raise files.missing(name, root, variant.accepted(name))
    return pixels.checked(train, test, folder, samples, variant.classes)


def _binary(variant: Variant, paths: dict[str, Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    def content(path: Path) -> bytes:
        with files.reading(path, f"a file of {variant.title}'s binary version"):
            return path.read_bytes()

    return _parts(variant, {file: (path, content(path)) for file, path in paths.items()})


def _archive(variant: Variant, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    content = {}
    with files.reading(path, f"{variant.title}'s binary version"), tarfile.open(path) as archive:
        for file in (*variant.train, variant.test):
            try:
                member = archive.extractfile(f"{variant.folder}/{file}")
            except KeyError as error:
                raise files.damaged(path, f"it has no {file!r}", f"{variant.title}'s binary version") from error
            content[file] = (path / file, member.read() if member else b"")
    return _parts(variant, content)


def _parts(variant: Variant, content: dict[str, tuple[Path, bytes]]) -> list[tuple[np.ndarray, np.ndarray]]:
    size = variant.label_bytes + int(np.prod(SHAPE))
    records = {}
    for file, (path, data) in content.items():
        if not data or len(data) % size:
            raise files.damaged(path, f"{len(data):,} bytes", f"records of {size:,} bytes")
        records[file] = np.frombuffer(data, np.uint8).reshape(-1, size)
    parts = []
    for group in (variant.train, (variant.test,)):
        both = np.concatenate([records[file] for file in group])
        planes = both[:, variant.label_bytes :].reshape(-1, 3, 32, 32)
        parts.append(
            (
                np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
                both[:, variant.label_bytes - 1].astype(np.int32),
            )
        )
    return parts


def _standardised(x: np.ndarray) -> np.ndarray:
    step = jax.jit(lambda images: augment.standardise(jnp.asarray(images)))
    for i in range(0, len(x), 10_000):
        x[i : i + 10_000] = step(x[i : i + 10_000])
    return x
