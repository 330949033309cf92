"""Reads what a run has left behind."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class UnreadableError(ValueError):
    """A file of a run is not what training writes; the message names it."""


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
      UnreadableError: a file is missing, cut short or of another format.
    """
    summary, config = read_json(folder / "summary.json"), read_json(folder / "config.json")
    return FinishedRun(summary, config, read_records(folder / "metrics.jsonl"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UnreadableError: there is none.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UnreadableError(f"{path} holds no JSON object.")
    return content


def read_records(path: Path) -> list[dict[str, Any]]:
    """A file of a JSON object a line.

    Raises:
      UnreadableError: it is missing, or a line is no JSON.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}.") from error


def floats(values: Any) -> np.ndarray:
    """float64, null as NaN."""
    return np.asarray(np.asarray(values, object), np.float64)
