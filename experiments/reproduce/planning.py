"""The cells of a table as jobs of the queue."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from experiments.queue import Job
from experiments.reproduce import probes
from experiments.reproduce.cells import Cell, config_of, folder_of
from experiments.training import configuration, run, sealed
from experiments.training.recording import to_json


def plan(cells: Sequence[Cell], workdir: Path, *, seeds: int, proxy: bool) -> list[Job]:
    """A job for each cell.

    Raises:
      ValueError: of a config, or of data that are not there.
    """
    jobs, checked = [], set()
    for cell in cells:
        config = config_of(cell, seeds=seeds, proxy=proxy)
        if cell.config not in checked:  # once for each data set: what is missing is found before anything runs
            checked.add(cell.config)
            configuration.plan(config)
        jobs.append(_job(cell, config, workdir / "cells" / folder_of(cell, config)))
    return jobs


def _job(cell: Cell, config: ConfigDict, folder: Path) -> Job:
    def train() -> str:
        run.train_and_evaluate(config, folder, quiet=True)
        return ""

    def probe() -> str:
        start = time.perf_counter()
        found = probes.PROBES[str(cell.probe)](config)
        found["seconds"] = round(time.perf_counter() - start, 3)
        folder.mkdir(parents=True, exist_ok=True)
        sealed.write(folder / "config.json", configuration.identity(config))
        sealed.write(folder / "probe.json", json.loads(to_json(found)))
        return ""

    if cell.probe is None:
        return Job(repr(cell.title), cell.title, folder, train)
    return Job(repr(cell.title), cell.title, folder, probe, "probe.json")
