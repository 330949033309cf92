"""The optimisers of the experiments, and the learning rate of each step."""

import math
from collections.abc import Callable
from typing import Any

import optax
from ml_collections import ConfigDict

from dstjax.checks import check_choice, check_integer, check_number
from experiments.training.steps import scale_at_step

Schedule = Callable[[Any], Any]


def schedule(config: ConfigDict, steps: int) -> Schedule:
    """The learning rate of a step, counted from 0.

    Args:
      config: the section ``optimizer`` of a config.
      steps: of the whole run.

    Raises:
      ValueError: a value that is not accepted.
    """
    check_choice("optimizer.schedule", config.schedule, ("cosine", "steps", "constant", "exponential"))
    check_integer("optimizer.trainings", config.trainings, 1)
    if config.trainings > 1:
        return _repeated(config, steps)
    positive = "a finite number > 0", lambda v: 0 < v < math.inf
    check_number("optimizer.learning_rate", config.learning_rate, *positive)
    check_number("optimizer.factor", config.factor, *positive)
    check_integer("optimizer.warmup_steps", config.warmup_steps, 0)
    if config.warmup_steps >= steps:
        raise ValueError(
            f"optimizer.warmup_steps={config.warmup_steps} is not accepted with {steps} steps; expected fewer."
        )
    rate, left = config.learning_rate, steps - config.warmup_steps
    after: Schedule = optax.constant_schedule(rate)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, left)
    elif config.schedule == "exponential":
        after = optax.exponential_decay(rate, left, config.factor)
    elif config.schedule == "steps":
        if not isinstance(config.milestones, list | tuple):
            raise ValueError(
                f"optimizer.milestones={config.milestones!r} is not accepted with schedule 'steps'; expected shares of "
                "all steps, as (0.5, 0.75)."
            )
        for share in config.milestones:
            check_number("optimizer.milestones", share, "shares of all steps in (0, 1)", lambda v: 0 < v < 1)
        ends = [round(share * steps) - config.warmup_steps for share in config.milestones]
        at = {step: config.factor ** ends.count(step) for step in ends}
        after = optax.piecewise_constant_schedule(rate, at)
    if not config.warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, config.warmup_steps), after], [config.warmup_steps])


def _repeated(config: ConfigDict, steps: int) -> Schedule:
    """The schedule of one training, several times over."""
    if steps % config.trainings:
        raise ValueError(
            f"optimizer.trainings={config.trainings} is not accepted with {steps} steps; expected a divisor of them."
        )
    one = ConfigDict(config)
    one.trainings = 1
    length = steps // config.trainings
    return optax.join_schedules([schedule(one, length)] * config.trainings, [*range(length, steps, length)])


def make(config: ConfigDict, learning_rate: Schedule) -> optax.GradientTransformation:
    """The optimiser of the section ``optimizer`` of a config.

    Raises:
      ValueError: a value that is not accepted.
    """
    check_choice("optimizer.name", config.name, ("sgd", "adamw"))
    check_number("optimizer.momentum", config.momentum, "a number in [0, 1)", lambda v: 0 <= v < 1)
    check_number("optimizer.weight_decay", config.weight_decay, "a finite number >= 0", lambda v: 0 <= v < math.inf)
    if not isinstance(config.nesterov, bool):
        raise ValueError(f"optimizer.nesterov={config.nesterov!r} is not accepted; expected True or False.")
    decay = optax.add_decayed_weights(config.weight_decay)
    if config.name == "adamw":
        return optax.chain(optax.scale_by_adam(), decay, scale_at_step(learning_rate))
    momentum = optax.trace(config.momentum, nesterov=config.nesterov)
    return optax.chain(decay, momentum, scale_at_step(learning_rate))
