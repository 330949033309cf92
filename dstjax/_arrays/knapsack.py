"""Chooses one option of each group under a common capacity, exactly: the step of dynamic programming, and its run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def step(xp: Any, best: Any, values: Any, costs: Any) -> tuple[Any, Any]:
    """Adds one group to the table of the best values.

    Args:
      xp: ``numpy`` or ``jax.numpy``.
      best: float[capacity + 1], the best value of the groups before at each capacity; -inf where there is none.
      values: float[options].
      costs: int[options], at least 0.

    Returns:
      The new table, and the option of each capacity, int[capacity + 1]; of equal ones the first.
    """
    left = xp.arange(best.shape[0])[:, None] - costs[None, :]
    found = xp.where(left >= 0, best[xp.maximum(left, 0)] + values[None, :], -xp.inf)
    return xp.max(found, axis=1), xp.argmax(found, axis=1)


def solve_on_host(values: list[np.ndarray], costs: list[np.ndarray], capacity: int) -> tuple[list[int], float]:
    """Returns the option of each group and the value; -inf where not even the cheapest fit."""
    best, chosen = np.zeros(capacity + 1), []
    for v, c in zip(values, costs, strict=True):
        best, option = step(np, best, v, c)
        chosen.append(option)
    left, options = capacity, []
    for option, c in zip(reversed(chosen), reversed(costs), strict=True):
        options.append(int(option[left]))
        left = max(left - int(c[options[-1]]), 0)
    return options[::-1], float(best[capacity])


def solve(values: jax.Array, costs: jax.Array, capacity: int) -> jax.Array:
    """Returns the option of each group, int32[groups], inside a compiled program.

    Args:
      values: float32[groups, options].
      costs: int32[groups, options]; above ``capacity`` where there is no such option.
      capacity: the common capacity.
    """
    start = jnp.zeros(capacity + 1, jnp.float32)
    _, chosen = jax.lax.scan(lambda best, group: step(jnp, best, *group), start, (values, costs))

    def back(left: jax.Array, group: Any) -> tuple[jax.Array, jax.Array]:
        option, cost = group
        return jnp.maximum(left - cost[option[left]], 0), option[left]

    _, options = jax.lax.scan(back, jnp.int32(capacity), (chosen, costs), reverse=True)
    return options.astype(jnp.int32)
