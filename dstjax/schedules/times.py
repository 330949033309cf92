"""Says at which steps the masks change."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dstjax._arrays.trees import is_traced
from dstjax.checks import check_integer, check_step


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
        check_step("update_period", self.update_period, 1)
        check_step("start_step", self.start_step, 0)
        if self.end_step is None:
            return
        check_step("end_step", self.end_step, 1)
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

    @property
    def count(self) -> int | None:
        """Returns the number of mask updates, None where they never end."""
        return None if self.end_step is None else len(self.steps)

    @property
    def last(self) -> int | None:
        """Returns the last update step, None where they never end."""
        return None if self.end_step is None else self.steps[-1]

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

    def is_near(self, step: Any, window: int) -> Any:
        """Whether step t is one of the last ``window`` steps before an update, that of the update included."""
        after = -(-step // self.update_period) * self.update_period
        due = jnp.maximum(after, self.first) if isinstance(step, jax.Array) else max(after, self.first)
        near = due - step < window
        return near if self.end_step is None else near & (due < self.end_step)

    def index(self, step: jax.Array) -> jax.Array:
        """Counts the scheduled updates before an update at step t, int32; between two it is the number of the last."""
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
