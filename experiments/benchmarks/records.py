"""The rows that benchmarks yield, and the files that hold them: one JSON object a line, the machine first."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.benchmarks.timing import Settings, Times, ratios, spread
from experiments.training.recording import write_atomically

Row = dict[str, Any]
KINDS = ("run", "time", "value", "skipped")


def timed(
    settings: Settings, benchmark: str, case: Row, times: Times, name: str, base: str | None = None, moved: float = 0
) -> Row:
    """How long a contender took.

    Args:
      settings: of the run.
      benchmark: its name.
      case: what was measured.
      times: of all contenders.
      name: which of them this row is about.
      base: the contender that its time is divided by, round by round.
      moved: bytes that must be read or written at least; at the bandwidth of the device they are the floor.
    """
    row: Row = {"kind": "time", "benchmark": benchmark, "case": {**case, "contender": name}}
    row["seconds"] = spread(times[name])
    if base is not None and base != name:
        row |= {"to": base, "ratio": spread(ratios(times, name, base))}
        row["ratio"]["of_least"] = min(times[name]) / min(times[base])
    if moved:
        row["floor_seconds"] = moved / settings.bandwidth
    quiet = {"elsewhere": times.elsewhere, "thrown_away": times.thrown_away}
    return row | quiet | {"load": load()}


def value(benchmark: str, case: Row, **values: Any) -> Row:
    """What was counted or derived."""
    return {"kind": "value", "benchmark": benchmark, "case": case, "values": values}


def skipped(benchmark: str, case: Row, why: str) -> Row:
    """What was not measured, and why."""
    return {"kind": "skipped", "benchmark": benchmark, "case": case, "why": why}


def load() -> float:
    """Processes that want to run, averaged over the last minute; the benchmark is one of them."""
    return round(os.getloadavg()[0], 2)


def write(path: Path, header: Row, rows: Iterable[Row]) -> None:
    lines = [json.dumps(row) for row in ({"kind": "run", **header}, *rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read(folder: Path) -> Iterator[Row]:
    """The rows of every file of a folder; those of one file follow its row of kind 'run'."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert row["kind"] in KINDS, f"{path}: kind {row['kind']!r}"
            yield row


def line(row: Row) -> str:
    """One row as a line for the terminal."""
    case = ", ".join(str(v) for v in row["case"].values())
    head = f"{row['benchmark']}: {case}:"
    if row["kind"] == "skipped":
        return f"{head} skipped, {row['why']}"
    if row["kind"] == "value":
        return head + " " + ", ".join(f"{k} {_short(v)}" for k, v in row["values"].items())
    text = f"{head} {duration(row['seconds']['median'])}"
    if "ratio" in row:
        r = row["ratio"]
        text += f", {r['median']:.3g}x {row['to']} ({r['q1']:.3g} to {r['q3']:.3g})"
    return text + (f", floor {duration(row['floor_seconds'])}" if "floor_seconds" in row else "")


def duration(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def _short(x: Any) -> str:
    if isinstance(x, bool):
        return "yes" if x else "no"
    return f"{x:.4g}" if isinstance(x, float) else f"{x:,}" if isinstance(x, int) else str(x)
