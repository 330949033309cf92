"""Reads what a run has left behind, and checks that it is what the run has written."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.training import sealed
from experiments.training.sealed import UnreadableError

__all__ = ["FinishedRun", "UnreadableError", "check_files", "floats", "read", "read_records"]


class FinishedRun(NamedTuple):
    """The files of a finished run, as they are."""

    summary: dict[str, Any]
    config: dict[str, Any]
    records: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind: train, eval, mask_update."""
        return [r for r in self.records if r["kind"] == kind]


def read(folder: Path) -> FinishedRun:
    """The finished run in a folder.

    Raises:
      UnreadableError: a file is missing, damaged, or of another format or run.
    """
    summary, config = sealed.read(folder / "summary.json"), sealed.read(folder / "config.json")
    check_files(folder, summary)
    return FinishedRun(summary, config, read_records(folder / "metrics.jsonl"))


def check_files(folder: Path, summary: dict[str, Any]) -> None:
    """Checks that the files beside a summary are those that it was written with.

    Raises:
      UnreadableError: one is missing or another one.
    """
    for name, expected in summary.get("files", {}).items():
        if sealed.file_digest(folder / name) != expected:
            raise UnreadableError(
                f"{folder / name} is damaged or of another run; restore it, or remove {folder} to train again."
            )


def read_records(path: Path) -> list[dict[str, Any]]:
    """A file of a JSON object a line.

    Raises:
      UnreadableError: it is missing, or a line is no JSON.
    """
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}.") from error
    if not all(isinstance(record, dict) for record in records):
        raise UnreadableError(f"{path} has a line that is no JSON object.")
    return records


def floats(values: Any) -> np.ndarray:
    """float64, null as NaN."""
    return np.asarray(np.asarray(values, object), np.float64)
