"""Directories that TensorFlow Datasets (TFDS) has prepared in the array_record format: read without TensorFlow.

The directory describes itself, so neither TFDS's catalogue nor a network is asked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import files

CHUNK = 1024  # examples that are read at once


def find(root: Path, name: str, config: str = "") -> Path | None:
    """The prepared directory of the newest version, or None where there is none."""
    folder = root / name / config
    found = [path.parent for path in folder.glob("*.*.*/dataset_info.json")]
    return max(found, key=_version, default=None)


def source(folder: Path, split: str, features: Sequence[str]) -> Sequence[dict[str, Any]]:
    """Random access to the examples of a split, as dicts of NumPy arrays.

    Args:
      folder: the directory of a version.
      split: 'train' and the like; no part of one.
      features: what every example must have.

    Raises:
      ValueError: another format, no such split, a missing or damaged file, or other features.
    """
    import tensorflow_datasets as tfds  # takes seconds, and few data sets need it

    _check_readable(folder)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS, protobuf and the reader of its versions each have their own
        raise files.unreadable(folder / "dataset_info.json", error, "what TFDS writes") from error
    try:
        if split not in builder.info.splits:
            raise ValueError(f"{str(folder)!r} has no split {split!r}; it has {', '.join(builder.info.splits)}.")
        absent = [name for name in features if name not in builder.info.features]
        if absent:
            raise ValueError(
                f"{str(folder)!r} has no feature {absent[0]!r}; it has {', '.join(builder.info.features)}."
            )
        formats = {found.value for found in builder.info.available_file_formats()}
        if "array_record" not in formats:
            raise ValueError(
                f"{str(folder)!r} is prepared as {', '.join(sorted(formats))}; expected array_record: "
                "prepare it again with download_and_prepare(file_format='array_record')."
            )
        examples = builder.as_data_source(split=split, file_format="array_record")
        expected = builder.info.splits[split].num_examples
        if len(examples) != expected:
            raise ValueError(f"{str(folder)!r}: split {split!r} has {len(examples):,} examples; expected {expected:,}.")
    except (OSError, RuntimeError, KeyError) as error:
        raise files.unreadable(folder, error, f"TFDS's split {split!r}") from error
    return examples


def label_count(examples: Sequence[dict[str, Any]], feature: str = "label") -> int:
    """The number of classes that a prepared directory declares.

    Raises:
      ValueError: its feature is no label.
    """
    found = getattr(examples.dataset_info.features[feature], "num_classes", None)  # type: ignore[attr-defined]
    if found is None:
        raise ValueError(f"the feature {feature!r} of the prepared directory has no classes; expected a ClassLabel.")
    return int(found)


def check_classes(examples: Sequence[dict[str, Any]], classes: int, folder: Path) -> None:
    """Refuses a directory that declares another number of classes."""
    found = label_count(examples)
    if found != classes:
        raise ValueError(f"{str(folder)!r} has {found} classes; expected {classes}.")


def images(
    folder: Path, split: str, *, shape: tuple[int, int, int], classes: int, order: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8[n, *shape], and labels, int32[n], of a split.

    Args:
      folder: the directory of a version.
      split: 'train' or 'test'.
      shape: of an image.
      classes: that there must be.
      order: the feature to sort by; empty: the order of TFDS, which has shuffled the samples.

    Raises:
      ValueError: see :func:`source`; or images of another size.
    """
    features = ("image", "label", *((order,) if order else ()))
    examples = source(folder, split, features)
    check_classes(examples, classes, folder)
    if not len(examples):
        raise ValueError(f"{str(folder)!r}: split {split!r} is empty.")
    x, y = np.empty((len(examples), *shape), np.uint8), np.empty(len(examples), np.int32)
    names: list[Any] = []
    for i in range(0, len(examples), CHUNK):
        for j, example in enumerate(read(examples, range(i, min(i + CHUNK, len(examples))), folder), i):
            if example["image"].shape != shape:
                raise ValueError(f"{str(folder)!r}: image {j} has shape {example['image'].shape}; expected {shape}.")
            x[j], y[j] = example["image"], example["label"]
            names += [example[order]] if order else []
    if order:
        rank = sorted(range(len(names)), key=names.__getitem__)
        x, y = x[rank], y[rank]
    return x, y


def read(examples: Any, indices: Sequence[int], folder: Path) -> Sequence[dict[str, Any]]:
    """Several examples at once.

    Raises:
      ValueError: the files are damaged.
    """
    try:
        return examples.__getitems__(list(indices))
    except Exception as error:  # array_record, protobuf and the image decoders each have their own
        raise files.unreadable(folder, error, "examples that can be decoded") from error


def _check_readable(folder: Path) -> None:
    """Refuses files that this user may not read: neither TFDS nor array_record says which one it was, or why."""
    with files.reading(folder, "a directory of TFDS"):
        paths = [path for path in folder.iterdir() if path.is_file()]
    for path in paths:
        with files.reading(path, "a file of TFDS"):
            path.open("rb").close()


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in folder.name.split("."))
