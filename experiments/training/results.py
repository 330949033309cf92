"""What a run reports: the records of its epochs, its summary, pictures of its first layer."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import dstjax
from experiments.data import Data
from experiments.training import costing, rules
from experiments.training.configuration import Plan
from experiments.training.finished import read_records
from experiments.training.recording import Metrics, NoMetrics, to_json, write_atomically
from experiments.training.trainer import Epoch, Trainer


class FinalState(NamedTuple):
    """What the networks are at the end; arrays have a leading axis of seeds."""

    topology: dict[str, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]  # loss and accuracy
    validation: tuple[np.ndarray, np.ndarray]


def measure(trainer: Trainer) -> FinalState:
    """Looks at the networks, on all processes together."""
    return FinalState(trainer.topology(), trainer.evaluate("test"), trainer.evaluate("validation"))


def record_epoch(
    metrics: Metrics | NoMetrics,
    epoch: Epoch,
    step: int,
    batches: int,
    updates: int,
    plan: Plan,
    table: dstjax.Summary,
) -> None:
    """Writes the records of an epoch's mask updates and of the epoch."""
    names = [row.path for row in table.masked]
    for i, (at, topology) in enumerate(epoch.mask_updates):
        metrics.write(
            "mask_update",
            at,
            at / batches,
            update=updates + i + 1,
            exploration_rate=topology["exploration_rate"],
            survival_rate=topology["survival_rate"],
            mask_error=topology["mask_error"],
            requested={row.path: row.requested for row in table.masked},
            active=dict(zip(names, topology["active"].T, strict=True)),
            layer_exploration_rate=dict(zip(names, topology["layer_exploration_rate"].T, strict=True)),
        )
    metrics.write(
        "train",
        step,
        step / batches,
        loss=epoch.loss,
        accuracy=epoch.accuracy,
        learning_rate=float(plan.schedule(step - 1)),
        exploration_rate=epoch.topology["exploration_rate"],
        active_weights=epoch.topology["active"].sum(axis=1),
        active=dict(zip(names, epoch.topology["active"].T, strict=True)),
    )
    densities = epoch.topology["active"].T / np.reshape([row.size for row in table.masked], (-1, 1))
    metrics.show(step, {f"density/{name}": density for name, density in zip(names, densities, strict=True)})


def show_overlap(
    metrics: Metrics | NoMetrics, step: int, before: list[dict[str, np.ndarray]], now: list[dict[str, np.ndarray]]
) -> None:
    """Shows how much of the masks of each layer is as it was an epoch before: the Jaccard index of each seed."""
    overlaps = [dstjax.masks.overlap(*pair) for pair in zip(before, now, strict=True)]
    metrics.show(step, {f"overlap/{name}": np.array([float(o[name]) for o in overlaps]) for name in overlaps[0]})


def record_evaluation(
    metrics: Metrics | NoMetrics, split: str, step: int, batches: int, found: tuple[np.ndarray, np.ndarray]
) -> None:
    """Writes the loss and accuracy of every seed on a split; ``batches`` are those of an epoch."""
    loss, accuracy = found
    metrics.write("eval", step, step / batches, split=split, loss=loss, accuracy=accuracy)


def summarise(
    config: ConfigDict,
    plan: Plan,
    measured: FinalState,
    batches: int,
    table: dstjax.Summary,
    updates: int,
    records: Path,
) -> dict[str, Any]:
    """What summary.json holds, without the time; ``batches`` are those of an epoch, ``records`` is metrics.jsonl."""
    topology, (test_loss, test_accuracy), (validation_loss, validation_accuracy) = measured
    rows = table.masked or [row for row in table.leaves if len(row.shape) >= 2]
    weights = sum(row.size for row in rows)
    active = float(topology["active"].sum(axis=1).mean()) if table.masked else weights
    asked = plan.hyperparameters.get("sparsity")
    layers = [
        {
            "path": row.path,
            "shape": row.shape,
            "size": row.size,
            "requested": row.requested,
            "active": topology["active"][:, i],
            "exploration_rate": topology["layer_exploration_rate"][:, i],
        }
        for i, row in enumerate(table.masked)
    ]
    summary = {
        "method": config.method,
        "sparsity": 1 - active / weights if asked is None else asked,
        "density": active / weights,
        "active_weights": round(active),
        "weights": weights,
        "requested_weights": sum(row.size if row.requested is None else row.requested for row in rows),
        "seeds": plan.seeds,
        "test_accuracy": test_accuracy,
        "test_accuracy_mean": test_accuracy.mean(),
        "test_accuracy_std": test_accuracy.std(ddof=1) if len(plan.seeds) > 1 else None,
        "test_loss": test_loss,
        "validation_accuracy": validation_accuracy,
        "validation_loss": validation_loss,
        "exploration_rate": topology["exploration_rate"],
        "exploration_rate_mean": topology["exploration_rate"].astype(np.float64).mean(),
        "steps": plan.steps,
        "epochs": plan.steps / batches,
        "mask_updates": updates,
        "hyperparameters": plan.hyperparameters,
        "seeds_mode": plan.mode,
        "backend": jax.default_backend(),
        "layers": layers,
        "cost": _cost(config, plan, table, records),
    }
    return json.loads(to_json(summary))


def _cost(config: ConfigDict, plan: Plan, table: dstjax.Summary, records: Path) -> dict[str, float] | None:
    """What the run cost, from the densities that it really had, a mean over the seeds; None: nobody can say."""
    own = plan.rules.get("method")
    made: Any = own.function if isinstance(own, rules.Own) else None
    if made is not None and not hasattr(made, "about"):
        return None
    everything, method = read_records(records), plan.method
    sizes, initial = ({row.path: getattr(row, what) for row in table.masked} for what in ("size", "active"))
    if method.updates is None and not method.start.prune_step:  # masks that a pruner gave differ between the seeds
        first = next(r for r in everything if r["kind"] == "train")
        initial = {n: float(np.mean(a)) for n, a in first["active"].items()}
    lengths, densities = zip(*costing.stretches(everything, sizes, initial, method.start.prune_step), strict=True)
    sample = plan.data.x.shape[1:] if isinstance(plan.data, Data) else plan.data.shape
    return costing.of_run(
        made or config.method, plan.method, plan.hyperparameters, plan.model, sample, densities, lengths
    )


def save_pictures(path: Path, name: str, initial: dict[str, np.ndarray], final: dict[str, np.ndarray]) -> None:
    """Writes masks.npz: the first masked layer of each seed, before and after."""
    arrays: dict[str, Any] = {"path": np.array(name), "initial": initial["mask"], "final": final.pop("mask"), **final}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
