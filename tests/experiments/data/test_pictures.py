from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import data
from experiments.data import pictures, prepared, voc
from tests.experiments.data import writers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return writers.tiny_imagenet(tmp_path_factory.mktemp("tiny"))


def test_tiny_imagenet(tiny):
    found = data.stream("tiny_imagenet", root=tiny.parent, samples=(200, 400))
    assert found.sizes == (200, 400, 400)
    for i in (0, 3):  # 0 is grey
        sample = found.train[i]
        assert sample["label"] == i
        assert sample["image"].shape == (64, 64, 3)
    # The labels of the validation pictures come from the annotations, not from the order of their names.
    by_name = {Path(path).stem: label for path, label in zip(found.test.paths, found.test.labels, strict=True)}
    assert [by_name[f"val_{k}"] for k in (0, 9, 10, 399)] == [0, 9, 10, 199]
    x = found.plain(found.train[3])["x"]
    expected = (found.train[3]["image"] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_tiny_imagenet_can_hold_out_a_tenth_of_each_class(tmp_path):
    folder = writers.tiny_imagenet(tmp_path, validation=200)
    for wnid in (folder / "train").iterdir():
        for k in range(1, 10):
            (wnid / "images" / f"{wnid.name}_{k}.JPEG").symlink_to(wnid / "images" / f"{wnid.name}_0.JPEG")
    found = data.stream("tiny_imagenet", root=tmp_path, protocol="held-out", samples=(2000, 200))
    assert found.sizes == (1800, 200, 200)
    assert not {*found.train.paths} & {*found.validation.paths}
    np.testing.assert_array_equal(found.validation.labels, np.arange(200))


def test_damage_to_tiny_imagenet_is_named(tmp_path):
    folder = writers.tiny_imagenet(tmp_path, validation=200)

    def load() -> data.Stream:
        return data.stream("tiny_imagenet", root=tmp_path, samples=(200, 200))

    found = load()
    path = Path(found.train.paths[5])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{path.name}' is damaged"):
        load().train[5]
    writers.jpeg(path, 64, 32)
    with pytest.raises(ValueError, match=r"has \(64, 32\) pixels; expected \(64, 64\)"):
        load().train[5]
    path.unlink()
    with pytest.raises(ValueError, match="has no pictures"):
        load()
    path.mkdir()
    with pytest.raises(ValueError, match=f"{path.name}' cannot be read: IsADirectoryError: Is a directory"):
        load().train[5]
    path.rmdir()
    path.write_bytes(whole)
    (folder / "train" / "n1").mkdir()
    with pytest.raises(ValueError, match=r"/train' has a folder 'n1'; expected one of each of the 200 classes"):
        load()
    (folder / "train" / "n1").rmdir()
    (folder / "val" / "images" / "val_7.JPEG").unlink()
    with pytest.raises(ValueError, match=r"'val_7\.JPEG' is not both in images/ and in val_annotations\.txt"):
        load()
    annotations = folder / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn999\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"val_annotations\.txt' is damaged.*line 1"):
        load()
    annotations.unlink()
    with pytest.raises(ValueError, match=r"val_annotations\.txt' is not there"):
        load()
    wnids = folder / "wnids.txt"
    lines = wnids.read_bytes()
    wnids.write_bytes(b"\xff" + lines)
    with pytest.raises(ValueError, match=r"wnids\.txt' is damaged.*UnicodeDecodeError"):
        load()
    wnids.write_bytes(lines)
    wnids.write_text("\n".join(wnids.read_text().split()[:199]))
    with pytest.raises(ValueError, match="199 classes; expected 200"):
        load()


def test_imagenet_in_folders(tmp_path):
    picture = tmp_path / "one.JPEG"
    writers.jpeg(picture, 300, 400)
    for part in ("train", "val"):
        for i in range(1000):
            folder = tmp_path / "imagenet" / part / f"n{i:08d}"
            folder.mkdir(parents=True)
            (folder / f"{i}.JPEG").symlink_to(picture)
    found = data.stream("imagenet", root=tmp_path, samples=(1000, 1000))
    assert found.sizes == (1000, 1000, 1000)
    batch, _ = next(data.batches(found, 8, data.Position(0)))
    assert batch["x"].shape == (8, 224, 224, 3)
    assert batch["x"].dtype == np.float32
    assert batch["y"].dtype == np.int32
    with pytest.raises(ValueError, match="holds 1,000 training pictures; expected 1,281,167"):
        data.stream("imagenet", root=tmp_path)
    val = tmp_path / "imagenet" / "val"
    (val / "n00000003").rename(val / "n0000003")  # misspelt
    with pytest.raises(ValueError, match=r"/val' has no folder 'n00000003'; expected one of each of the 1000 classes"):
        data.stream("imagenet", root=tmp_path, samples=(1000, 1000))
    (val / "n0000003").rename(val / "0")
    with pytest.raises(ValueError, match=r"/val' has a folder '0'; .* such as 'n00000000', and no other"):
        data.stream("imagenet", root=tmp_path, samples=(1000, 1000))
    (val / "0").rename(val / "n00000003")
    (tmp_path / "imagenet" / "train" / "n00000007" / "7.JPEG").unlink()
    with pytest.raises(ValueError, match="n00000007' has no pictures"):
        data.stream("imagenet", root=tmp_path)
    (tmp_path / "imagenet" / "train" / "n00000007").rmdir()
    with pytest.raises(ValueError, match="has 999 classes; expected a folder of each of 1000"):
        data.stream("imagenet", root=tmp_path)


def test_imagenet_prepared(tmp_path):
    features = {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=1000),
    }

    def example(i: int) -> dict:
        pixels = writers.pixels(i, 1, (30 + i, 40, 3))[0]
        return {"file_name": str(i), "image": writers.png(pixels), "label": 100 * i}

    splits = {"train": [example(i) for i in range(6)], "validation": [example(i) for i in range(3)]}
    writers.prepared(tmp_path, "imagenet2012", features, splits)
    found = data.stream("imagenet", root=tmp_path, samples=(6, 3))
    for batch in data.evaluation_batches(found, "validation", 2):
        assert batch["x"].shape == (2, 224, 224, 3)
    labels = [int(y) for b in data.evaluation_batches(found, "test", 2) for y in b["y"][b["weight"] > 0]]
    assert sorted(labels) == [0, 100, 200]


def test_the_centre_of_a_picture():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 95:105] = 200
    cut = pictures.central_crop(pixels, 50, 40)
    assert cut.shape == (40, 40, 3)
    assert (cut[:, 18:22] == 200).all()
    assert not cut[:, :16].any()
    np.testing.assert_array_equal(cut, cut[:, ::-1])
    assert pictures.central_crop(pixels[:33, :77], 256, 224).shape == (224, 224, 3)


def test_random_parts_keep_to_area_and_aspect_ratio(monkeypatch):
    boxes = []

    def spy(pixels, rows, columns, box):
        boxes.append(box)
        return np.zeros((rows, columns, 3), np.uint8)

    monkeypatch.setattr(pictures, "scale", spy)
    rng = np.random.default_rng(0)
    pixels = np.zeros((375, 500, 3), np.uint8)
    for _ in range(500):
        pictures.random_resized_crop(rng, pixels, 224)
    left, top, right, bottom = np.array(boxes).T
    width, height = right - left, bottom - top
    share, ratio = width * height / (375 * 500), width / height
    assert ((left >= 0) & (top >= 0) & (right <= 500) & (bottom <= 375)).all()
    assert share.min() > 0.075
    assert share.min() < 0.12
    assert share.max() > 0.9
    assert (ratio.min() > 0.73, ratio.max() < 1.37) == (True, True)
    # A strip that no part of that shape fits: the central one of the nearest shape.
    boxes.clear()
    pictures.random_resized_crop(rng, np.zeros((10, 1000, 3), np.uint8), 224)
    assert boxes[0] == (493, 0, 506, 10)


@pytest.fixture
def devkit(tmp_path) -> Path:
    writers.voc_year(tmp_path, "2007", {"trainval": 3, "test": 2})
    writers.voc_year(tmp_path, "2012", {"trainval": 4})
    return tmp_path


def test_voc(devkit):
    found = data.stream("voc", root=devkit, samples=(3, 4, 2))
    assert found.sizes == (7, 2, 2)
    assert found.classes == 20
    assert [int(found.train[i]["labels"][0]) for i in range(7)] == [0, 1, 2, 0, 1, 2, 3]
    batch = found.plain(found.train[4])
    assert batch["x"].shape == (512, 512, 3)
    # Pixels 7 to 30 of 60 and 11 to 20 of 40, counted from 1.
    np.testing.assert_allclose(batch["boxes"][0], [10 / 40, 6 / 60, 20 / 40, 30 / 60], rtol=1e-6)
    assert batch["labels"].tolist() == [1] + [-1] * 63
    assert batch["difficult"].tolist() == [True] + [False] * 63
    seen = set()
    for seed in range(20):
        mirrored = found.augmented(found.train[4], np.random.default_rng(seed))
        top, left, bottom, right = (round(float(v), 3) for v in mirrored["boxes"][0])
        assert (top, bottom) == (0.25, 0.5)
        seen.add((left, right))
    assert seen == {(0.1, 0.5), (0.5, 0.9)}


def test_voc_prepared(tmp_path):
    objects = {
        "label": tfds.features.ClassLabel(names=voc.NAMES),
        "bbox": tfds.features.BBoxFeature(),
        "is_difficult": np.bool_,
    }
    features = {"image": tfds.features.Image(), "objects": tfds.features.Sequence(objects)}
    box = tfds.features.BBox(11 / 40, 7 / 60, 20 / 40, 30 / 60)

    def example(label: int) -> dict:
        item = {"label": label, "bbox": box, "is_difficult": False}
        return {"image": writers.png(writers.pixels(label, 1, (40, 60, 3))[0]), "objects": [item]}

    for year, splits in (("2007", ("train", "validation", "test")), ("2012", ("train", "validation"))):
        writers.prepared(tmp_path, "voc", features, {s: [example(i)] for i, s in enumerate(splits)}, year)
    found = data.stream("voc", root=tmp_path, samples=(2, 2, 1))
    assert found.sizes == (4, 1, 1)
    assert [int(found.train[i]["objects"]["label"][0]) for i in range(4)] == [0, 1, 0, 1]
    batch = found.plain(found.test[0])
    np.testing.assert_allclose(batch["boxes"][0], [10 / 40, 6 / 60, 20 / 40, 30 / 60], atol=1e-6)
    assert batch["labels"][:2].tolist() == [2, -1]


def test_damage_to_voc_is_named(devkit):
    folder = devkit / "VOCdevkit" / "VOC2007"
    path = folder / "Annotations" / "trainval_001.xml"
    found = data.stream("voc", root=devkit, samples=(3, 4, 2))
    whole = path.read_text()
    for broken, message in (
        (whole[:80], r"trainval_001\.xml' is damaged"),
        (whole.replace("bicycle", "unicorn"), "an object 'unicorn'; expected one of aeroplane"),
        (whole.replace("<xmax>30", "<xmax>61"), r"a box \(7\.0, 11\.0, 61\.0, 20\.0\).*within 60 x 40"),
        (whole.replace("<ymin>11</ymin>", ""), "a box .*nan"),
        (
            whole.replace("<ymin>11", "<ymin>x"),
            r"_001\.xml' is damaged.*a box \('7', 'x', .*expected four numbers",
        ),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match=message):
            found.train[1]
    writers.voc_annotation(path, [("cat", (1, 1, 60, 40), 0)] * 65)
    with pytest.raises(ValueError, match="65 objects; expected at most 64"):
        found.plain(found.train[1])
    with pytest.raises(ValueError, match="holds 3 trainval pictures of 2007; expected 5,011"):
        data.stream("voc", root=devkit)
    (folder / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(ValueError, match=r"test\.txt' is not there"):
        data.stream("voc", root=devkit, samples=(3, 4, 2))


def test_a_data_set_says_what_its_batches_are_for(devkit):
    assert {name for name in data.names() if data.DATASETS[name].task != "classification"} == {"voc"}
    assert data.DATASETS["voc"].task == "detection"
    found = data.stream("voc", root=devkit, samples=(3, 4, 2))
    assert {*found.plain(found.test[0])} == {"x", "boxes", "labels", "difficult"}


def test_a_prepared_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
    example = {"image": writers.png(writers.pixels(0, 1, (4, 4, 3))[0]), "label": 1}
    folder = writers.prepared(tmp_path, "small", features, {"train": [example]})
    opened = Path.open

    def refusing(path, *given, **options):
        if path.name == "features.json":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *given, **options)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(
        ValueError, match=r"features\.json' cannot be read: PermissionError: Permission denied; expected"
    ):
        prepared.source(folder, "train", ("image", "label"))


def test_an_empty_split_is_refused(devkit):
    (devkit / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("")
    with pytest.raises(ValueError, match="the validation split is empty"):
        data.stream("voc", root=devkit, samples=(3, 4, 0))
