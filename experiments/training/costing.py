"""What a run cost: floating-point operations a sample, from the densities that it really had."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn

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


def dense_gradients(method: dstjax.Method, schedule: schedules.UpdateSchedule) -> int:
    """Counts the calls up to the first mask update, that included, that read a dense gradient; a period of them."""
    start = schedule.first - schedule.update_period
    return sum(bool(method.needs_dense_gradient(t)) for t in range(start + 1, schedule.first + 1))


def _period(schedule: schedules.Schedule) -> int:
    return schedule.update_period if isinstance(schedule, schedules.UpdateSchedule) else getattr(schedule, "period", 1)
