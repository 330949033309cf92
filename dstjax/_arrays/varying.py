"""Prepares what loops and branches begin with, within ``shard_map``.

There the type of an array says over which mesh axes it varies. A loop must begin with values of the types that it ends
with, and both sides of a branch must have the same types. Elsewhere nothing is done.
"""

from typing import Any

import jax
import jax.numpy as jnp


def varying_as(tree: Any, *arrays: Any) -> Any:
    """Returns a tree of the same numbers, each of which varies over the devices if one of some arrays does.

    Ignores shapes without values among the arrays. Reads no entry of them: XLA drops sums of nothing.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    given = (x for x in arrays if isinstance(x, jax.Array))
    zero = sum((jnp.sum(jnp.atleast_1d(x)[:0], dtype=jnp.uint32) for x in given), jnp.uint32(0))
    return jax.tree.map(lambda x: x | (zero > 0) if x.dtype == bool else x + zero.astype(x.dtype), tree)
