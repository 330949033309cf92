"""What a recipe is: what a row of a table may have of its own, and why; :mod:`experiments.reproduce.baselines` has all.

A row takes over from its experiment what all rows share: network, data, batch, optimiser, epochs, sparsity, densities,
structure. Of the hyper-parameters of its method it has those given here, those that it ``takes`` from the experiment
because they mean the same to both, and else the defaults of the catalogue, never what another method left there. So
schedules are shares of the run and periods are samples between updates, whatever the steps and the batch.
:mod:`experiments.reproduce.fairness` prints and checks what differs between the rows of a table.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.training import configuration, rules

SHARED = ("sparsity", "distribution", "maskable", "structure")  # mean the same to every method
# The updates of DST-EE, which are those of ITOP and GraNet's code.
UPDATES = (
    *("update_period", "start_step", "end_step", "end_percent"),
    *("drop_fraction", "drop_schedule", "rounding", "update_order"),
)


class Given(NamedTuple):
    """A value that a paper or its code gives to its method."""

    value: Any  # of the field, or a function of the config
    why: str


class Period(NamedTuple):
    """The steps between mask updates, for a batch; a larger batch has fewer, for the same samples between updates."""

    steps: int
    batch: int
    why: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a baseline has of its own."""

    method: str
    source: str
    given: Mapping[str, Given] = dataclasses.field(default_factory=dict)
    period: Period | None = None
    takes: tuple[str, ...] = ()  # of the experiment, besides SHARED
    trainings: int = 1  # of the length of the experiment

    def why(self, field: str) -> str | None:
        """Why a field may differ from that of the experiment; None where nothing says so."""
        if field in ("steps", "epochs") and self.trainings > 1:
            return self.given["optimizer.trainings"].why
        if field == "update_period" and self.period is not None:
            return self.period.why
        given = self.given.get(field)
        return None if given is None else given.why


def apply(config: ConfigDict, recipe: Recipe, full: ConfigDict) -> None:
    """Turns the config of an experiment into that of a baseline.

    Args:
      config: of the experiment, or of its proxy; changed in place.
      recipe: of the baseline.
      full: of the experiment at full size. A proxy has its mask updates as much closer together as its experiment.
    """
    own = rules.defaults(recipe.method)
    densities = config.distribution or rules.defaults(config.method).get("distribution")
    clock = (config.update_period or 1) / (full.update_period or 1)
    with config.unlocked():
        configuration.change_method(config, recipe.method)
        for field in (*own, *configuration.STANDS_FOR):
            if field in config and field not in (*SHARED, *recipe.takes):
                config[field] = None
        if config.distribution is None and "distribution" in own:
            config.distribution = densities
        if recipe.period is not None:
            steps = recipe.period.steps * recipe.period.batch / full.batch_size
            config.update_period = max(1, round(clock * steps))
        for field in ("steps", "epochs"):
            if config[field] is not None:
                config[field] *= recipe.trainings
        for field, (value, _) in recipe.given.items():
            section, _, leaf = field.rpartition(".")
            (config[section] if section else config)[leaf] = value(config) if callable(value) else value
