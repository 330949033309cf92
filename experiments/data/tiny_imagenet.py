"""Tiny-ImageNet-200: the folder that its zip file holds.

64 x 64 pictures of 200 classes, 500 for training and 50 for validation of each (Stanford's course CS231n). The test
pictures have no labels. ``train`` has a folder of each class; the pictures of ``val`` lie in one folder, and
``val_annotations.txt`` says which is what.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from dstjax.checks import check_choice
from experiments.data import files, folders, pictures
from experiments.data.streams import Batch, Stream

CLASSES, SAMPLES, SHAPE = 200, (100_000, 10_000), (64, 64, 3)
FOLDER = "tiny-imagenet-200"
ACCEPTED = (FOLDER,)
PROTOCOLS = {
    "paper": "trains on 100,000, validates and tests on the 10,000 validation pictures; flipped",
    "held-out": "the last tenth of each class of the training pictures for validation: 90,000 / 10,000 / 10,000",
}


def stream(root: Path, protocol: str, samples: tuple[int, int] = SAMPLES) -> Stream:
    """Tiny-ImageNet, normalised by ImageNet's mean and deviation.

    Args:
      root: the folder of data sets.
      protocol: 'paper': as the released code of the pruning criteria's study has it (its table says 80 / 10 / 10 % of
        100,000, which the files do not have). 'held-out': the test pictures choose nothing.
      samples: of training and validation, where the files are a part of the data set.

    Raises:
      ValueError: files that are missing or of another data set. A damaged picture is found when it is read.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    folder = root / FOLDER
    if not folder.is_dir():
        raise files.missing("tiny_imagenet", root, ACCEPTED)
    wnids = _wnids(folder / "wnids.txt")
    train = folders.of_classes(folder / "train", wnids, "images", SHAPE[:2])
    test = _annotated(folder / "val", wnids)
    files.check_counts(("training pictures", "validation pictures"), (len(train), len(test)), samples, folder)
    validation = test
    if protocol == "held-out":
        starts = np.searchsorted(train.labels, np.arange(CLASSES + 1))
        held_out = np.concatenate(
            [np.arange(stop - (stop - start) // 10, stop) for start, stop in itertools.pairwise(starts)]
        )
        validation = train.take(held_out)
        train = train.take(np.setdiff1d(np.arange(len(train)), held_out))
    return Stream(
        train=train,
        validation=validation,
        test=test,
        augmented=augmented,
        plain=plain,
        classes=CLASSES,
        shape=SHAPE,
        provenance=(
            f"Tiny-ImageNet, protocol {protocol} ({folder}): {len(train):,} training, {len(validation):,} validation, "
            f"{len(test):,} test pictures"
        ),
    )


def augmented(sample: Any, rng: np.random.Generator) -> Batch:
    """A training sample, perhaps mirrored."""
    return {"x": pictures.normalised(pictures.flip(rng, sample["image"])), "y": np.int32(sample["label"])}


def plain(sample: Any) -> Batch:
    """A sample for evaluation."""
    return {"x": pictures.normalised(sample["image"]), "y": np.int32(sample["label"])}


def _wnids(path: Path) -> list[str]:
    with files.reading(path, f"the names of {CLASSES} classes"):
        wnids = path.read_text().split()
    if len({*wnids}) != CLASSES or len(wnids) != CLASSES:
        raise ValueError(f"file {str(path)!r} has {len({*wnids})} classes; expected {CLASSES}, one a line.")
    return wnids


def _annotated(folder: Path, wnids: list[str]) -> folders.Pictures:
    path = folder / "val_annotations.txt"
    with files.reading(path, "a file name and a class a line"):
        lines = path.read_text().splitlines()
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in labels:
            raise files.damaged(path, f"line {number} is {line[:60]!r}", "a file name, a tab and a class of wnids.txt")
        found[name] = labels[wnid]
    there = folders.names(folder / "images")
    different = sorted({*there} ^ {*found})
    if different:
        raise ValueError(f"{str(folder)!r}: {different[0]!r} is not both in images/ and in {path.name}.")
    return folders.Pictures(
        [str(folder / "images" / name) for name in there],
        np.array([found[name] for name in there], np.int32),
        SHAPE[:2],
    )
