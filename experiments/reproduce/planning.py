"""The cells of a table as jobs of the queue."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from experiments.queue import Job, Training, training
from experiments.reproduce import growth_probes, mask_probes, probes, theory
from experiments.reproduce.cells import Cell, config_of, folder_of, stands_for
from experiments.training import configuration, inputs, sealed
from experiments.training.recording import to_json
from experiments.training.workdir import look

PROBES = {**probes.PROBES, **mask_probes.PROBES, **theory.PROBES, **growth_probes.PROBES}


def plan(cells: Sequence[Cell], workdir: Path, *, seeds: int | tuple[int, ...], proxy: bool) -> list[Job]:
    """A job for each cell.

    Raises:
      ValueError: of a config, or of data that are not there.
    """
    jobs, checked, read = [], set(), {}
    for cell in cells:
        config = config_of(cell, seeds=seeds, proxy=proxy)
        if cell.config not in checked:  # once for each data set: what is missing is found before anything runs
            checked.add(cell.config)
            configuration.plan(config)
        folder = workdir / "cells" / folder_of(cell, config)
        if (folder / "summary.json").exists():  # it is not run again: is it what a run now would give?
            source = config.dataset, config.data_root, config.protocol
            planned = configuration.plan(config)
            if source not in read:  # the data take longest
                read[source] = inputs.fingerprints(planned.data, planned.seeds, {})
            look(folder, configuration.identity(config), read[source] | inputs.of_rules(planned.rules))
        title = stands_for(f"{config.model.name} on {config.dataset}", cell.title) if proxy else cell.title
        jobs.append(_job(cell, title, config, folder))
    return jobs


def _job(cell: Cell, title: str, config: ConfigDict, folder: Path) -> Job:
    def probe() -> str:
        start = time.perf_counter()
        found = PROBES[str(cell.probe)](config)
        found["seconds"] = round(time.perf_counter() - start, 3)
        folder.mkdir(parents=True, exist_ok=True)
        sealed.write(folder / "config.json", configuration.identity(config))
        sealed.write(folder / "probe.json", json.loads(to_json(found)))
        return ""

    if cell.probe is None:
        return training(repr(title), title, folder, Training(config))
    return Job(repr(title), title, folder, probe, "probe.json")
