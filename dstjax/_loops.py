"""What loops and branches begin with, within ``shard_map``.

There the type of an array says over which mesh axes it varies. A loop must begin with values of the types that it ends
with, and both sides of a branch must have the same. Elsewhere these functions do nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp


def zero_of(*arrays: Any) -> jax.Array:
    """A zero, uint32[], that varies over the devices of a ``shard_map`` if one of some arrays does.

    Shapes without values do not count. No entry is read: XLA drops sums of nothing.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return jnp.uint32(0)
    given = (x for x in arrays if isinstance(x, jax.Array))
    return sum((jnp.sum(jnp.atleast_1d(x)[:0], dtype=jnp.uint32) for x in given), jnp.uint32(0))


def varying_as(tree: Any, *arrays: Any) -> Any:
    """A tree of the same numbers, each of which varies if one of some arrays does."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    zero = zero_of(*arrays)
    return jax.tree.map(lambda x: x | (zero > 0) if x.dtype == bool else x + zero.astype(x.dtype), tree)
