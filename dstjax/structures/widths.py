"""How many channels each pool keeps under a budget: the same share of each, or those worth most by the knapsack."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.knapsack import solve
from dstjax.structures.pools import Pools
from dstjax.structures.work import Work

_PARTS = 1000  # of the capacity of the knapsack
_HALVINGS = 12  # in the search of the capacity
_ROUNDS = 2  # of the knapsack: what the first leaves of the budget is filled by the second


def fewest(work: Work, at_least: float, round_to: int) -> np.ndarray:
    """Returns how many channels of each pool stay in any case, int32[pools]: a share, rounded up, and one at least."""
    full = np.asarray(work.full)
    asked = np.maximum(np.ceil(at_least * full / round_to - 1e-9), 1) * round_to
    return np.minimum(asked, full).astype(np.int32)


def even(work: Work, at_least: float, round_to: int, least: jax.Array, most: jax.Array, goal: jax.Array) -> jax.Array:
    """Returns the same share of each pool, the largest whose cost is within a goal, between some widths; int32[pools].

    Args:
      work: what the network costs.
      at_least: the share that stays in any case.
      round_to: widths are multiples of this, or full.
      least: the lowest widths, int32[pools].
      most: the highest ones.
      goal: what all may cost.
    """
    shares = np.arange(_PARTS + 1)[:, None] / _PARTS
    rounded = np.floor(shares * np.asarray(work.full) / round_to + 1e-9) * round_to
    table = np.clip(rounded, fewest(work, at_least, round_to), work.full).astype(np.int32)
    widths = jnp.clip(table, least[None, :], most[None, :])
    fits = work.total(widths, jnp) <= goal * (1 + 1e-6)
    return widths[jnp.argmax(jnp.where(fits, jnp.arange(_PARTS + 1), 0))]


def best(
    pools: Pools,
    work: Work,
    round_to: int,
    values: jax.Array,
    where: jax.Array,
    base: jax.Array,
    more: jax.Array,
    now: jax.Array,
    least: jax.Array,
    goal: jax.Array,
) -> jax.Array:
    """Returns how many of some channels to have beside a base, int32[pools]: most value within a goal.

    The knapsack takes the other pools as wide as they are now; so the capacity with which the cost comes closest to
    the goal, all widths as they would be, is found by halving. Where the widths jump from one capacity to the next,
    much of the goal may be left; a second round fills it, priced by the widths of the first.

    Args:
      pools: the channels.
      work: what the network costs.
      round_to: widths are multiples of this, or full.
      values: float32[channels].
      where: those to choose from, bool[channels].
      base: widths of what stays anyway, int32[pools].
      more: how many there are to choose from.
      now: widths before.
      least: how many to choose at least.
      goal: what all may cost.
    """
    steps = max(-(-size // round_to) for size in pools.sizes) + 1
    table = jnp.zeros((len(pools.sizes), max(pools.sizes) + 1), jnp.float32)
    at = pools.ranks(values, where) + 1
    table = table.at[pools.pool_of, jnp.where(where, at, 0)].add(jnp.where(where, values, 0.0))
    worth_of = jnp.cumsum(table.at[:, 0].set(0.0), axis=1)

    def one_round(i: Any, chosen: Any) -> Any:
        beside, required = base + chosen, jnp.maximum(least - chosen, 0)
        options = jnp.minimum(np.arange(steps)[None, :] * round_to, (more - chosen)[:, None])
        worth = jnp.take_along_axis(worth_of, chosen[:, None] + options, axis=1)
        worth = worth - worth[:, :1]
        widths = jnp.where(i == 0, now, beside)
        above = work.options(widths, beside[:, None] + options, jnp)
        price = jnp.maximum(above - work.options(widths, beside[:, None], jnp), 0)
        limit = jnp.maximum(jnp.sum(jnp.max(price, axis=1)), 1e-30)
        allowed = options >= required[:, None]

        def try_one(i: Any, found: Any) -> Any:
            low, high, last = found
            x = jnp.where(i == 0, 1.0, (low + high) / 2)
            whole = jnp.ceil(price / (x * limit) * _PARTS - 1e-3)
            whole = jnp.where(allowed & (whole <= _PARTS), whole, _PARTS + 1).astype(jnp.int32)
            picked = jnp.take_along_axis(options, solve(worth, whole, _PARTS)[:, None], axis=1)[:, 0]
            picked = jnp.maximum(picked, required).astype(required.dtype)
            cost = work.total(beside + picked, jnp)
            fits = cost <= goal * (1 + 1e-6)
            better = fits & (cost >= work.total(beside + last, jnp))
            return jnp.where(fits, x, low), jnp.where(fits, high, x), jnp.where(better, picked, last)

        found = jax.lax.fori_loop(0, _HALVINGS, try_one, (jnp.float32(0), jnp.float32(1), required))
        return chosen + found[2]

    return jax.lax.fori_loop(0, _ROUNDS, one_round, jnp.zeros_like(more))
