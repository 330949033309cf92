"""Edge lists: the text files of SNAP, of the Network Repository and of Matrix Market, plain, gzipped or in a zip file.

One edge a line: source, target, then nothing, a time or a weight, or a weight and a time, separated by blanks, tabs,
commas or semicolons. Lines that begin with % or # are comments.
"""

import contextlib
import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from experiments.data import files

SUFFIXES = (".edges", ".txt", ".csv", ".tsv", ".mtx")
CHUNK = 1 << 24  # bytes of text that are parsed at once
EARLIEST = 1e6  # a third column of larger numbers alone holds seconds since 1970
LARGEST_ID = 2**53  # beyond, a float64 is no integer of its own
_BLANKS = bytes.maketrans(b",;\t", b"   ")


class Edges(NamedTuple):
    """The edges of a graph from source to target, the oldest first where they have times."""

    source: np.ndarray  # int32[m], in [0, nodes)
    target: np.ndarray  # int32[m]
    time: np.ndarray | None  # float64[m] in [0, 1], ascending
    nodes: int


def read(path: Path) -> Edges:
    """The edges of a file, repetitions and self-loops included, the nodes numbered anew without gaps.

    Raises:
      ValueError: the file is missing, damaged or empty, or a line is no edge of integers >= 0.
    """
    with files.reading(path, "an edge list"), _open(path) as (file, suffix):
        blocks = list(_blocks(file, path, suffix == ".mtx"))
    if not blocks:
        raise ValueError(f"file {str(path)!r} has no edges; expected one a line.")
    rows = np.concatenate(blocks)
    del blocks
    ids, numbered = np.unique(rows[:, :2].astype(np.int64), return_inverse=True)
    pairs = numbered.reshape(-1, 2).astype(np.int32)
    time = rows[:, 3] if rows.shape[1] == 4 else rows[:, 2] if rows.shape[1] == 3 else None
    if rows.shape[1] == 3 and (rows[:, 2] <= EARLIEST).any():
        time = None  # a weight
    if time is not None:
        order = np.argsort(time, kind="stable")
        time, pairs = time[order], pairs[order]
        time = (time - time[0]) / max(time[-1] - time[0], 1e-300)
    return Edges(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]), time, len(ids))


def describe(edges: Edges) -> str:
    """Nodes, edges, how many of those repeat an earlier one, and self-loops, in a line."""
    keys = edges.source.astype(np.int64) * edges.nodes + edges.target
    keys.sort()
    repeated = int((keys[1:] == keys[:-1]).sum())
    loops = int((edges.source == edges.target).sum())
    return f"{edges.nodes:,} nodes, {len(edges.source):,} edges ({repeated:,} repeated, {loops:,} self-loops)"


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, str]]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            yield file, path.with_suffix("").suffix
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(SUFFIXES) and "readme" not in name.lower()]
            if len(members) != 1:
                raise ValueError(f"file {str(path)!r} holds {archive.namelist()}; expected one edge list {SUFFIXES}.")
            with archive.open(members[0]) as file:
                yield file, Path(members[0]).suffix
    else:
        with path.open("rb") as file:
            yield file, path.suffix


def _blocks(file: IO[bytes], path: Path, matrix_market: bool) -> Iterator[np.ndarray]:
    """The numbers of the lines, float64[lines, columns], a part of the file at a time."""
    before, columns, count = 0, 0, 0
    announced: tuple[int, ...] | None = None  # rows, columns and entries
    while lines := file.readlines(CHUNK):
        kept = [
            (n, line) for n, line in enumerate(lines, before + 1) if line.strip() and line.lstrip()[:1] not in b"%#"
        ]
        before += len(lines)
        if matrix_market and announced is None and kept:
            size = kept.pop(0)[1].split()
            if len(size) != 3 or not all(part.isdigit() for part in size):
                raise files.damaged(path, f"the first line is {b' '.join(size)!r}", "rows, columns and entries")
            announced = tuple(int(part) for part in size)
        if not kept:
            continue
        columns = columns or len(kept[0][1].translate(_BLANKS).split())
        try:
            text = [line.decode("ascii").translate({44: 32, 59: 32, 9: 32}) for _, line in kept]
            rows = np.loadtxt(text, np.float64, comments=None, ndmin=2)
        except ValueError:
            rows = np.zeros((0, 0))
        if rows.shape[1] != columns or not _are_edges(rows, columns):
            raise _first_bad(path, kept, columns)
        if announced is not None:
            _check_places(rows[:, :2], announced[:2], kept, path)
        count += len(rows)
        yield rows
    if announced is not None and announced[2] != count:
        raise files.damaged(path, f"it has {count:,} entries", f"{announced[2]:,}, as its first line says")


def _check_places(ids: np.ndarray, most: tuple[int, ...], lines: list[tuple[int, bytes]], path: Path) -> None:
    """Refuses an entry outside the matrix, whose rows and columns are counted from 1."""
    outside = np.flatnonzero(((ids < 1) | (ids > most)).any(axis=1))
    if outside.size:
        number, line = lines[outside[0]]
        expected = f"a row in [1, {most[0]}] and a column in [1, {most[1]}], as the first line says"
        raise files.damaged(path, f"line {number} is {line.strip()[:60]!r}", expected)


def _are_edges(rows: np.ndarray, columns: int) -> bool:
    """Whether all rows begin with two nodes, and what follows is finite."""
    ids = rows[:, :2]
    if columns not in (2, 3, 4) or not np.isfinite(rows).all():
        return False
    return bool(((ids >= 0) & (ids < LARGEST_ID) & (np.floor(ids) == ids)).all())


def _first_bad(path: Path, lines: list[tuple[int, bytes]], columns: int) -> ValueError:
    """What to say about the first line that is no edge."""
    for number, line in lines:
        fields = line.translate(_BLANKS).split()
        try:
            values = np.array([float(field) for field in fields])
        except ValueError:
            values = np.zeros(0)
        if len(values) != columns or not _are_edges(values[None], columns):
            return files.damaged(
                path,
                f"line {number} is {line.strip()[:60]!r}",
                "two integers >= 0, and after them as many finite numbers as in the lines before (at most two)",
            )
    return files.damaged(path, f"lines {lines[0][0]} to {lines[-1][0]} cannot be read", "edges")
