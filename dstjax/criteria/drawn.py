"""Criteria that draw: random scores, and random ones among neighbours of active weights."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dstjax._arrays.drawing import random_bits
from dstjax._arrays.layout import lanes_of, order_of
from dstjax.rules import Leaf, of_all_leaves


@of_all_leaves
def random(leaves: Sequence[Leaf]) -> list[jax.Array]:
    """Scores 32 random bits for each weight, the same on every number of devices."""
    shardings = [jax.typeof(leaf.weight).sharding for leaf in leaves]
    return random_bits([leaf.key for leaf in leaves], [leaf.weight.shape for leaf in leaves], shardings)


def one_neighbour(leaf: Leaf) -> jax.Array:
    """Grows at random where one of the eight weights around is active; where these run out, anywhere.

    A layer counts as a matrix with a column for each output; its rows are (window..., inputs).

    Reference: Scholte, "Regrowing strategies for dynamic sparse training", 2022, one-activated-neighbour growth. The
    formula prints the diagonals alone, the figure all eight. SET grows one at a time, and would count those just grown.
    """
    near = (_neighbours(leaf) > 0).astype(jnp.uint32)
    return (near << 31) | (random(leaf) >> 1)


def most_neighbours(leaf: Leaf) -> jax.Array:
    """Scores how many of the eight weights around are active; of equals a random one wins.

    Reference: as :func:`one_neighbour`, most-activated-neighbours growth, which takes the first of equals.
    """
    return (_neighbours(leaf) << 28) | (random(leaf) >> 4)


def _neighbours(leaf: Leaf) -> jax.Array:
    """Counts the active entries among the eight around each one, uint32; nothing lies beyond the edge."""
    mask, ndim = leaf.mask, leaf.mask.ndim
    stack, order = lanes_of(leaf.layout), order_of(leaf.layout, ndim)
    outputs = leaf.layout.outputs if leaf.layout is not None else order[-1:]

    def count(mask: jax.Array) -> jax.Array:
        turned = mask.transpose(stack + order)
        columns = math.prod(mask.shape[a] for a in outputs)
        layers = math.prod(mask.shape[a] for a in stack)
        matrix = turned.reshape(layers, -1, columns).astype(jnp.uint32)
        rows = matrix.shape[1]
        wide = jnp.pad(matrix, ((0, 0), (1, 1), (1, 1)))
        total = sum(wide[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
        return (total - matrix).reshape(turned.shape).transpose([(stack + order).index(a) for a in range(ndim)])

    sharding = jax.typeof(mask).sharding
    if not sharding.mesh.explicit_axes:
        return count(mask)
    # The compiler decides how neighbours reach each other: types of shardings cannot express an axis two longer.
    return jax.sharding.auto_axes(count, out_sharding=sharding)(mask)
