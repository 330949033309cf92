import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.data import edges

SNAP = "7 3 1100000300\n3 7 1100000100\n7 3 1100000200\n9 9 1100000500\n"
NETWORK_REPOSITORY = (
    "% asym positive\n% 4 3 3\n7,3,1,1100000300\n3,7,1,1100000100\n\n7,3,2,1100000200\n9,9,1,1100000500\n"
)


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("graph.edges", text)
            file.writestr("readme.html", "about")
            file.writestr("readme.txt", "about")
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.txt", SNAP),
        ("g.txt.gz", SNAP),
        ("g.edges", NETWORK_REPOSITORY),
        ("g.zip", NETWORK_REPOSITORY),
        ("g.tsv", "# comment\r\n" + SNAP.replace(" ", "\t").replace("\n", "\r\n")),
        ("g.csv", "  # comment\n" + SNAP.replace(" ", "; ")),
        ("g.mtx", "%%MatrixMarket matrix coordinate integer general\n%\n9 9 4\n" + SNAP),
    ],
)
def test_formats(tmp_path, name, text):
    found = edges.read(write(tmp_path / name, text))
    assert found.nodes == 3
    assert (found.source.tolist(), found.target.tolist()) == ([0, 1, 1, 2], [1, 0, 0, 2])
    np.testing.assert_allclose(found.time, [0, 0.25, 0.5, 1])
    assert found.source.dtype == found.target.dtype == np.int32
    assert edges.describe(found) == "3 nodes, 4 edges (1 repeated, 1 self-loops)"


def test_no_times(tmp_path):
    for text in ("5 6\n6 5\n", "5 6 0.25\n6 5 1.5\n"):  # no third column, or weights
        found = edges.read(write(tmp_path / "g.txt", text))
        assert found.time is None
        assert (found.source.tolist(), found.target.tolist()) == ([0, 1], [1, 0])


def test_parts_of_a_file_are_put_together(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pairs, times = rng.integers(0, 2**40, (500, 2)), np.sort(rng.integers(10**9, 2 * 10**9, 500))
    lines = [f"{a} {b} {t}\n" for (a, b), t in zip(pairs, times, strict=True)]
    path = write(tmp_path / "g.txt", "".join(lines))
    monkeypatch.setattr(edges, "CHUNK", 200)
    found = edges.read(path)
    ids = np.unique(pairs)
    np.testing.assert_array_equal(ids[np.stack([found.source, found.target], axis=1)], pairs)
    path.write_text("".join(lines[:400]) + "1 2 x\n" + "".join(lines[400:]))
    with pytest.raises(ValueError, match="line 401 is b'1 2 x'"):
        edges.read(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1 2\n3 -4\n", "line 2 is b'3 -4'"),
        ("# c\n1 2\n\n3 4.5\n", "line 4 is b'3 4.5'"),
        ("1 2\nalice bob\n", "line 2 is b'alice bob'"),
        ("1 2\n3 4 5\n", "line 2 is b'3 4 5'"),
        ("1 2 7\n3 4\n", "line 2 is b'3 4'"),
        ("1 2\n3 nan\n", "line 2 is b'3 nan'"),
        ("1 2\n3 1e300\n", "line 2 is b'3 1e300'"),
        ("1 2 1e9\n3 4 inf\n", "line 2 is b'3 4 inf'"),
        ("1 2 1e9\n3 4 -inf\n", "line 2 is b'3 4 -inf'"),
        ("1 2 0.5 1e9\n3 4 nan 2e9\n", "line 2 is b'3 4 nan 2e9'"),
        ("1 2 1e9\n3 4 nan\n", "line 2 is b'3 4 nan'"),
        ("1\n2\n", "line 1 is b'1'"),
        ("1 2 3 4 5\n", "line 1 is b'1 2 3 4 5'"),
        ("1 2\n3 \xe9\n", "line 2 is"),
        ("", "has no edges"),
        ("# only comments\n", "has no edges"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, line):
    path = write(tmp_path / "g.txt", text)
    with pytest.raises(ValueError, match=line) as error:
        edges.read(path)
    assert "g.txt" in str(error.value)


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path / "g.txt.gz", SNAP * 1000)
    whole = path.read_bytes()
    for broken in (whole[:-20], b"plain text", whole[:40] + b"\0\0\0\0" + whole[44:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"g\.txt\.gz' is damaged"):
            edges.read(path)
    path = write(tmp_path / "g.zip", SNAP)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"g\.zip' is damaged"):
        edges.read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.edges", SNAP)
        file.writestr("b.edges", SNAP)
    with pytest.raises(ValueError, match=r"\['a\.edges', 'b\.edges'\]; expected one edge list"):
        edges.read(path)
    with pytest.raises(ValueError, match=r"none\.txt' is not there"):
        edges.read(tmp_path / "none.txt")
    path = write(tmp_path / "g.mtx", "%%MatrixMarket\n9 9 5\n" + SNAP)
    with pytest.raises(ValueError, match="4 entries; expected 5"):
        edges.read(path)
    path.write_text("%%MatrixMarket\n9 9\n" + SNAP)
    with pytest.raises(ValueError, match="expected rows, columns and entries"):
        edges.read(path)
    for size in ("x 9 4", "9 -9 4"):
        path.write_text(f"%%MatrixMarket\n{size}\n" + SNAP)
        with pytest.raises(ValueError, match="expected rows, columns and entries"):
            edges.read(path)


@pytest.mark.parametrize(
    ("size", "entry", "line"), [("8 9 5", "1 1", 6), ("9 8 5", "1 1", 6), ("9 9 5", "0 1", 7), ("9 9 5", "1 10", 7)]
)
def test_entries_outside_a_matrix_are_named(tmp_path, monkeypatch, size, entry, line):
    path = write(tmp_path / "g.mtx", f"%%MatrixMarket\n{size}\n{SNAP}{entry} 1100000600\n")
    rows, columns, _ = size.split()
    for chunk in (edges.CHUNK, 20):
        monkeypatch.setattr(edges, "CHUNK", chunk)
        message = (
            rf"g\.mtx' is damaged.*line {line} is .*; expected a row in \[1, {rows}\] and a column in \[1, {columns}\]"
        )
        with pytest.raises(ValueError, match=message):
            edges.read(path)


def test_a_file_that_cannot_be_read_is_not_said_to_be_damaged(tmp_path):
    (tmp_path / "g.txt").mkdir()
    with pytest.raises(
        ValueError, match=r"g\.txt' cannot be read: IsADirectoryError: Is a directory; expected an edge"
    ):
        edges.read(tmp_path / "g.txt")


@pytest.mark.parametrize(
    ("place", "value", "why"), [(6, 1, "is encrypted"), (8, 97, "compression"), (8, 99, "compression")]
)
def test_archives_that_cannot_be_unpacked_are_named(place, value, why, tmp_path):
    path = write(tmp_path / "g.zip", SNAP)
    content = bytearray(path.read_bytes())
    for start, shift in ((content.index(b"PK\3\4"), 0), (content.index(b"PK\1\2"), 2)):
        content[start + shift + place] = value  # of the flags, or the method of compression
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"g\.zip' cannot be unpacked: .*{why}.*pack it anew without a password"):
        edges.read(path)
