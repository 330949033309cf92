"""A cell: one setting of a table, run over all seeds."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.configs import tasks
from experiments.training import configuration


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting: a config, what is changed in it, and what it is called.

    Names are as the paper writes them, so that published numbers are found; a proxy carries the names of what it
    stands for.
    """

    config: str  # a file of experiments/configs, without its ending
    method: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ""
    dataset: str = ""
    sparsity: float | None = None
    epochs: str = ""
    group: str = ""  # what else sets blocks apart that are compared within: a growth rule, a batch size
    x: float | None = None  # place on the axis of the chart, where that is not the sparsity
    times: float = 1.0  # length of training, in that of the dense training which costs are shares of
    probe: str | None = None  # a function of experiments.reproduce.probes in place of a training run

    @property
    def block(self) -> tuple[Any, ...]:
        """Cells of one block differ in nothing but what is compared."""
        return self.model, self.dataset, self.group, self.sparsity, self.x

    @property
    def title(self) -> str:
        """For lists: what differs from other cells."""
        parts = [self.model, self.dataset, self.group, self.method, "" if self.x is None else f"{self.x:g}"]
        parts += [f"{100 * self.sparsity:g} %" if self.sparsity else "", f"{self.epochs} epochs" if self.epochs else ""]
        return ", ".join(p for p in parts if p)


def stands_for(trained: str, title: str) -> str:
    """What a cell of a proxy is called: what was trained first, then what it stands for."""
    return f"{trained}, for {title}"


def config_of(cell: Cell, *, seeds: int, proxy: bool) -> ConfigDict:
    """The config of a cell, locked.

    A change of ``method`` leaves aside the hyper-parameters of the config that the new one does not have.

    Raises:
      ValueError: a field that there is not.
    """
    config = importlib.import_module(f"experiments.configs.{cell.config}").get_config(proxy=proxy)
    with config.unlocked():
        configuration.change_method(config, cell.changes.get("method", config.method))
        for name, value in cell.changes.items():
            section, _, field = name.rpartition(".")
            place = config[section] if section else config
            if field not in place:
                raise ValueError(f"cell {cell.title!r}: config {cell.config!r} has no field {name!r}; check its name.")
            place[field] = value
        if proxy and config.get("sparsity") is not None and "sparsity" in cell.changes:
            config.sparsity = tasks.thinned(cell.config, config.sparsity)
        config.seeds = seeds
    return config.lock()


def folder_of(cell: Cell, config: ConfigDict) -> str:
    """The folder of a cell: the same for equal configs, whichever tables need them."""
    identity = json.dumps([configuration.identity(config), cell.probe], sort_keys=True)
    mark = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return f"{cell.config}-{cell.probe or config.method}-{mark}"
