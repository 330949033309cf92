"""Pictures in files, as a sequence that opens a file when it is asked for it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from experiments.data import pictures

SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclasses.dataclass(frozen=True)
class Pictures(Sequence[dict[str, Any]]):
    """Samples {'image': uint8[rows, columns, 3], 'label': int} as TFDS has them."""

    paths: list[str]
    labels: np.ndarray  # int32[n]
    shape: tuple[int, int] | None = None  # rows and columns that every picture must have

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Pictures":
        if isinstance(index, slice):
            return Pictures(self.paths[index], self.labels[index], self.shape)
        return {"image": pictures.read(Path(self.paths[index]), self.shape), "label": int(self.labels[index])}

    def take(self, rows: np.ndarray) -> "Pictures":
        """The samples at some places."""
        return Pictures([self.paths[row] for row in rows], self.labels[rows], self.shape)


def names(folder: Path) -> list[str]:
    """The pictures of a folder, by name.

    Raises:
      ValueError: the folder is missing.
    """
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"folder {str(folder)!r} is not there; expected pictures in it.") from error


def by_class(folder: Path, classes: int, inner: str = "", shape: tuple[int, int] | None = None) -> Pictures:
    """The pictures of a folder with a folder of each class; the labels follow the names of the classes.

    Args:
      folder: that holds the folders of the classes.
      classes: that there must be.
      inner: a folder within that of a class which holds the pictures.
      shape: see :class:`Pictures`.

    Raises:
      ValueError: a missing folder, another number of classes, or a class without pictures.
    """
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"folder {str(folder)!r} is not there; expected a folder of each class in it.") from error
    if len(found) != classes:
        raise ValueError(f"folder {str(folder)!r} has {len(found)} classes; expected a folder of each of {classes}.")
    return of_classes(folder, found, inner, shape)


def of_classes(folder: Path, classes: Sequence[str], inner: str = "", shape: tuple[int, int] | None = None) -> Pictures:
    """The pictures of classes in the order of their labels; see :func:`by_class`."""
    paths, labels = [], []
    for label, name in enumerate(classes):
        inside = folder / name / inner
        here = names(inside)
        if not here:
            raise ValueError(f"folder {str(inside)!r} has no pictures; expected files that end in {SUFFIXES}.")
        paths += [os.path.join(inside, file) for file in here]
        labels += [label] * len(here)
    return Pictures(paths, np.array(labels, np.int32), shape)
