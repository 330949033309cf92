"""PASCAL VOC 2007 and 2012, "07+12": the VOCdevkit folder, or directories that TFDS has prepared.

Training: trainval of both years, 5,011 + 11,540 pictures; test: that of 2007, 4,952 (Everingham et al., 2010).
"""

import dataclasses
import functools
import itertools
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from dstjax.checks import check_choice
from experiments.data import files, pictures, prepared
from experiments.data.streams import Batch, Stream

NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SAMPLES = (5_011, 11_540, 4_952)  # trainval of 2007 and of 2012, test of 2007
SIZE, BOXES = 512, 64  # of SSD512; the boxes of a batch are filled up to so many a picture
ACCEPTED = ("voc/2007/VERSION and voc/2012/VERSION (TFDS, array_record)", "VOCdevkit/VOC2007 and VOCdevkit/VOC2012")
PROTOCOLS = {"paper": "trains on trainval of both years, validates and tests on the test pictures of 2007; flipped"}


@dataclasses.dataclass(frozen=True)
class Annotated(Sequence[dict[str, Any]]):
    """Samples of a VOCdevkit year, opened when asked for.

    {'image': uint8[rows, columns, 3], 'boxes': float32[n, 4] (top, left, bottom, right as shares of the picture),
    'labels': int32[n], 'difficult': bool[n]}.
    """

    folder: Path
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Annotated": ...

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Annotated":
        if isinstance(index, slice):
            return Annotated(self.folder, self.ids[index])
        name = self.ids[index]
        image = pictures.read(self.folder / "JPEGImages" / f"{name}.jpg")
        return {"image": image, **annotation(self.folder / "Annotations" / f"{name}.xml", image.shape[:2])}


@dataclasses.dataclass(frozen=True)
class Joined(Sequence[dict[str, Any]]):
    """Several sequences as one."""

    parts: Sequence[Sequence[dict[str, Any]]]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: Any) -> Any:
        ends = list(itertools.accumulate(len(part) for part in self.parts))
        part = int(np.searchsorted(ends, index, side="right"))
        return self.parts[part][index - (ends[part] - len(self.parts[part]))]


def stream(root: Path, protocol: str, samples: tuple[int, int, int] = SAMPLES, size: int = SIZE) -> Stream:
    """VOC 07+12, each picture scaled to a square whatever its shape.

    A sample holds x float32[size, size, 3], boxes float32[64, 4] (top, left, bottom, right in [0, 1]), labels int32[64]
    (-1 where there is no object) and difficult bool[64]. Training mirrors; SSD's distortion of colours and its zooming
    are not part of this reader.

    Args:
      root: the folder of data sets.
      protocol: 'paper' (that of IEE).
      samples: see ``SAMPLES``, where the files are a part of the data set.
      size: rows and columns of x.

    Raises:
      ValueError: files that are missing or of another data set. A damaged picture is found when it is read.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    older, newer = prepared.find(root, "voc", "2007"), prepared.find(root, "voc", "2012")
    parts: list[Sequence[dict[str, Any]]]
    if older is not None and newer is not None:
        folder = root / "voc"
        features = ("image", "objects")
        halves = [
            [prepared.source(year, part, features) for part in ("train", "validation")] for year in (older, newer)
        ]
        parts = [*(Joined(half) for half in halves), prepared.source(older, "test", features)]
    elif (root / "VOCdevkit").is_dir():
        folder = root / "VOCdevkit"
        parts = [_listed(folder / year, part) for year, part in (("VOC2007", "trainval"), ("VOC2012", "trainval"))]
        parts.append(_listed(folder / "VOC2007", "test"))
    else:
        raise files.missing("voc", root, ACCEPTED)
    whole = ("trainval pictures of 2007", "trainval pictures of 2012", "test pictures of 2007")
    files.check_counts(whole, [len(part) for part in parts], samples, folder)
    train = Joined(parts[:2])
    return Stream(
        train=train,
        validation=parts[2],
        test=parts[2],
        augmented=functools.partial(_augmented, size=size),
        plain=functools.partial(_plain, size=size),
        classes=len(NAMES),
        shape=(size, size, 3),
        provenance=f"PASCAL VOC 07+12 ({folder}): {len(train):,} training, {len(parts[2]):,} test pictures",
    )


def annotation(path: Path, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Boxes, labels and difficulty from an XML file, see :class:`Annotated`.

    The corners are pixels counted from 1 that belong to the box.

    Raises:
      ValueError: the file is missing, damaged, names another class, or a box lies outside the picture.
    """
    rows, columns = shape
    boxes, labels, difficult = [], [], []
    with files.reading(path, "an annotation"):
        text = path.read_bytes()
    try:
        for item in ET.fromstring(text).iter("object"):
            name = item.findtext("name", "").strip().lower()
            if name not in NAMES:
                raise ValueError(f"file {str(path)!r} has an object {name!r}; expected one of {', '.join(NAMES)}.")
            corners = tuple(item.findtext(f"bndbox/{c}", "nan") for c in CORNERS)
            try:
                left, top, right, bottom = map(float, corners)
            except ValueError as error:
                raise files.damaged(path, f"a box {corners}", "four numbers") from error
            if not (1 <= left <= right <= columns and 1 <= top <= bottom <= rows):
                raise files.damaged(path, f"a box {left, top, right, bottom}", f"one within {columns} x {rows} pixels")
            boxes.append([(top - 1) / rows, (left - 1) / columns, bottom / rows, right / columns])
            labels.append(NAMES.index(name))
            difficult.append(item.findtext("difficult", "0").strip() == "1")
    except ET.ParseError as error:
        raise files.damaged(path, error, "an annotation in XML") from error
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(labels, np.int32),
        "difficult": np.array(difficult, bool),
    }


def _listed(folder: Path, part: str) -> Annotated:
    path = folder / "ImageSets" / "Main" / f"{part}.txt"
    with files.reading(path, "the pictures of a split, one a line"):
        ids = path.read_text().split()
    return Annotated(folder, ids)


def _objects(sample: Any) -> dict[str, np.ndarray]:
    if "boxes" in sample:
        return {name: sample[name] for name in ("boxes", "labels", "difficult")}
    rows, columns = sample["image"].shape[:2]
    # TFDS divides the pixel counted from 1 by the size; the first pixel begins at 0.
    boxes = np.asarray(sample["objects"]["bbox"], np.float32).reshape(-1, 4)
    boxes = boxes - np.array([1 / rows, 1 / columns, 0, 0], np.float32)
    return {
        "boxes": boxes,
        "labels": np.asarray(sample["objects"]["label"], np.int32),
        "difficult": np.asarray(sample["objects"]["is_difficult"], bool),
    }


def _plain(sample: Any, *, size: int, mirrored: bool = False) -> Batch:
    found = _objects(sample)
    n = len(found["labels"])
    if n > BOXES:
        raise ValueError(f"a picture has {n} objects; expected at most {BOXES}.")
    image, boxes = sample["image"], found["boxes"]
    if mirrored:
        image = image[:, ::-1]
        boxes = np.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=1)
    batch = {
        "x": pictures.normalised(pictures.scale(np.ascontiguousarray(image), size, size)),
        "boxes": np.zeros((BOXES, 4), np.float32),
        "labels": np.full(BOXES, -1, np.int32),
        "difficult": np.zeros(BOXES, bool),
    }
    batch["boxes"][:n], batch["labels"][:n], batch["difficult"][:n] = boxes, found["labels"], found["difficult"]
    return batch


def _augmented(sample: Any, rng: np.random.Generator, *, size: int) -> Batch:
    return _plain(sample, size=size, mirrored=rng.random() < 0.5)
