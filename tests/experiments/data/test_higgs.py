import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from sklearn.model_selection import train_test_split

from experiments import data
from experiments.data import higgs
from tests.experiments.data import writers

ROWS = 60
NAMES = [f"m_{i}" for i in range(24)]


def table() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, 24)), rng.permutation(np.arange(ROWS) % 2)


def rows(x: np.ndarray, y: np.ndarray) -> str:
    return "".join(",".join([*map(repr, row.tolist()), str(label)]) + "\n" for row, label in zip(x, y, strict=True))


def arff(x: np.ndarray, y: np.ndarray) -> str:
    header = "% a comment\n@RELATION higgs\n\n" + "".join(f"@ATTRIBUTE {name} REAL\n" for name in NAMES[:23])
    return f"{header}@ATTRIBUTE 'm 23' REAL\n@ATTRIBUTE target {{0,1}}\n@DATA\n{rows(x, y)}"


def write(folder: Path, suffix: str, x: np.ndarray, y: np.ndarray) -> Path:
    folder.mkdir()
    path = folder / f"dataset{suffix}"
    if suffix in (".parquet", ".pq"):
        columns = {**dict(zip(NAMES, x.T, strict=True)), "target": y.astype(str)}
        pyarrow.parquet.write_table(pa.table(columns), path)
        return path
    text = arff(x, y) if ".arff" in suffix else ",".join([*NAMES, "target"]) + "\n" + rows(x, y)
    path.write_bytes((gzip.compress if suffix.endswith(".gz") else bytes)(text.encode()))
    return path


@pytest.mark.parametrize("suffix", higgs.SUFFIXES)
def test_every_format(tmp_path, suffix):
    x, y = table()
    write(tmp_path / higgs.FOLDER, suffix, x, y)
    found = data.load("higgs", root=tmp_path, samples=ROWS)
    np.testing.assert_allclose(found.x, x, rtol=1e-6)
    np.testing.assert_array_equal(found.y, y)
    train, rest = train_test_split(np.arange(ROWS), test_size=0.3, stratify=y, random_state=42)
    split = found.split(3)
    np.testing.assert_array_equal(split.train, train)
    assert found.sizes == (42, 9, 9)
    assert sorted([*split.validation, *split.test]) == sorted(rest)
    assert not split.mean.any()


def test_damaged_and_other_tables_are_refused(tmp_path):
    x, y = table()
    folder = tmp_path / higgs.FOLDER
    with pytest.raises(ValueError, match=r"(?s)openml-44129/NAME\.arff.*prepare higgs"):
        data.load("higgs", root=tmp_path)
    path = write(folder, ".arff", x, y)
    text = path.read_text()
    with pytest.raises(ValueError, match="60 rows; expected 940,160"):
        data.load("higgs", root=tmp_path)
    for broken, message in (
        (text.replace("@DATA", ""), "the header has"),
        (text[: text.index("@DATA") + 6], "is damaged|no rows"),
        (text[:-30], "is damaged"),
        (text.replace(repr(x[5, 3].item()), "?"), "column 'm_3'"),
        (text.replace(repr(x[5, 3].item()), ""), "row 5 of column 'm_3' is nan"),
        (text.replace("@ATTRIBUTE m_3 REAL\n", ""), "is damaged"),
        (arff(x, np.arange(ROWS) % 3), r"has the values \['0', '1', '2'\]; expected two classes"),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match=message) as error:
            data.load("higgs", root=tmp_path, samples=ROWS)
        assert "dataset.arff" in str(error.value)
    (folder / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"dataset\.arff, other\.csv; expected one"):
        data.load("higgs", root=tmp_path, samples=ROWS)
    path.unlink()
    with pytest.raises(ValueError, match="has no target"):
        data.load("higgs", root=tmp_path, samples=ROWS)


@pytest.mark.parametrize("suffix", [".arff", ".csv"])
@pytest.mark.parametrize("none", ["", "?", "NA", "nan", "inf"])
@pytest.mark.parametrize("other", ["1", "signal"])
def test_a_text_without_a_class_in_every_row_is_refused(tmp_path, suffix, none, other):
    x, y = table()
    write(tmp_path / higgs.FOLDER, suffix, x, np.where(y == 1, other, none))
    row = np.flatnonzero(y == 0)[0]
    with pytest.raises(
        ValueError, match=rf"dataset\{suffix}' is damaged.*row {row} of column 'target' is .*a class in"
    ):
        data.load("higgs", root=tmp_path, samples=ROWS)


@pytest.mark.parametrize(
    ("one", "none"), [(1, None), (1.0, None), ("1", None), (True, None), (1.0, np.nan), (1.0, np.inf), ("s", "nan")]
)
def test_a_parquet_table_without_a_class_in_every_row_is_refused(tmp_path, one, none):
    x, y = table()
    path = write(tmp_path / higgs.FOLDER, ".parquet", x, y)
    target = [one if label else none for label in y]
    pyarrow.parquet.write_table(pa.table({**dict(zip(NAMES, x.T, strict=True)), "target": target}), path)
    with pytest.raises(ValueError, match=f"row {target.index(none)} of column 'target' is {none}; expected a class in"):
        data.load("higgs", root=tmp_path, samples=ROWS)


def test_a_parquet_table_without_a_number_is_refused(tmp_path):
    x, y = table()
    path = write(tmp_path / higgs.FOLDER, ".parquet", x, y)
    columns = {**dict(zip(NAMES, x.T, strict=True)), "m_2": [1, 2, None, *range(ROWS - 3)], "target": y}
    pyarrow.parquet.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match="row 2 of column 'm_2' is nan; expected finite numbers"):
        data.load("higgs", root=tmp_path, samples=ROWS)


def test_headers_of_arff(tmp_path):
    x, y = table()
    text = arff(x, y)
    for old, new in (
        ("@RELATION higgs", "@relation\thiggs"),
        ("@ATTRIBUTE m_0 REAL", "@ATTRIBUTE\tm_0\tNUMERIC"),
        ("@ATTRIBUTE m_1 REAL", "  @attribute   'm 1'\treal"),
        ("@ATTRIBUTE m_2 REAL", "@Attribute \"the 'm' 2\" REAL"),
        ("@ATTRIBUTE m_3 REAL", r"@ATTRIBUTE 'it\'s m 3' REAL"),
        ("@ATTRIBUTE target {0,1}", "@ATTRIBUTE target{0,1}"),
        ("@DATA", "@data\t"),
    ):
        assert old in text
        text = text.replace(old, new)
    names, start = higgs._arff_header(text.encode(), tmp_path)
    assert names == ["m_0", "m 1", "the 'm' 2", "it's m 3", *NAMES[4:23], "m 23", "target"]
    assert text[start:] == rows(x, y)
    path = write(tmp_path / higgs.FOLDER, ".arff", x, y)
    path.write_text(text)
    np.testing.assert_array_equal(data.load("higgs", root=tmp_path, samples=ROWS).y, y)
    for broken in ("@ATTRIBUTE", "@ATTRIBUTE m_5", "@ATTRIBUTE 'm_5 REAL"):
        path.write_text(text.replace("@ATTRIBUTE m_5 REAL", broken))
        with pytest.raises(ValueError, match=f"is damaged or another one: the header has .{broken}"):
            data.load("higgs", root=tmp_path, samples=ROWS)


def test_a_truncated_parquet_file(tmp_path):
    path = write(tmp_path / higgs.FOLDER, ".parquet", *table())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"dataset\.parquet' is damaged"):
        data.load("higgs", root=tmp_path, samples=ROWS)


def test_the_uci_set_without_its_tags(tmp_path):
    names = [*NAMES[:10], *higgs.TAGS, *NAMES[10:]]
    features = {"class_label": np.float32, **dict.fromkeys(names, np.float64)}
    x, y = table()

    def example(i: int) -> dict:
        return {"class_label": y[i], **dict(zip(NAMES, x[i], strict=True)), **dict.fromkeys(higgs.TAGS, 9.0)}

    writers.prepared(tmp_path, "higgs", features, {"train": [example(i) for i in range(ROWS)]})
    found = data.load("higgs_uci", root=tmp_path, samples=40)
    assert found.x.shape == (40, 24)
    assert np.bincount(found.y).tolist() == [20, 20]
    original = {row.tobytes(): label for row, label in zip(x.astype(np.float32), y, strict=True)}
    order = [tfds.builder_from_directory(tmp_path / "higgs/3.0.2").info.features.keys()]
    columns = [NAMES.index(name) for name in order[0] if name in NAMES]
    inverse = np.argsort(columns)
    assert [original[row[inverse].tobytes()] for row in found.x] == found.y.tolist()
    with pytest.raises(ValueError, match="expected at least 40 of each"):
        data.load("higgs_uci", root=tmp_path, samples=80)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("class_label", np.nan, "an example of class nan; expected classes 0 and 1"),
        ("class_label", 0.5, "an example of class 0.5; expected classes 0 and 1"),
        ("m_3", np.nan, "of column 'm_3' is nan; expected finite numbers"),
    ],
)
def test_the_uci_set_with_values_missing_is_refused(tmp_path, name, value, message):
    x, y = table()
    names = [*NAMES, *higgs.TAGS]
    rows = [{"class_label": y[i], **dict(zip(NAMES, x[i], strict=True))} for i in range(ROWS)]
    examples = [{**row, **dict.fromkeys(higgs.TAGS, 9.0), name: value} for row in rows]
    writers.prepared(
        tmp_path, "higgs", {"class_label": np.float32, **dict.fromkeys(names, np.float64)}, {"train": examples}
    )
    with pytest.raises(ValueError, match=message):
        data.load("higgs_uci", root=tmp_path, samples=40)
