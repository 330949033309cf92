"""Pictures in files, as a sequence that opens a file when it is asked for it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from experiments.data import files, pictures

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
      ValueError: the folder is missing or cannot be read.
    """
    return sorted(entry.name for entry in _entries(folder, "pictures") if entry.name.lower().endswith(SUFFIXES))


def classes(folder: Path, number: int) -> list[str]:
    """The classes that a folder has a folder of each of, in the order of their labels.

    Raises:
      ValueError: the folder is missing, cannot be read, or has another number of classes.
    """
    found = _folders(folder)
    if len(found) != number:
        raise ValueError(f"folder {str(folder)!r} has {len(found)} classes; expected a folder of each of {number}.")
    return found


def of_classes(folder: Path, classes: Sequence[str], inner: str = "", shape: tuple[int, int] | None = None) -> Pictures:
    """The pictures of a folder with a folder of each class.

    Args:
      folder: that holds the folders of the classes.
      classes: their names in the order of the labels, the same for every split.
      inner: a folder within that of a class which holds the pictures.
      shape: see :class:`Pictures`.

    Raises:
      ValueError: a missing folder, folders of other classes, or a class without pictures.
    """
    there = {*_folders(folder)}
    different = sorted(there ^ {*classes})
    if different:
        has = "a" if different[0] in there else "no"
        raise ValueError(
            f"folder {str(folder)!r} has {has} folder {different[0]!r}; expected one of each of the {len(classes)} "
            f"classes, such as {classes[0]!r}, and no other. Sort the pictures into those."
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        inside = folder / name / inner
        here = names(inside)
        if not here:
            raise ValueError(f"folder {str(inside)!r} has no pictures; expected files that end in {SUFFIXES}.")
        paths += [os.path.join(inside, file) for file in here]
        labels += [label] * len(here)
    return Pictures(paths, np.array(labels, np.int32), shape)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder, "a folder of each class") if entry.is_dir())


def _entries(folder: Path, expected: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"folder {str(folder)!r} is not there; expected {expected} in it.") from error
    except OSError as error:
        raise files.unreadable(folder, error, f"a folder with {expected}") from error
