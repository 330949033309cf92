"""Says when to update the masks, and how large a share of the active weights moves."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.shares import share_limbs, share_of
from dstjax._arrays.trees import is_traced
from dstjax.checks import check_choice, check_integer, check_number
from dstjax.rules import Value, value

StepFunction = Callable[[int], float]
NAMES = ("constant", "cosine", "linear", "exponential", "cosine_floor", "stages")


class Schedule(Protocol):
    """Says at which calls of ``update`` the masks change."""

    @property
    def first(self) -> int:
        """Returns the first of these calls."""
        ...

    @property
    def count(self) -> int | None:
        """Returns how many there are, None where they never end."""
        ...

    def is_update(self, step: Any) -> Any:
        """Whether call t is one of them: a bool for a Python integer, a boolean array for an array."""
        ...

    def index(self, step: jax.Array) -> jax.Array:
        """Counts those before call t, int32."""
        ...


@dataclasses.dataclass(frozen=True)
class UpdateSchedule:
    """Updates the masks at the steps t with ``t % update_period == 0`` and ``start_step <= t < end_step``.

    Steps count the calls of the transformation's ``update``: the first is t = 1.
    """

    update_period: int
    start_step: int = 0
    end_step: int | None = None  # None: to the end of training

    def __post_init__(self) -> None:
        check_integer("update_period", self.update_period, 1)
        check_integer("start_step", self.start_step, 0)
        if self.end_step is None:
            return
        check_integer("end_step", self.end_step, 1)
        if self.end_step <= self.start_step:
            raise ValueError(
                f"end_step={self.end_step} is not accepted with start_step={self.start_step}; expected a later step."
            )
        if not self.count:
            raise ValueError(
                f"update_period={self.update_period} leaves no mask update between start_step={self.start_step} and "
                f"end_step={self.end_step}; expected a shorter period or a later end."
            )

    @property
    def first(self) -> int:
        """Returns the first update step."""
        return max(1, -(-self.start_step // self.update_period)) * self.update_period

    @functools.cached_property
    def count(self) -> int | None:
        """Returns the number of mask updates, None where they never end."""
        if self.end_step is None:
            return None
        return len(self.steps)

    @property
    def steps(self) -> range:
        """Returns the update steps before ``end_step``; none where that is None."""
        return range(self.first, self.end_step or 0, self.update_period)

    def is_update(self, step: Any) -> Any:
        """Whether step t is a mask update: a bool for a Python integer, a boolean array for an array."""
        if self.update_period == 1 and self.first == 1 and self.end_step is None and is_traced(step):
            return True  # known without the step, so that a trace has no branch
        due = (step % self.update_period == 0) & (step >= self.first)
        return due if self.end_step is None else due & (step < self.end_step)

    def index(self, step: jax.Array) -> jax.Array:
        """Counts the scheduled updates before step t, int32."""
        return jnp.maximum(step - self.first, 0) // self.update_period


@dataclasses.dataclass(frozen=True)
class Stages:
    """Runs cycles of several stages, each of a number of steps; a mask update ends the first and the last stage.

    The calls of ``update`` with t + 1 in the cycle belong to its stages. An update that the paper makes before the
    optimiser step of iteration i comes at the end of call i - 1 here, so that the forward pass of iteration i sees it.
    """

    lengths: tuple[int, ...]
    cycles: int | None  # None: to the end of training

    def __post_init__(self) -> None:
        for i, length in enumerate(self.lengths):
            check_integer(f"length of stage {i + 1}", length, 1 if i else 2)

    @property
    def period(self) -> int:
        """Returns the steps in a cycle."""
        return sum(self.lengths)

    @property
    def first(self) -> int:
        """Returns the end of the first stage of the first cycle."""
        return self.lengths[0] - 1

    @property
    def count(self) -> int | None:
        """Returns two for each cycle."""
        return None if self.cycles is None else 2 * self.cycles

    def is_update(self, step: Any) -> Any:
        """Whether call t ends the first or the last stage of a cycle."""
        return self.ends_first(step) | self.ends_last(step)

    def ends_first(self, step: Any) -> Any:
        """Whether call t ends the first stage."""
        due = (step > 0) & ((step + 1) % self.period == self.lengths[0])
        return due if self.cycles is None else due & (step + 1 < self.cycles * self.period)

    def ends_last(self, step: Any) -> Any:
        """Whether call t ends a cycle."""
        due = (step > 0) & ((step + 1) % self.period == 0)
        return due if self.cycles is None else due & (step + 1 <= self.cycles * self.period)

    def in_last(self, step: Any) -> Any:
        """Whether call t is a step of the last stage."""
        inside = (step > 0) & (step % self.period >= self.period - self.lengths[-1])
        return inside if self.cycles is None else inside & (step < self.cycles * self.period)

    def index(self, step: jax.Array) -> jax.Array:
        """Counts the updates before call t, int32: ends of first stages, and of cycles."""
        step = jnp.asarray(step, jnp.int32)
        before = (step - self.lengths[0] + self.period) // self.period + step // self.period
        return before if self.cycles is None else jnp.minimum(before, 2 * self.cycles)

    def cycle(self, step: jax.Array) -> jax.Array:
        """Counts the cycles that are complete before call t, int32."""
        return self.index(step) // 2


class Shares(Value):
    """Holds a share of a count for every mask update: evaluated on the host, applied in exact integer arithmetic.

    The last one stays. A subclass is a frozen dataclass that returns the :meth:`shares`.
    """

    values: Any  # float64[updates or 1], for people
    limbs: Any  # uint32[updates or 1, 5], the same for :func:`of`: no float decides a count inside a trace

    def __post_init__(self) -> None:
        """Evaluates all shares."""
        super().__post_init__()
        values = self.shares()
        if is_traced(values):
            limbs = share_limbs(values).T
        else:
            values = values[:1] if np.all(values == values[0]) else values
            limbs = np.array([share_limbs(float(v)) for v in values], np.uint32)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "limbs", limbs)

    def shares(self) -> Any:
        """Returns the shares, float64[updates]; a traced array where a hyper-parameter is traced."""
        raise TypeError(f"{type(self).__name__} does not say its shares.")

    def of(self, count: jax.Array, index: jax.Array, *, ceil: bool = False) -> jax.Array:
        """Returns the share of ``count`` (int32) that moves at the ``index``-th update."""
        table = jnp.asarray(self.limbs)
        return share_of(count, table[jnp.clip(index, 0, len(self.limbs) - 1)], ceil=ceil)


@value
class Fractions(Shares):
    """Holds the drop fraction at some steps t.

    Args:
      drop_fraction: the fraction at step 0 of a named schedule, in [0, 1].
      schedule: 'constant'; 'cosine', ``drop_fraction / 2 * (1 + cos(pi * t / end_step))``; 'linear',
        ``drop_fraction * (1 - t / end_step)``; 'exponential', ``drop_fraction * 0.01 ** (t / end_step)``;
        'cosine_floor', the cosine from ``drop_fraction`` to 0.005 that ITOP uses; 'stages', halved for the last quarter
        before ``end_step``, as MEST does, whose updates end at 75 % of training; or a function of the step that returns
        the fraction itself.
      steps: the steps.
      end_step: where the decay ends; None goes with 'constant' alone.

    Raises:
      ValueError: an unknown name, a decaying schedule without ``end_step``, or a fraction outside [0, 1].
    """

    drop_fraction: float
    schedule: str | StepFunction
    steps: range
    end_step: int | None

    def shares(self) -> Any:
        """Returns the fractions."""
        fraction, schedule, end = self.drop_fraction, self.schedule, self.end_step
        check_number("drop_fraction", fraction, "a number in [0, 1]", lambda f: 0 <= f <= 1)
        if not callable(schedule):
            check_choice("drop_schedule", schedule, NAMES)
        if schedule == "constant":
            return fraction * np.ones(1, np.float32) if is_traced(fraction) else np.array([fraction])
        if end is None:
            raise ValueError(f"drop_schedule={schedule!r} is not accepted with end_step=None; expected an end_step.")
        if callable(schedule):
            return self._asked(schedule)
        progress = np.asarray(self.steps, np.float64) / end
        if schedule == "stages":
            return fraction * np.where(progress < 0.75, 1.0, 0.5)
        if schedule == "linear":
            return fraction * (1 - progress)
        if schedule == "exponential":
            return fraction * 0.01**progress
        floor: Any = 0.0
        if schedule == "cosine_floor":
            floor = jnp.minimum(0.005, fraction) if is_traced(fraction) else min(0.005, fraction)
        return floor + (fraction - floor) / 2 * (1 + np.cos(np.pi * progress))

    def _asked(self, schedule: StepFunction) -> Any:
        with jax.ensure_compile_time_eval():
            values = np.array([float(schedule(t)) for t in self.steps])
        if not np.all((values >= 0) & (values <= 1)):
            bad = int(np.flatnonzero(~((values >= 0) & (values <= 1)))[0])
            raise ValueError(
                f"drop_schedule gives {values[bad]} at step {self.steps[bad]}; expected fractions in [0, 1] at every "
                "step."
            )
        return values


@value
class Cubic(Shares):
    """Holds how far gradual pruning has come at each update: 1 - (1 - p)^3 (Zhu and Gupta, 2017).

    p runs from 0 at ``start_step`` to 1 at the last update, or the last before ``until``; at later ones it stays at 1.

    Raises:
      ValueError: the updates never end and ``until`` is not given, it lies behind their end, or there is no update
        before it.
    """

    updates: UpdateSchedule
    until: int | None = None

    def shares(self) -> Any:
        """Returns the progress."""
        updates, end = self.updates, self.updates.end_step if self.until is None else self.until
        if end is None:
            raise ValueError(
                "end_step=None is not accepted here; expected the step by which the final sparsity is reached."
            )
        check_integer("prune_end_step", end, 1)
        if updates.end_step is not None and end > updates.end_step:
            raise ValueError(
                f"prune_end_step={end} is not accepted with end_step={updates.end_step}: no mask update would reach "
                "the final sparsity; expected it no later."
            )
        steps = np.arange(updates.first, end, updates.update_period)
        if not steps.size:
            raise ValueError(f"no mask update lies before step {end}; the first is at step {updates.first}.")
        begin = min(updates.start_step, steps[-1] - 1)
        return 1 - (1 - (steps - begin) / (steps[-1] - begin)) ** 3
