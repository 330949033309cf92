"""Runs the cells of a table one by one; what is finished is not run again."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments import train
from experiments.reproduce import probes
from experiments.reproduce.cells import Cell, config_of, folder_of
from experiments.reproduce.reading import Measured, read
from experiments.training import configuration
from experiments.training.recording import to_json, write_atomically


class Planned(NamedTuple):
    """A cell, what it trains and where."""

    cell: Cell
    config: ConfigDict
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether its numbers are there."""
        return (self.folder / ("probe.json" if self.cell.probe else "summary.json")).exists()


def plan(cells: Sequence[Cell], workdir: Path, *, seeds: int, proxy: bool) -> list[Planned]:
    """The cells with their configs and folders.

    Raises:
      ValueError: of a config, or of data that are not there.
    """
    planned, checked = [], set()
    for cell in cells:
        config = config_of(cell, seeds=seeds, proxy=proxy)
        if cell.config not in checked:  # once for each data set: what is missing is found before anything runs
            checked.add(cell.config)
            configuration.plan(config)
        planned.append(Planned(cell, config, workdir / "cells" / folder_of(cell, config)))
    return planned


def run(planned: Sequence[Planned]) -> tuple[list[Measured], dict[str, str]]:
    """Runs what is not finished; returns the numbers of the cells, and why others have none, by title.

    Raises:
      ValueError: of a cell's config or folder.
    """
    waiting = list({p.folder: p for p in planned if not p.finished}.values())
    total = len({p.folder for p in planned})
    done = total - len(waiting)
    print(f"{total} cells" + (f", {done} of them finished before" if done else ""), flush=True)
    width = max(len(p.cell.title) for p in planned)
    start, failures = time.perf_counter(), {}
    for i, p in enumerate(waiting, 1):
        print(f"[{done + i:>{len(str(total))}}/{total}] {p.cell.title:<{width}} ", end="", flush=True)
        try:
            _run(p)
        except train.DivergedError as error:
            failures[p.cell.title] = str(error)
            print(f"diverged: {error}", flush=True)
            continue
        except (ValueError, OSError) as error:
            print(flush=True)
            raise ValueError(f"cell {p.cell.title!r}: {error}") from error
        gone = time.perf_counter() - start
        rest = f", about {clock(gone / i * (len(waiting) - i))} to go" if i < len(waiting) else ""
        print(f"{clock(gone)} gone{rest}", flush=True)
    return [read(p.cell, p.folder) for p in planned if p.finished], failures


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _run(planned: Planned) -> None:
    folder, config = planned.folder, planned.config
    if planned.cell.probe is None:
        train.train_and_evaluate(config, folder, quiet=True)
        return
    start = time.perf_counter()
    found = probes.PROBES[planned.cell.probe](config)
    found["seconds"] = round(time.perf_counter() - start, 3)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(configuration.identity(config), indent=1).encode())
    write_atomically(folder / "probe.json", to_json(found, indent=1).encode())
