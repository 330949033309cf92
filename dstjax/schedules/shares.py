"""Says how large a share of the active weights moves in each update."""

import math
import numbers
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays import fixed_point
from dstjax._arrays.shares import computed_limbs, fixed_limbs, share_limbs, share_of
from dstjax._arrays.trees import is_traced
from dstjax.checks import check_choice, check_integer, check_number
from dstjax.rules import Value, described, value
from dstjax.schedules.times import UpdateSchedule

StepFunction = Callable[[Any], Any]  # of a step, traced too: its share
HOST_CALLS = 4096  # of a function that cannot be traced, which makes a table in the program
NAMES = ("constant", "cosine", "linear", "exponential", "cosine_floor", "stages")


class Shares(Value):
    """Holds a share of a count for every mask update, computed in exact integer arithmetic when the update comes.

    The last one stays. A subclass is a frozen dataclass that returns :meth:`limbs` and :meth:`at`.
    """

    def limbs(self, index: jax.Array) -> Any:
        """Returns the share at the ``index``-th update in base 2**15: uint32[5], or five of them, least digit first."""
        raise TypeError(f"{type(self).__name__} does not say its shares.")

    def at(self, index: int) -> Any:
        """Returns the share at the ``index``-th update as a float, for people."""
        raise TypeError(f"{type(self).__name__} does not say its shares.")

    def of(self, count: jax.Array, index: jax.Array, *, ceil: bool = False) -> jax.Array:
        """Returns the share of ``count`` (int32) that moves at the ``index``-th update."""
        return share_of(count, self.limbs(index), ceil=ceil)


@value
class Fractions(Shares):
    """Holds the drop fraction at some steps t.

    A count is the floor (or ceil) of the exact real number, with the decimal that was typed for ``drop_fraction``; what
    lies within 2**-50 of itself below an integer is the integer, and a ceil leaves out a rest of less than 2**-15. A
    function is called inside the trace with an int32 scalar, so it is written in ``jax.numpy``, as the schedules of
    optax are. What it returns there is known to float32: decimals of six places are exact, shares outside [0, 1] count
    as the nearest.

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
      ValueError: an unknown name, a decaying schedule without ``end_step``, a function that cannot be traced, or a
        fraction outside [0, 1]; of a function, at the first step or the last.
    """

    drop_fraction: float
    schedule: str | StepFunction
    steps: range
    end_step: int | None
    # The share of each update, of a function that only the host can call.
    _table: ClassVar[list[tuple[int, ...]]]

    def __post_init__(self) -> None:
        """Checks each field."""
        super().__post_init__()
        check_number("drop_fraction", self.drop_fraction, "a number in [0, 1]", lambda f: 0 <= f <= 1)
        if not callable(self.schedule):
            check_choice("drop_schedule", self.schedule, NAMES)
        if self.schedule != "constant" and self.end_step is None:
            raise ValueError(
                f"drop_schedule={self.schedule!r} is not accepted with end_step=None; expected an end_step."
            )
        if callable(self.schedule):
            traceable = _check_function(self.schedule, self.steps)
            shares = [] if traceable else [share_limbs(float(self.schedule(step))) for step in self.steps]
            object.__setattr__(self, "_table", shares)

    def limbs(self, index: jax.Array) -> Any:
        """Returns the fraction at the ``index``-th update."""
        if callable(self.schedule) and self._table:
            return jnp.array(self._table, jnp.uint32)[jnp.clip(index, 0, len(self.steps) - 1)]
        if callable(self.schedule):
            return _typed(self.schedule(_step(self.steps, index)))
        typed = _typed(self.drop_fraction)
        if self.schedule == "constant":
            return typed
        begin, end = (_digits(x) for x in (typed, _typed(self._floor)))
        return fixed_limbs(end + fixed_point.product(begin - end, self._decay(_step(self.steps, index))))

    def at(self, index: int) -> Any:
        """Returns the fraction at the ``index``-th update."""
        step = self.steps[min(index, len(self.steps) - 1)] if self.steps else 0
        if callable(self.schedule):
            with jax.ensure_compile_time_eval():
                return float(self.schedule(step))
        progress = 0.0 if self.end_step is None else step / self.end_step
        decay = {
            "constant": 1.0,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
            "linear": 1 - progress,
            "exponential": 0.01**progress,
            "cosine_floor": (1 + math.cos(math.pi * progress)) / 2,
            "stages": 1.0 if progress < 0.75 else 0.5,
        }[self.schedule]
        return self._floor + (self.drop_fraction - self._floor) * decay

    @property
    def _floor(self) -> Any:
        """The fraction that a decay tends to."""
        if self.schedule != "cosine_floor":
            return 0.0
        fraction = self.drop_fraction
        return jnp.minimum(0.005, fraction) if is_traced(fraction) else min(0.005, fraction)

    def _decay(self, step: jax.Array) -> jax.Array:
        """The share of the way from the floor to the drop fraction that is left at a step, in fixed point."""
        end = cast(int, self.end_step)
        if self.schedule == "linear":
            return fixed_point.linear(step, end)
        if self.schedule == "exponential":
            return fixed_point.hundredth(step, end)
        if self.schedule == "stages":
            whole, half = (fixed_point.constant(Fraction(1, n)) for n in (1, 2))
            return jnp.where(step < -(-3 * end // 4), whole, half)
        return fixed_point.cosine(step, end)


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

    def __post_init__(self) -> None:
        """Checks that there is an end, and an update before it."""
        super().__post_init__()
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
        if not self._steps:
            raise ValueError(f"no mask update lies before step {end}; the first is at step {updates.first}.")

    @property
    def _steps(self) -> range:
        """The updates until the final sparsity is reached."""
        end = self.updates.end_step if self.until is None else self.until
        return range(self.updates.first, cast(int, end), self.updates.update_period)

    @property
    def _begin(self) -> int:
        """Where p is 0; earlier than the last update, which goes all the way where it is the only one."""
        return min(self.updates.start_step, self._steps[-1] - 1)

    def limbs(self, index: jax.Array) -> Any:
        """Returns the progress at the ``index``-th update."""
        steps = self._steps
        progress = fixed_point.cubic(_step(steps, index) - self._begin, steps[-1] - self._begin)
        return fixed_limbs(progress[1:])

    def at(self, index: int) -> float:
        """Returns the progress at the ``index``-th update."""
        steps = self._steps
        step = steps[min(index, len(steps) - 1)]
        return 1 - (1 - (step - self._begin) / (steps[-1] - self._begin)) ** 3


def _step(steps: range, index: jax.Array) -> jax.Array:
    """Returns the ``index``-th of some steps, int32[]; the last one stays."""
    return steps.start + steps.step * jnp.clip(index, 0, min(max(len(steps), 1), 2**31) - 1)


def _typed(fraction: Any) -> Any:
    """Returns a share for share_of: the decimal that was typed, or what a trace knows of it."""
    return computed_limbs(fraction) if isinstance(fraction, jax.Array) else share_limbs(float(fraction))


def _digits(limbs: Any) -> Any:
    """Returns a share in fixed point."""
    return limbs.astype(jnp.int32) if isinstance(limbs, jax.Array) else np.array(limbs, np.int32)


def _is_traceable(schedule: StepFunction) -> bool:
    """Whether a trace can call a function; one with `if`, or of the math module, only the host can."""
    try:
        shape = jax.eval_shape(lambda t: jnp.asarray(schedule(t)), jax.ShapeDtypeStruct((), jnp.int32)).shape
    except Exception:  # the call of the host says it better, or shows that it is none
        return False
    if shape:
        raise ValueError(f"drop_schedule={described(schedule)} gives an array of shape {shape}; expected a scalar.")
    return True


def _check_function(schedule: StepFunction, steps: range) -> bool:
    """Whether a trace can call a function; refuses one that the host cannot call so often, or whose shares are none."""
    traceable = _is_traceable(schedule)
    if not traceable and len(steps) > HOST_CALLS:
        raise ValueError(
            f"drop_schedule={described(schedule)} cannot be traced, and has {len(steps)} updates; expected a function "
            "of an int32 scalar made of jax.numpy, with jnp.where instead of if (the host calls others, at most "
            f"{HOST_CALLS} times)."
        )
    for step in (*steps[:1], *steps[1:][-1:]) if traceable else steps:
        try:
            with jax.ensure_compile_time_eval():
                found = schedule(step)
        except Exception as error:
            raise ValueError(
                f"drop_schedule={described(schedule)} is not accepted: at step {step} it ended with "
                f"{type(error).__name__}: {error}. Expected a function of the step."
            ) from error
        if is_traced(found):
            continue
        number = isinstance(found, numbers.Real) or hasattr(found, "dtype")
        if not number or np.ndim(found) or not 0 <= float(found) <= 1:
            raise ValueError(
                f"drop_schedule gives {found if number else repr(found)} at step {step}; expected fractions in [0, 1] "
                "at every step."
            )
    return traceable
