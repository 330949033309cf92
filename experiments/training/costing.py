"""What a run cost: floating-point operations a sample, from the densities that it really had."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

import dstjax
from dstjax import costs, schedules
from experiments.models import shapes


def of_run(
    name: str | dstjax.methods.Entry,
    method: dstjax.Method,
    hyperparameters: dict[str, Any],
    model: nn.Module,
    sample: tuple[int, ...],
    densities: Sequence[dict[str, float]],
    lengths: Sequence[int],
) -> dict[str, float]:
    """Operations of a run relative to dense training and to a dense forward pass.

    Args:
      name: of the method in the catalogue, or an entry of one's own.
      method: itself.
      hyperparameters: those that it was made with, and its defaults.
      model: the network.
      sample: shape of one sample.
      densities: path of each masked leaf -> its density, for each stretch of training.
      lengths: steps of each stretch.

    Returns:
      'dense_forward', operations a sample; 'inference', of the last densities as a share of it; 'training_paper' and
      'training_exact' as shares of dense training, by both conventions of :mod:`dstjax.costs`.
    """
    counted = shapes.network(model, sample).flops
    dense = float(counted.dense())
    sparse = [float(counted.sparse(d)) for d in densities]
    steps = sum(lengths)
    given: dict[str, Any] = {}
    schedule = None if method.updates is None else method.updates.schedule
    for need in costs.needs(name, recorded=True):
        if need == "update_period" and isinstance(schedule, schedules.UpdateSchedule):
            given[need] = schedule.update_period
        elif need == "window" and isinstance(schedule, schedules.UpdateSchedule):
            given[need] = dense_gradients(method, schedule)
        elif need == "update_share" and schedule is not None:
            updates = sum(bool(method.is_update_step(t)) for t in range(1, steps + 1))
            events = 2 if isinstance(schedule, schedules.Stages) else 1
            given[need] = min(1.0, updates / events * _period(schedule) / steps)
        elif need in ("estimation", "improvement", "exploration") and isinstance(schedule, schedules.Stages):
            given[need] = schedule.lengths[("estimation", "improvement", "exploration").index(need)]
        elif need == "backward":
            wider = 1 + float(hyperparameters["exploration"])
            given[need] = float(counted.sparse({n: min(1.0, d * wider) for n, d in densities[-1].items()}))
    training = {
        f"training_{convention}": costs.relative(
            costs.training_flops_of_run(
                name, sparse=sparse, dense=dense, convention=convention, lengths=list(lengths), **given
            ),
            dense=dense,
        )
        for convention in costs.CONVENTIONS
    }
    return {"dense_forward": dense, "inference": sparse[-1] / dense, **training}


class Stretch(NamedTuple):
    """Some steps with the same masks."""

    steps: int
    densities: dict[str, float]  # path of each masked leaf -> its density


def stretches(
    records: Sequence[dict[str, Any]], sizes: dict[str, int], initial: dict[str, float], prune_step: int = 0
) -> list[Stretch]:
    """The densities of a run between all changes of its masks, means over its seeds.

    Args:
      records: of metrics.jsonl, in order: each mask update that was looked at, and the end of each epoch.
      sizes: path of each masked leaf -> its weights.
      initial: active weights before the first step.
      prune_step: after how many steps a network that starts dense is pruned, which is no mask update; 0 for never.

    Returns:
      The stretches in order. A step has the masks from before the update that it is. Where masks change at nearly every
      step, and are seen at the ends of epochs alone, an epoch has the mean of its two ends.
    """
    found: list[Stretch] = []
    now, begin = {n: a / sizes[n] for n, a in initial.items()}, 0

    def until(step: int, densities: dict[str, float]) -> None:
        nonlocal begin
        if step > begin and found and found[-1].densities == densities:
            found[-1] = found[-1]._replace(steps=found[-1].steps + step - begin)
        elif step > begin:
            found.append(Stretch(step - begin, densities))
        begin = max(begin, step)

    for record in records:
        if record["kind"] not in ("mask_update", "train"):
            continue
        after, step = {n: float(np.mean(a)) / sizes[n] for n, a in record["active"].items()}, record["step"]
        if record["kind"] == "mask_update" or after == now:
            until(step, now)
        elif begin <= prune_step <= step and prune_step:
            until(prune_step, now)
            until(step, after)
        else:
            until(step, {n: (now[n] + after[n]) / 2 for n in after})
        now = after
    return found


def dense_gradients(method: dstjax.Method, schedule: schedules.UpdateSchedule) -> int:
    """Counts the calls up to the first mask update, that included, that read a dense gradient; a period of them."""
    start = schedule.first - schedule.update_period
    return sum(bool(method.needs_dense_gradient(t)) for t in range(start + 1, schedule.first + 1))


def _period(schedule: schedules.Schedule) -> int:
    return schedule.update_period if isinstance(schedule, schedules.UpdateSchedule) else getattr(schedule, "period", 1)
