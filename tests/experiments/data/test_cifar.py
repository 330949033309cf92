import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import data
from experiments.data import cifar
from tests.experiments.data import writers

SHAPE = (32, 32, 3)
COUNTS = {"cifar10": (40, 20), "cifar100": (200, 100)}


def content(name: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    classes = cifar.VARIANTS[name].classes
    return tuple((writers.pixels(i, n, SHAPE), np.arange(n) % classes) for i, n in enumerate(COUNTS[name]))


def in_binary(root: Path, name: str) -> None:
    writers.cifar_binary(root, name, *content(name))


def in_archive(root: Path, name: str) -> None:
    in_binary(root / "elsewhere", name)
    path = writers.archive(root / "elsewhere" / cifar.VARIANTS[name].folder)
    path.rename(root / path.name)


def in_tfds(root: Path, name: str, shape: tuple[int, ...] = SHAPE, classes: int | None = None) -> Path:
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=classes or cifar.VARIANTS[name].classes),
    }

    def examples(split: str, part: tuple[np.ndarray, np.ndarray]) -> Any:
        for i, (image, label) in enumerate(zip(*part, strict=True)):
            image = image[: shape[0], : shape[1]]
            yield {"id": f"{split}_{i:05d}", "image": writers.png(image), "label": int(label)}

    parts = content(name)
    splits = {split: examples(split, part) for split, part in zip(("train", "test"), parts, strict=True)}
    return writers.prepared(root, name, features, splits)


@pytest.mark.parametrize("name", cifar.VARIANTS)
@pytest.mark.parametrize("write", [in_binary, in_archive, in_tfds])
def test_every_format_gives_the_samples_in_their_order(tmp_path, monkeypatch, name, write):
    write(tmp_path, name)

    def refuse(*args):
        raise AssertionError("reading needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = data.load(name, root=tmp_path, samples=COUNTS[name])
    variant, parts = cifar.VARIANTS[name], content(name)
    images = np.concatenate([part[0] for part in parts]) / 255
    split = found.split(7)
    expected = (images - np.array(variant.mean)) / np.array(variant.deviation)
    np.testing.assert_allclose(found.x - split.mean, expected, atol=2e-6)
    np.testing.assert_array_equal(found.y, np.concatenate([part[1] for part in parts]))
    train, test = COUNTS[name]
    cut = train - train // 10
    assert found.sizes == (cut, train // 10, test)
    for part, rows in zip(split, np.split(np.arange(train + test), [cut, train]), strict=False):
        np.testing.assert_array_equal(part, rows)
    assert found.x.dtype == np.float32
    assert found.classes == variant.classes
    assert "protocol paper" in found.provenance


def test_the_released_code_validates_cifar100_on_its_test_samples(tmp_path):
    in_binary(tmp_path, "cifar100")
    found = data.load("cifar100", root=tmp_path, protocol="reference-code", samples=(200, 100))
    assert found.sizes == (200, 100, 100)
    split = found.split(0)
    np.testing.assert_array_equal(split.validation, split.test)
    assert "(the test samples)" in found.provenance


def test_protocols_of_rigl_and_set(tmp_path):
    in_binary(tmp_path, "cifar10")
    images = np.concatenate([part[0] for part in content("cifar10")]) / 255
    by_image = data.load("cifar10", root=tmp_path, protocol="rigl", samples=(40, 20))
    axes = (1, 2, 3)
    expected = (images - images.mean(axes, keepdims=True)) / images.std(axes, keepdims=True)
    np.testing.assert_allclose(by_image.x, expected, atol=1e-4)
    by_pixel = data.load("cifar10", root=tmp_path, protocol="set", samples=(40, 20))
    expected = (images - images[:40].mean(axis=0)) / images[:40].std(axis=0)
    np.testing.assert_allclose(by_pixel.x - by_pixel.split(0).mean, expected, atol=1e-4)
    assert by_image.sizes == by_pixel.sizes == (40, 20, 20)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "test_batch.bin").unlink(), r"test_batch\.bin' is not there"),
        (lambda f: (f / "data_batch_2.bin").write_bytes(b""), r"data_batch_2\.bin' is damaged.*0 bytes"),
        (lambda f: (f / "data_batch_3.bin").write_bytes(b"\1" * 3000), r"data_batch_3\.bin'.*records of 3,073"),
        (lambda f: (f / "data_batch_1.bin").write_bytes(b"\0" * 3073), "holds 33 training samples; expected 40"),
        (lambda f: (f / "test_batch.bin").write_bytes(b"\x0a" * 3073 * 20), r"label 10; expected labels in \[0, 10\)"),
        (lambda f: (f / "test_batch.bin").write_bytes(b"\1" * 3073 * 20), "samples of 1 classes; expected 10"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    damage(writers.cifar_binary(tmp_path, "cifar10", *content("cifar10")))
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", root=tmp_path, samples=(40, 20))


def test_a_part_of_the_data_set_is_refused_unless_asked_for(tmp_path):
    in_binary(tmp_path, "cifar10")
    with pytest.raises(ValueError, match=r"40 training samples; expected 50,000.*samples="):
        data.load("cifar10", root=tmp_path)


def test_an_archive_that_is_cut_off(tmp_path):
    in_archive(tmp_path, "cifar10")
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz' is damaged"):
        data.load("cifar10", root=tmp_path, samples=(40, 20))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(
        ValueError, match=r"(?s)expected one of:.*cifar-10-batches-bin.*experiments.data prepare cifar10"
    ):
        data.load("cifar10", root=tmp_path)


def test_prepared_directories_of_another_kind_are_refused(tmp_path):
    in_tfds(tmp_path / "small", "cifar10", shape=(28, 28, 3))
    with pytest.raises(ValueError, match=r"image 0 has shape \(28, 28, 3\); expected \(32, 32, 3\)"):
        data.load("cifar10", root=tmp_path / "small", samples=(40, 20))
    in_tfds(tmp_path / "classes", "cifar10", classes=12)
    with pytest.raises(ValueError, match="has 12 classes; expected 10"):
        data.load("cifar10", root=tmp_path / "classes", samples=(40, 20))


def test_damaged_prepared_directories_are_named(tmp_path):
    folder = in_tfds(tmp_path, "cifar10")
    info = folder / "dataset_info.json"
    text = info.read_text()
    info.write_text(text.replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="prepared as tfrecord; expected array_record"):
        data.load("cifar10", root=tmp_path, samples=(40, 20))
    info.write_text(text)
    shard = next(folder.glob("*train*"))
    whole = shard.read_bytes()
    for broken in (whole[: len(whole) // 2], b"\0" * len(whole), b""):
        shard.write_bytes(broken)
        with pytest.raises(ValueError, match=r"cifar10/3\.0\.2' is damaged"):
            data.load("cifar10", root=tmp_path, samples=(40, 20))
    shard.unlink()
    with pytest.raises(ValueError, match=r"cifar10/3\.0\.2' is damaged"):
        data.load("cifar10", root=tmp_path, samples=(40, 20))
    shard.write_bytes(whole)
    record = json.loads(text)
    record["splits"] = record["splits"][:1]
    info.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"has no split '(train|test)'"):
        data.load("cifar10", root=tmp_path, samples=(40, 20))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("broken", ["", "{", "{}", "[]", "text", '{"name": 3}'])
def test_a_damaged_description_of_a_prepared_directory_is_named(tmp_path, name, broken):
    folder = in_tfds(tmp_path, "cifar10")
    (folder / name).write_text(broken)
    with pytest.raises(ValueError, match=r"cifar10.*3\.0\.2"):
        data.load("cifar10", root=tmp_path, samples=(40, 20))
