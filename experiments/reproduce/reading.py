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
    smallest: float | None = None  # the smallest difference of interest; None: a twentieth

    @property
    def in_points(self) -> bool:
        """Whether it is a share in percent, so that differences are points."""
        return "%" in self.label


METRICS = {
    "accuracy": Metric("test accuracy (%)", 2, smallest=0.5),
    "validation accuracy": Metric("validation accuracy (%)", 2, smallest=0.5),
    "best validation accuracy": Metric("validation accuracy of the best epoch (%)", 2, smallest=0.5),
    "unsteadiness": Metric(
        "change of validation accuracy between evaluations (%)", 2, higher_is_better=False, smallest=0.1
    ),
    "rank": Metric("rank among the criteria", 2, higher_is_better=False, smallest=0.5),
    "lost by frequent updates": Metric("validation accuracy lost by frequent updates (%)", 2, smallest=0.5),
    "ignored": Metric("important weights that growth ignores (%)", 1, higher_is_better=False, smallest=5.0),
    "layers above 90 %": Metric("layers of which more than nine tenths are ignored (%)", 1, smallest=5.0),
    "chance": Metric("by chance", 3, smallest=0.02),
    "grown against the gradient": Metric("grown weights that greedy growth would not grow (%)", 1, smallest=5.0),
    "gradient norm": Metric("mean squared gradient", 6, higher_is_better=False),
    "mask error": Metric("mask error tau^2", 4, higher_is_better=False),
    "kept by all": Metric("weights that all criteria keep (%)", 1, smallest=2.0),
    "removed by all": Metric("weights that all criteria remove (%)", 1, smallest=2.0),
    "parameters": Metric("parameters", 0, higher_is_better=False),
    "fewer than SET": Metric("fewer connections than SET (%)", 1, smallest=1.0),
    "fewer than dense": Metric("fewer connections than dense (%)", 1, smallest=1.0),
    "loss": Metric("test loss", 3, higher_is_better=False, smallest=0.02),
    "training loss": Metric("training loss", 3, higher_is_better=False, smallest=0.02),
    "gap": Metric("validation loss minus training loss", 3, higher_is_better=False, smallest=0.02),
    "exploration": Metric("exploration rate R", 3, smallest=0.02),
    "survival": Metric("survival of grown weights", 3, smallest=0.02),
    "grown as all samples would": Metric(
        "grown weights that the gradient of all samples would grow (%)", 1, smallest=2.0
    ),
    "noise of one gradient": Metric("variance of one gradient, in that of all samples", 2, higher_is_better=False),
    "agreement": Metric("cosine of what ranks growth with the gradient of all samples", 3, smallest=0.02),
    "dead outputs": Metric("outputs without an active weight (%)", 1, higher_is_better=False, smallest=1.0),
    "growth into dead outputs": Metric("growth into such outputs (%)", 1, higher_is_better=False, smallest=1.0),
    "inflation": Metric("gradient of such outputs over that of others", 2, higher_is_better=False),
    "inputs reached": Metric("inputs over which growth is spread (%)", 1, smallest=2.0),
    "outputs reached": Metric("outputs over which growth is spread (%)", 1, smallest=2.0),
    "changed by balance": Metric("growth that balance would replace (%)", 1, smallest=5.0),
    "size of gradients": Metric("gradient of an output, 1 is the mean of its layer", 2),
    "growth": Metric("growth of an output, 1 is the mean of its layer", 2),
    "connections": Metric("active weights", 0, higher_is_better=False),
    "alpha": Metric("accuracy / connections", 9),
    "beta": Metric("loss x connections", 1, higher_is_better=False),
    "inference share": Metric("inference operations, share of dense", 3, higher_is_better=False),
    "inference GFLOPs": Metric("inference operations of a sample, billions", 3, higher_is_better=False),
    "training exaFLOPs": Metric("training operations, 10^18", 3, higher_is_better=False),
    "inference GMACs": Metric("multiply-adds of a sample, billions", 3, higher_is_better=False),
    "training share": Metric("training operations, share of dense", 3, higher_is_better=False),
}
# Fields of a config that are not a method's own; the sections 'model' and 'optimizer' count too.
RECIPE = ("dataset", "protocol", "label_smoothing", "batch_size", "steps", "epochs", "accumulate", "on_nonfinite")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cell and its numbers."""

    cell: Cell
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]  # by metric, float64[seeds]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # by metric: places[n], values float64[n, seeds]
    setting: str  # what was run: network, data, steps
    seconds: float
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)  # what all methods share or should, by field

    def differences(self, other: "Measured") -> list[str]:
        """The fields in which the recipes of two cells differ."""
        return sorted(n for n in self.recipe.keys() | other.recipe if self.recipe.get(n) != other.recipe.get(n))

    @property
    def trained(self) -> str:
        """Network and data, in words."""
        found = re.match(r".* on [^,]+", self.setting)
        return found[0] if found else self.setting


def metric_of(name: str) -> Metric:
    """The metric of a name; those of probes are named by what they are, shares with three digits."""
    return METRICS.get(name) or Metric(name, 3, smallest=0.02)


def read(cell: Cell, folder: Path) -> Measured:
    """The numbers of a finished cell.

    Raises:
      UnreadableError: a file is missing or not what training writes.
    """
    return _probed(cell, folder) if cell.probe else _trained(cell, folder)


def _probed(cell: Cell, folder: Path) -> Measured:
    found, config = sealed.read(folder / "probe.json"), sealed.read(folder / "config.json")
    try:
        return Measured(
            cell,
            tuple(found["seeds"]),
            {name: np.asarray(v, np.float64) for name, v in found["values"].items()},
            {name: (np.asarray(x), floats(y)) for name, (x, y) in found["curves"].items()},
            found["setting"],
            found["seconds"],
            recipe(config),
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
            recipe(run.config),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UnreadableError(f"{folder} does not hold a run of this version ({error!r}).") from error


def recipe(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config that say how its networks are trained, whatever the method; those of sections by 'a.b'."""
    found = {name: config[name] for name in RECIPE if name in config}
    for section in ("model", "optimizer"):
        found |= {f"{section}.{name}": value for name, value in config.get(section, {}).items()}
    return found


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
        **{name: np.full(n, value) for name, value in _costs(cell, run).items()},
    }
    evaluated = [100 * floats(r["accuracy"]) for r in run.of("eval") if r["split"] == "validation"]
    values["best validation accuracy"] = np.max([values["validation accuracy"], *evaluated], axis=0)
    if len(evaluated) > 1:
        values["unsteadiness"] = np.abs(np.diff(evaluated, axis=0)).mean(axis=0)
    if updates:
        survival = floats([r["survival_rate"] for r in updates])
        known = np.isfinite(survival)
        if known.any(axis=0).all():
            values["survival"] = np.where(known, survival, 0.0).sum(axis=0) / known.sum(axis=0)
    values["alpha"] = values["accuracy"] / 100 / values["connections"]
    values["beta"] = values["loss"] * values["connections"]
    return values


def _costs(cell: Cell, run: FinishedRun) -> dict[str, float]:
    """What the run cost; a multiplication and an addition are two operations, training is by the papers' formulas."""
    cost, config, steps = run.summary["cost"], run.config, run.summary["steps"]
    samples = steps * config["batch_size"]
    return {
        "inference share": float(cost["inference"]),
        "inference GFLOPs": cost["inference"] * cost["dense_forward"] / 1e9,
        "inference GMACs": cost["inference"] * cost["dense_forward"] / 2e9,
        "training share": cell.length * float(cost["training_paper"]),
        "training exaFLOPs": 3 * cost["dense_forward"] * cost["training_paper"] * samples / 1e18,
    }


def _gaps(epochs: list[dict[str, Any]], validation: list[dict[str, Any]]) -> list[tuple[int, list[float]]]:
    """Validation loss minus training loss, at the steps that have both."""
    training = {r["step"]: floats(r["loss"]) for r in epochs}
    return [
        (r["step"], (floats(r["loss"]) - training[r["step"]]).tolist()) for r in validation if r["step"] in training
    ]


def _curves(run: FinishedRun) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    updates, epochs = run.of("mask_update"), run.of("train")
    validation = [r for r in run.of("eval") if r["split"] == "validation"]
    found = {
        "exploration": [(r["step"], r["exploration_rate"]) for r in epochs],
        "survival": [(r["step"], r["survival_rate"]) for r in updates],
        "connections": [(r["step"], r["active_weights"]) for r in epochs],
        "training loss": [(r["step"], r["loss"]) for r in epochs],
        "validation accuracy": [(r["step"], (100 * floats(r["accuracy"])).tolist()) for r in validation],
        "gap": _gaps(epochs, validation),
    }
    return {n: (np.array([s for s, _ in c]), floats([v for _, v in c])) for n, c in found.items() if c}
