import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import data
from tests.experiments.data import writers

SAMPLES = (50, 20)


def write(root: Path, suffix: str = ".gz", size: int = 28) -> Path:
    folder = root / "fashion-mnist"
    for i, (prefix, n) in enumerate(zip(("train", "t10k"), SAMPLES, strict=True)):
        writers.idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", writers.pixels(i, n, (size, size)))
        writers.idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", (np.arange(n) % 10).astype(np.uint8))
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    write(tmp_path, suffix)
    found = data.load("fashion_mnist", root=tmp_path, samples=SAMPLES)
    images = np.concatenate([writers.pixels(i, n, (28, 28)) for i, n in enumerate(SAMPLES)])[..., None]
    np.testing.assert_allclose(found.x - found.split(0).mean, (images / 255 - 0.5) / 0.5, atol=1e-6)
    np.testing.assert_array_equal(found.y, np.concatenate([np.arange(n) % 10 for n in SAMPLES]))
    assert found.sizes == (45, 5, 20)
    assert found.augment is None


def test_a_prepared_directory(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    images = [writers.pixels(i, n, (28, 28, 1)) for i, n in enumerate(SAMPLES)]
    splits = {
        split: [{"image": writers.png(image), "label": i % 10} for i, image in enumerate(part)]
        for split, part in zip(("train", "test"), images, strict=True)
    }
    writers.prepared(tmp_path, "fashion_mnist", features, splits)
    found = data.load("fashion_mnist", root=tmp_path, samples=SAMPLES)
    # TFDS shuffles: every image is there once, with its label.
    labels = {image.tobytes(): i % 10 for part in images for i, image in enumerate(part)}
    pixels = np.rint((found.x - 1) * 127.5 + 127.5).astype(np.uint8)
    assert len({image.tobytes() for image in pixels}) == sum(SAMPLES)
    assert [labels[image.tobytes()] for image in pixels] == found.y.tolist()


def test_damaged_files_are_named(tmp_path):
    folder = write(tmp_path)
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz"
    whole = images.read_bytes()
    for broken, message in (
        (whole[:1000], r"train-images-idx3-ubyte\.gz' is damaged"),
        (gzip.compress(gzip.decompress(whole)[:-1]), "39,199 bytes after the header"),
        (labels.read_bytes(), "expected the number 0x00000803"),
        (gzip.compress(b""), "it begins with b''"),
    ):
        images.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            data.load("fashion_mnist", root=tmp_path, samples=SAMPLES)
    images.write_bytes(whole)
    writers.idx(labels, np.zeros(49, np.uint8))
    with pytest.raises(ValueError, match="50 images and 49 labels"):
        data.load("fashion_mnist", root=tmp_path, samples=SAMPLES)
    labels.unlink()
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz' is not there"):
        data.load("fashion_mnist", root=tmp_path, samples=SAMPLES)


def test_images_of_another_size(tmp_path):
    write(tmp_path, size=32)
    with pytest.raises(ValueError, match=r"images of \(32, 32\) pixels; expected \(28, 28\)"):
        data.load("fashion_mnist", root=tmp_path, samples=SAMPLES)


@pytest.mark.parametrize("header", [b"", np.array([0x803, 50, 28, 28], ">u4").tobytes()])
def test_a_file_that_unpacks_to_more_than_it_says_is_not_unpacked_whole(header, tmp_path):
    folder = write(tmp_path)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(2**26), 1))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is damaged or another one"):
            data.load("fashion_mnist", root=tmp_path, samples=SAMPLES)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
