"""ImageNet (ILSVRC 2012): a folder of each class, or a directory that TFDS has prepared.

1,281,167 training and 50,000 validation pictures of 1,000 classes (Russakovsky et al., 2015). The labels of the test
pictures are withheld, so papers report the validation pictures as their test.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dstjax.checks import check_choice
from experiments.data import files, folders, pictures, prepared
from experiments.data.streams import Batch, Stream

CLASSES, SAMPLES, SIZE, SHORTER = 1000, (1_281_167, 50_000), 224, 256
ACCEPTED = ("imagenet2012/VERSION (TFDS, array_record)", "imagenet/train/WNID/*.JPEG and imagenet/val/WNID/*.JPEG")
PROTOCOLS = {"paper": "validation pictures serve as validation and test; random resized crop to 224 and flip"}


def stream(root: Path, protocol: str, samples: tuple[int, int] = SAMPLES) -> Stream:
    """ImageNet with the usual view: 224 x 224, in evaluation the centre of the picture at 256.

    Labels are the places of the WordNet ids in alphabetical order, in the folders and in TFDS alike.

    Args:
      root: the folder of data sets.
      protocol: 'paper'.
      samples: of training and validation, where the files are a part of the data set.

    Raises:
      ValueError: files that are missing or of another data set. A damaged picture is found when it is read.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    folder = prepared.find(root, "imagenet2012")
    train: Sequence[Any]
    validation: Sequence[Any]
    if folder is not None:
        train, validation = (prepared.source(folder, part, ("image", "label")) for part in ("train", "validation"))
        prepared.check_classes(train, CLASSES, folder)
    elif (root / "imagenet").is_dir():
        folder = root / "imagenet"
        wnids = folders.classes(folder / "train", CLASSES)
        train, validation = (folders.of_classes(folder / part, wnids) for part in ("train", "val"))
    else:
        raise files.missing("imagenet", root, ACCEPTED)
    files.check_counts(("training pictures", "validation pictures"), (len(train), len(validation)), samples, folder)
    return Stream(
        train=train,
        validation=validation,
        test=validation,
        augmented=augmented,
        plain=plain,
        classes=CLASSES,
        shape=(SIZE, SIZE, 3),
        provenance=(
            f"ImageNet ({folder}): {len(train):,} training, {len(validation):,} validation pictures, which are the test"
        ),
    )


def augmented(sample: Any, rng: np.random.Generator) -> Batch:
    """A training sample: a random part, scaled and perhaps mirrored."""
    pixels = pictures.flip(rng, pictures.random_resized_crop(rng, sample["image"], SIZE))
    return {"x": pictures.normalised(pixels), "y": np.int32(sample["label"])}


def plain(sample: Any) -> Batch:
    """A sample for evaluation: the centre."""
    pixels = pictures.central_crop(sample["image"], SHORTER, SIZE)
    return {"x": pictures.normalised(pixels), "y": np.int32(sample["label"])}
