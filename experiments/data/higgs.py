"""Higgs: 24 measured and derived numbers of a collision, and whether it made a Higgs boson.

The set of the pruning criteria's study is OpenML's number 44129: 940,160 rows, both classes equally many (Grinsztajn et
al., 2022). OpenML serves it as ARFF and as parquet, and mirrors as CSV; each is read. The set of the UCI repository
(Baldi et al., 2014), which TFDS has, is a larger relative with four more columns; those are the only ones that are not
continuous, so that OpenML's 24 are most likely the others (inferred, not checked against the file).
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from sklearn.model_selection import train_test_split

from dstjax.checks import check_choice
from experiments.data import files, prepared
from experiments.data.arrays import Data, Split

ROWS, FEATURES = 940_160, 24
HEAD = 2**16  # bytes that are looked at before all is unpacked
FOLDER = "openml-44129"
SUFFIXES = (".parquet", ".pq", ".arff", ".arff.gz", ".csv", ".csv.gz")
ACCEPTED = tuple(f"{FOLDER}/NAME{suffix}" for suffix in SUFFIXES)
UCI_ACCEPTED = ("higgs/VERSION (TFDS, array_record)",)
MISSING = {*pyarrow.csv.ConvertOptions().null_values, "?"}  # what CSV and ARFF write where there is no value
# An ARFF name ends at a blank or at the brace of its values, or stands in quotes, with a backslash before inner ones.
ATTRIBUTE = re.compile(
    r"""@attribute\s+(?:'((?:\\.|[^'\\])+)'|"((?:\\.|[^"\\])+)"|([^\s{'"][^\s{]*)(?![^\s{]))\s*\S""", re.IGNORECASE
)
TAGS = tuple(f"jet_{i}_b-tag" for i in range(1, 5))
PROTOCOLS = {"paper": "70 / 15 / 15 %, stratified, seed 42 whatever the run's seed; no scaling"}


def load(root: Path, protocol: str, samples: int = ROWS) -> Data:
    """Higgs from OpenML's file.

    Args:
      root: the folder of data sets.
      protocol: 'paper': the split of the pruning criteria's released code, which does not scale the features.
      samples: rows, where the file is a part of the data set.

    Raises:
      ValueError: a file that is missing, damaged or of another data set.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    folder = root / FOLDER
    found = sorted(p for p in folder.glob("*") if p.name.endswith(SUFFIXES))
    if not found:
        raise files.missing("higgs", root, ACCEPTED)
    if len(found) > 1:
        raise ValueError(f"{str(folder)!r} holds {', '.join(p.name for p in found)}; expected one of them alone.")
    x, y = read(found[0])
    files.check_counts(["rows"], [len(y)], [samples], found[0])
    return _data(x, y, f"Higgs (OpenML 44129, {found[0]})")


def load_uci(root: Path, protocol: str, samples: int = ROWS) -> Data:
    """A set like OpenML's from the UCI set: without the b-tags, and as many rows of each class, drawn with seed 0.

    Not the same sample, so figures differ slightly from those of ``higgs``.

    Raises:
      ValueError: see :func:`load`; or too few rows of a class.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    folder = prepared.find(root, "higgs")
    if folder is None:
        raise files.missing("higgs_uci", root, UCI_ACCEPTED)
    examples = prepared.source(folder, "train", ("class_label", *TAGS))
    columns = [name for name in examples.dataset_info.features if name not in ("class_label", *TAGS)]  # type: ignore[attr-defined]
    if len(columns) != FEATURES:
        raise ValueError(f"{str(folder)!r} has {len(columns)} features beside the b-tags; expected {FEATURES}.")
    each = samples // 2
    x, y = np.empty((2 * each, FEATURES), np.float32), np.empty(2 * each, np.int32)
    count = [0, 0]
    order = np.random.default_rng(0).permutation(len(examples))
    for i in range(0, len(order), prepared.CHUNK):
        for example in prepared.read(examples, order[i : i + prepared.CHUNK].tolist(), folder):
            if example["class_label"] not in (0, 1):
                raise files.damaged(folder, f"an example of class {example['class_label']}", "classes 0 and 1")
            label = int(example["class_label"])
            if count[label] < each:
                row = sum(count)
                x[row], y[row] = [example[name] for name in columns], label
                count[label] += 1
        if sum(count) == 2 * each:
            _check_finite(x, columns, folder)
            return _data(x, y, f"Higgs (UCI, {folder}, b-tags left out)")
    raise ValueError(f"{str(folder)!r} has {count} rows of the classes 0 and 1; expected at least {each:,} of each.")


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32[n, 24], and target, int32[n], of a parquet, ARFF or CSV file.

    The target is the column 'target', else the last one of two values.

    Raises:
      ValueError: the file is missing, damaged, empty, or has other columns.
    """
    expected = f"a table of {FEATURES} numbers and a target of two values"
    try:
        with files.reading(path, expected):
            table = _table(path)
    except pa.ArrowException as error:
        raise files.damaged(path, f"{type(error).__name__}: {error}", expected) from error
    if not table.num_rows:
        raise ValueError(f"{str(path)!r} has no rows; expected {expected}.")
    target = _target(table, path)
    others = [name for name in table.column_names if name != target]
    if len(others) != FEATURES:
        raise ValueError(f"{str(path)!r} has {len(others)} features; expected {FEATURES} beside {target!r}.")
    x = np.empty((table.num_rows, FEATURES), np.float32)
    for i, name in enumerate(others):
        try:
            x[:, i] = table[name].cast(pa.float64()).to_numpy()
        except pa.ArrowException as error:
            raise files.damaged(path, f"column {name!r}: {error}", "numbers") from error
    _check_finite(x, others, path)
    return x, _classes(table[target].to_pylist(), target, path)


def _check_finite(x: np.ndarray, columns: list[str], path: Path) -> None:
    """Refuses what is missing, which reads as NaN, or infinite."""
    bad = np.argwhere(~np.isfinite(x))
    if bad.size:
        row, column = bad[0]
        raise files.damaged(path, f"row {row} of column {columns[column]!r} is {x[row, column]}", "finite numbers")


def _classes(values: list[Any], target: str, path: Path) -> np.ndarray:
    """The classes of the two values of a target, in alphabetical order; int32[n]."""
    absent = {value for value in {*values} if _is_missing(value)}
    if absent:
        row = next(i for i, value in enumerate(values) if value in absent)
        raise files.damaged(path, f"row {row} of column {target!r} is {values[row]}", "a class in every row")
    text = np.array([str(value) for value in values])
    classes = np.unique(text).tolist()
    if len(classes) != 2:
        raise ValueError(f"{str(path)!r}: column {target!r} has the values {classes}; expected two classes.")
    return (text == classes[1]).astype(np.int32)


def _is_missing(value: Any) -> bool:
    """Whether a value of the target is none, or no finite number."""
    text = str(value).strip()
    if value is None or text in MISSING:
        return True
    try:
        return not math.isfinite(float(text))
    except ValueError:  # a class with a name
        return False


def _table(path: Path) -> Any:
    if path.name.endswith((".parquet", ".pq")):
        return pyarrow.parquet.read_table(path)
    head = files.unpacked(path, HEAD)
    if ".arff" in path.suffixes:
        _arff_header(head, path)
    elif b"," not in head.partition(b"\n")[0]:
        raise files.damaged(path, f"it begins with {head[:40]!r}", "the names of columns, with commas between them")
    data = files.unpacked(path)
    if ".arff" not in path.suffixes:
        return pyarrow.csv.read_csv(pa.BufferReader(data))
    names, start = _arff_header(data, path)
    options = pyarrow.csv.ReadOptions(column_names=names)
    return pyarrow.csv.read_csv(
        pa.BufferReader(memoryview(data)[start:]), options, pyarrow.csv.ParseOptions(ignore_empty_lines=True)
    )


def _arff_header(data: bytes, path: Path) -> tuple[list[str], int]:
    """The names of the attributes and where the rows begin; dense ARFF without a comment among the rows."""
    names, start = [], 0
    while start < len(data):
        stop = data.find(b"\n", start) + 1 or len(data)
        line, start = data[start:stop].decode("utf-8", "replace").strip(), stop
        keyword, attribute = next(iter(line.lower().split()), ""), ATTRIBUTE.match(line)
        if attribute:
            names.append(re.sub(r"\\(.)", r"\1", next(filter(None, attribute.groups()))))
        elif keyword == "@data":
            return names, start
        elif line and not line.startswith("%") and keyword != "@relation":
            raise files.damaged(path, f"the header has {line[:40]!r}", "an ARFF header")
    raise files.damaged(path, "there is no @DATA", "an ARFF file")


def _target(table: Any, path: Path) -> str:
    if "target" in table.column_names:
        return "target"
    for name in reversed(table.column_names):
        if not pa.types.is_floating(table[name].type) and len(table[name].unique()) == 2:
            return name
    raise ValueError(f"{str(path)!r} has no target; expected a column 'target', or one of two values that is no float.")


def _data(x: np.ndarray, y: np.ndarray, title: str) -> Data:
    if np.bincount(y, minlength=2).min() < 4:
        raise ValueError(f"{title}: too few rows of a class to split; expected at least 4 of each.")
    train, rest = train_test_split(np.arange(len(y), dtype=np.int32), test_size=0.3, stratify=y, random_state=42)
    validation, test = train_test_split(rest, test_size=0.5, stratify=y[rest], random_state=42)
    sizes = len(train), len(validation), len(test)
    split = Split(train, validation, test, np.zeros(FEATURES, np.float32))
    return Data(
        x=x,
        y=y,
        classes=2,
        sizes=sizes,
        provenance=f"{title}: {sizes[0]:,} training, {sizes[1]:,} validation, {sizes[2]:,} test samples",
        splits=lambda seed: split,
    )
