"""A cell: one setting of a table, run over all seeds."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.configs import tasks
from experiments.reproduce import baselines, recipes
from experiments.training import configuration

LENGTHS = ("steps", "epochs", "batch_size")  # of a cell, which its recipe may multiply


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
    recipe: str | None = (
        None  # of experiments.reproduce.baselines, for a row that is another method than the experiment's
    )

    @property
    def block(self) -> tuple[Any, ...]:
        """Cells of one block differ in nothing but what is compared."""
        return self.model, self.dataset, self.group, self.sparsity, self.x

    @property
    def length(self) -> float:
        """The length of training in that of the dense one, with all trainings of the recipe."""
        return self.times * (1 if self.recipe is None else baselines.get(self.recipe).trainings)

    @property
    def title(self) -> str:
        """For lists: what differs from other cells."""
        parts = [self.model, self.dataset, self.group, self.method, "" if self.x is None else f"{self.x:g}"]
        parts += [f"{100 * self.sparsity:g} %" if self.sparsity else "", f"{self.epochs} epochs" if self.epochs else ""]
        return ", ".join(p for p in parts if p)


def declared(cell: Cell) -> frozenset[str]:
    """The fields in which a cell is said to differ from its config: its changes, and what its recipe gives."""
    if cell.recipe is None:
        return frozenset(cell.changes)
    recipe = baselines.get(cell.recipe)
    lengths = ("steps", "epochs") if recipe.trainings > 1 else ()
    return frozenset({*cell.changes, *recipe.given, *lengths})


def stands_for(trained: str, title: str) -> str:
    """What a cell of a proxy is called: what was trained first, then what it stands for."""
    return f"{trained}, for {title}"


def config_of(cell: Cell, *, seeds: int | tuple[int, ...], proxy: bool) -> ConfigDict:
    """The config of a cell, locked.

    The recipe comes first, then the changes. A change of ``method`` leaves aside the hyper-parameters of the config
    that the new one does not have; what it has comes from the config, so it is for methods whose paper gives no recipe.

    Raises:
      ValueError: a field or a recipe that there is not.
    """
    module = importlib.import_module(f"experiments.configs.{cell.config}")
    config = module.get_config(proxy=proxy)
    with config.unlocked():
        if cell.recipe is not None:
            _change(config, cell, {n: v for n, v in cell.changes.items() if n in (*recipes.SHARED, *LENGTHS)})
            recipes.apply(config, baselines.get(cell.recipe), module.get_config())
        configuration.change_method(config, cell.changes.get("method", config.method))
        done = LENGTHS if cell.recipe is not None else ()
        _change(config, cell, {n: v for n, v in cell.changes.items() if n not in done})
        if proxy and config.get("sparsity") is not None and "sparsity" in cell.changes:
            config.sparsity = tasks.thinned(cell.config, config.sparsity)
        config.seeds = seeds
    return config.lock()


def _change(config: ConfigDict, cell: Cell, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        place = config[section] if section else config
        if field not in place:
            raise ValueError(f"cell {cell.title!r}: config {cell.config!r} has no field {name!r}; check its name.")
        place[field] = value


def folder_of(cell: Cell, config: ConfigDict) -> str:
    """The folder of a cell: the same for equal configs, whichever tables need them."""
    settled = {name: value for name, value in configuration.identity(config).items() if value is not None}
    identity = json.dumps([settled, cell.probe], sort_keys=True)
    mark = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return f"{cell.config}-{cell.probe or config.method}-{mark}"
