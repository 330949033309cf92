"""Small data sets in the true formats."""

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import cifar, voc


class _Builder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    def _split_generators(self, dl_manager: Any) -> Any:  # TFDS's own asks TensorFlow what the data are
        return {name: iter(examples) for name, examples in self._split_datasets.items()}


def prepared(
    root: Path, name: str, features: Mapping[str, Any], splits: Mapping[str, Iterable[Any]], config: str | None = None
) -> Path:
    """A directory that TFDS itself has written."""
    builder = _Builder(
        name=name,
        version="3.0.2",
        config=config,
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: list(enumerate(examples)) for split, examples in splits.items()},
        data_dir=root,
        file_format="array_record",
    )
    builder.download_and_prepare(file_format="array_record")
    return root / name / (config or "") / "3.0.2"


def png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[-1] != 1 else pixels[..., 0]).save(file, "PNG")
    file.seek(0)
    return file


def jpeg(path: Path, rows: int = 64, columns: int = 64, *, shade: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (columns, rows), shade if mode == "L" else (shade, 100, 200)).save(path, "JPEG")


def pixels(seed: int, n: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def cifar_records(name: str, images: np.ndarray, labels: np.ndarray) -> bytes:
    """The binary format, written out from its description."""
    records = b""
    for image, label in zip(images, labels, strict=True):
        head = bytes([label]) if name == "cifar10" else bytes([label // 5, label])
        records += head + b"".join(image[:, :, channel].tobytes() for channel in range(3))
    return records


def cifar_binary(root: Path, name: str, train: tuple[Any, Any], test: tuple[Any, Any]) -> Path:
    variant = cifar.VARIANTS[name]
    folder = root / variant.folder
    folder.mkdir(parents=True)
    for rows, file in zip(np.array_split(np.arange(len(train[1])), len(variant.train)), variant.train, strict=True):
        (folder / file).write_bytes(cifar_records(name, train[0][rows], train[1][rows]))
    (folder / variant.test).write_bytes(cifar_records(name, *test))
    return folder


def archive(folder: Path) -> Path:
    """The .tar.gz of CIFAR from its folder."""
    name = next(v.archive for v in cifar.VARIANTS.values() if v.folder == folder.name)
    with tarfile.open(folder.parent / name, "w:gz") as file:
        file.add(folder, folder.name)
    return folder.parent / name


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
    path.write_bytes((gzip.compress if path.suffix == ".gz" else bytes)(header + array.tobytes()))


def tiny_imagenet(root: Path, classes: int = 200, validation: int = 400) -> Path:
    """One training picture of each class, the first of them grey."""
    folder = root / "tiny-imagenet-200"
    wnids = [f"n{10**7 + 7919 * i % 10**7:08d}" for i in range(classes)]
    for i, wnid in enumerate(wnids):
        jpeg(folder / "train" / wnid / "images" / f"{wnid}_0.JPEG", shade=i, mode="RGB" if i else "L")
    for k in range(validation):
        jpeg(folder / "val" / "images" / f"val_{k}.JPEG", shade=k % 200)
    lines = [f"val_{k}.JPEG\t{wnids[k % classes]}\t0\t0\t62\t62\n" for k in range(validation)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    return folder


def voc_year(root: Path, year: str, splits: Mapping[str, int]) -> Path:
    """Pictures of 40 x 60 with one object each, the number of the picture its class."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for split, count in splits.items():
        ids = [f"{split}_{i:03d}" for i in range(count)]
        for i, name in enumerate(ids):
            jpeg(folder / "JPEGImages" / f"{name}.jpg", 40, 60, shade=i)
            voc_annotation(folder / "Annotations" / f"{name}.xml", [(voc.NAMES[i], (7, 11, 30, 20), i % 2)])
        path = folder / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in ids))
    return folder


def voc_annotation(path: Path, objects: Iterable[tuple[str, tuple[int, int, int, int], int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, (a, b, c, d), difficult in objects
    )
    path.write_text(f"<annotation><size><width>60</width><height>40</height></size>{items}</annotation>")
