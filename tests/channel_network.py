"""A small network with channels that are tied by a sum, and the knapsack of its channels written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import latency, program, structures
from dstjax.costs import knapsack

SIZES = (6, 5)  # channels of the residual stream, and inside the block


def params(seed=0):
    rng = np.random.default_rng(seed)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / 3, jnp.float32)

    stream, inside = SIZES
    return {
        "a": {"bias": jnp.asarray(rng.normal(size=stream), jnp.float32), "kernel": kernel(3, 3, 1, stream)},
        "b": {"bias": jnp.asarray(rng.normal(size=inside), jnp.float32), "kernel": kernel(3, 3, stream, inside)},
        "c": {"kernel": kernel(1, 1, inside, stream)},
        "out": {"bias": jnp.zeros(3), "kernel": kernel(stream, 3)},
    }


def network(p, x):
    def conv(leaf, x):
        y = jax.lax.conv_general_dilated(x, leaf["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + leaf["bias"][None, None, None] if "bias" in leaf else y

    h = jax.nn.relu(conv(p["a"], x))
    h = h + conv(p["c"], jax.nn.relu(conv(p["b"], h)))
    return h.mean(axis=(1, 2)) @ p["out"]["kernel"] + p["out"]["bias"][None]


X = jnp.asarray(np.random.default_rng(5).normal(size=(2, 4, 4, 1)), jnp.float32)


def found():
    return program.channels(network, params(), X)


def groups_of(structure):
    """For each leaf and axis the group of each index, in the order of the structure."""
    pools = structure.pools
    return {path: [np.asarray(a) for a in axes] for path, axes in zip(pools.paths, pools.axes, strict=True)}


def masks_of(structure, active):
    """The masks of the leaves by path: a weight is active if all of its groups are."""
    masks = {}
    for path, axes in groups_of(structure).items():
        mask = np.ones([len(a) for a in axes], bool)
        for index in np.ndindex(*mask.shape):
            ids = [a[i] for a, i in zip(axes, index, strict=True)]
            mask[index] = all(i < 0 or active[i] for i in ids)
        masks[path] = mask
    return masks


def pooled(structure, arrays):
    """Sums of the entries of each channel along the last axis."""
    total = np.zeros(structure.pools.number)
    for path, axes in groups_of(structure).items():
        for i, group in enumerate(axes[-1]):
            if group >= 0:
                total[group] += np.asarray(arrays[path], np.float64)[..., i].sum()
    return total


def best(values, where, pool_of, numbers):
    """The best of each pool."""
    chosen = np.zeros(len(values), bool)
    for pool, n in enumerate(numbers):
        some = np.flatnonzero(where & (pool_of == pool))
        chosen[some[np.argsort(-values[some], kind="stable")[:n]]] = True
    return chosen


def solved(structure, values, where, base, now, least, goal):
    """How many channels of each pool to choose beside a base: the knapsack, and once more for what is left."""
    pool_of = structure.pools.pool_of
    first = one_round(structure, values, where, base, now, least, goal)
    rest = where & ~best(values, where, pool_of, first)
    return first + one_round(structure, values, rest, base + first, base + first, 0 * base, goal)


def one_round(structure, values, where, base, now, least, goal):
    """The knapsack, at the best of twelve capacities."""
    work, pool_of = structure.work, structure.pools.pool_of
    more = np.array([(where & (pool_of == p)).sum() for p in range(len(work.full))])
    worth, price = [], []
    for pool, n in enumerate(more):
        ranked = np.sort(values[where & (pool_of == pool)])[::-1]
        worth.append(np.concatenate([[0], np.cumsum(ranked)]))
        tried = np.tile(base, (n + 1, 1))
        tried[:, pool] += np.arange(n + 1)
        costs = np.array([work.options(now, np.repeat(w[:, None], 1, axis=1))[pool, 0] for w in tried])
        price.append(np.maximum(costs - costs[0], 0))
    limit, low, high, found = sum(p.max() for p in price), 0.0, 1.0, np.array(least)
    for i in range(12):
        x = 1.0 if i == 0 else (low + high) / 2
        whole = [np.ceil(p / (x * limit) * 1000 - 1e-3) for p in price]
        whole = [np.where(np.arange(len(w)) >= m, np.minimum(w, 1001), 1001) for w, m in zip(whole, least, strict=True)]
        try:
            picked = np.maximum(knapsack.choose(worth, whole, 1000), least)
        except ValueError:
            picked = np.array(least)
        cost = work.total(base + picked)
        fits = cost <= goal * (1 + 1e-6)
        if fits and cost >= work.total(base + found):
            found = picked
        low, high = (x, high) if fits else (low, x)
    return found


def dropped(structure, values, active, goal):
    """The channels that stay."""
    pool_of = structure.pools.pool_of
    widths = np.bincount(pool_of[active], minlength=len(structure.work.full))
    if goal >= structure.work.total(widths):
        return active
    kept = solved(structure, values, active, 0 * widths, widths, np.minimum(widths, 1), goal)
    return best(values, active, pool_of, kept)


def grown(structure, values, active, goal):
    """Those that stay and those that come."""
    pool_of = structure.pools.pool_of
    now = np.bincount(pool_of[active], minlength=len(structure.work.full))
    added = solved(structure, values, ~active, now, now, 0 * now, goal)
    return active | best(values, ~active, pool_of, added)


def structure_of(budget):
    """Its channels under a budget of operations."""
    return structures.channels(found(), costs=latency.analytic(network, params(), X), budget=budget)
