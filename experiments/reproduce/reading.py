"""What a finished cell measured."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.reproduce.cells import Cell
from experiments.training import finished, sealed
from experiments.training.finished import FinishedRun, UnreadableError, floats


class Metric(NamedTuple):
    """A number of a cell."""

    label: str
    digits: int
    higher_is_better: bool = True


METRICS = {
    "accuracy": Metric("test accuracy (%)", 2),
    "validation accuracy": Metric("validation accuracy (%)", 2),
    "loss": Metric("test loss", 3, higher_is_better=False),
    "training loss": Metric("training loss", 3, higher_is_better=False),
    "gap": Metric("validation loss minus training loss", 3, higher_is_better=False),
    "exploration": Metric("exploration rate R", 3),
    "survival": Metric("survival of grown weights", 3),
    "connections": Metric("active weights", 0, higher_is_better=False),
    "alpha": Metric("accuracy / connections", 9),
    "beta": Metric("loss x connections", 1, higher_is_better=False),
    "inference share": Metric("inference operations, share of dense", 3, higher_is_better=False),
    "training share": Metric("training operations, share of dense", 3, higher_is_better=False),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cell and its numbers."""

    cell: Cell
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]  # by metric, float64[seeds]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # by metric: places[n], values float64[n, seeds]
    setting: str  # what was run: network, data, steps
    seconds: float

    @property
    def trained(self) -> str:
        """Network and data, in words."""
        found = re.match(r".* on [^,]+", self.setting)
        return found[0] if found else self.setting


def metric_of(name: str) -> Metric:
    """The metric of a name; those of probes are named by what they are, shares with three digits."""
    return METRICS.get(name) or Metric(name, 3)


def read(cell: Cell, folder: Path) -> Measured:
    """The numbers of a finished cell.

    Raises:
      UnreadableError: a file is missing or not what training writes.
    """
    return _probed(cell, folder) if cell.probe else _trained(cell, folder)


def _probed(cell: Cell, folder: Path) -> Measured:
    found = sealed.read(folder / "probe.json")
    try:
        return Measured(
            cell,
            tuple(found["seeds"]),
            {name: np.asarray(v, np.float64) for name, v in found["values"].items()},
            {name: (np.asarray(x), floats(y)) for name, (x, y) in found["curves"].items()},
            found["setting"],
            found["seconds"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"{folder}/probe.json is not what a probe writes ({error!r}).") from error


def _trained(cell: Cell, folder: Path) -> Measured:
    run = finished.read(folder)
    try:
        return Measured(
            cell,
            tuple(run.summary["seeds"]),
            _values(cell, run),
            _curves(run),
            setting(run.config, run.summary["steps"]),
            run.summary["seconds"],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UnreadableError(f"{folder} does not hold a run of this version ({error!r}).") from error


def setting(config: dict[str, Any], steps: int) -> str:
    """One line: network, data, steps; of a proxy the sparsity too, which may be higher than that of the paper."""
    model = config["model"]
    sizes = "" if model["sizes"] is None else f" ({', '.join(str(s) for s in model['sizes'])})"
    sparse = f", {100 * config['sparsity']:g} % sparse" if config["proxy"] and config["sparsity"] else ""
    return f"{model['name']}{sizes} on {config['dataset']}, {steps:,} steps of batch {config['batch_size']}{sparse}"


def _values(cell: Cell, run: FinishedRun) -> dict[str, np.ndarray]:
    summary, last, updates = run.summary, run.of("train")[-1], run.of("mask_update")
    n, layers = len(summary["seeds"]), summary["layers"]
    connections = np.sum([x["active"] for x in layers], axis=0) if layers else np.full(n, summary["weights"])
    values = {
        "accuracy": 100 * floats(summary["test_accuracy"]),
        "validation accuracy": 100 * floats(summary["validation_accuracy"]),
        "loss": floats(summary["test_loss"]),
        "training loss": floats(last["loss"]),
        "gap": floats(summary["validation_loss"]) - floats(last["loss"]),
        "exploration": floats(summary["exploration_rate"]),
        "connections": floats(connections),
        "inference share": np.full(n, float(summary["cost"]["inference"])),
        "training share": np.full(n, cell.times * float(summary["cost"]["training_paper"])),
    }
    if updates:
        survival = floats([r["survival_rate"] for r in updates])
        known = np.isfinite(survival)
        if known.any(axis=0).all():
            values["survival"] = np.where(known, survival, 0.0).sum(axis=0) / known.sum(axis=0)
    values["alpha"] = values["accuracy"] / 100 / values["connections"]
    values["beta"] = values["loss"] * values["connections"]
    return values


def _curves(run: FinishedRun) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    updates, epochs = run.of("mask_update"), run.of("train")
    validation = [r for r in run.of("eval") if r["split"] == "validation"]
    found = {
        "exploration": [(r["step"], r["exploration_rate"]) for r in epochs],
        "survival": [(r["step"], r["survival_rate"]) for r in updates],
        "connections": [(r["step"], r["active_weights"]) for r in epochs],
        "training loss": [(r["step"], r["loss"]) for r in epochs],
        "validation accuracy": [(r["step"], (100 * floats(r["accuracy"])).tolist()) for r in validation],
    }
    return {n: (np.array([s for s, _ in c]), floats([v for _, v in c])) for n, c in found.items() if c}
