"""Switches a large tree in parts, one after another, so that the keys of one part alone are held at a time."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import pack
from dstjax._arrays.counting import SMALL
from dstjax._arrays.platforms import is_tpu
from dstjax._arrays.selection import count_true
from dstjax._arrays.shards import may_be_cut, pieces_of
from dstjax.rules import Leaf

# A device that holds so many weights for each part, and at least twice as many, switches them in parts; there are at
# most so many. A part has loops of its own, which take longer to compile and, on many devices, a collective a pass.
PART = 13 * 2**20
PARTS = 8
# On a single TPU: the vector memory of each kind holds the keys and the scores of so many from pass to pass.
PART_OF_TPU = 9 * 2**19


def parts(weights: Sequence[jax.Array]) -> list[list[int]]:
    """Deals leaves out to a few parts that hold about the same; small ones, which are counted together, to one of them.

    Returns the leaves of each part by number, in their order.
    """
    sizes = [w.size // pieces_of(w) for w in weights]
    single = is_tpu() and not any(may_be_cut(w) for w in weights)
    number = min(PARTS, sum(sizes) // (PART_OF_TPU if single else PART))
    if number < 2:
        return [list(range(len(sizes)))]
    small = [i for i, size in enumerate(sizes) if size < SMALL]
    groups = [[i] for i, size in enumerate(sizes) if size >= SMALL] + [small]
    dealt: list[list[int]] = [[] for _ in range(number)]
    held = [0] * number
    for total, group in sorted(((sum(sizes[i] for i in group), group) for group in groups), reverse=True):
        least = held.index(min(held))
        dealt[least] += group
        held[least] += total
    return [sorted(part) for part in dealt if part]


def after(
    masks: Sequence[jax.Array], leaves: Sequence[Leaf], keys: Sequence[jax.Array]
) -> tuple[list[Leaf], list[jax.Array]]:
    """Returns leaves and keys as they are, but XLA reads them only after it has packed some masks.

    It would compute all parts side by side otherwise. A packed mask is computed once, others in all that reads them.
    """
    if is_tpu():  # whose compiler keeps to a barrier; others remove it before they choose an order
        return _behind([pack(m) for m in masks], leaves, keys)
    counts = count_true([pack(m) for m in masks]).astype(jnp.uint32)
    zero = jnp.bitwise_or.reduce(counts) >> 31  # not known to XLA, though a leaf has less than 2**31 active weights
    is_read = zero == 0

    def key_later(key: jax.Array) -> jax.Array:
        return jax.random.wrap_key_data(jax.random.key_data(key) | zero, impl=jax.random.key_impl(key))

    def later(x: Any) -> Any:
        if not isinstance(x, jax.Array) or jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        return x & is_read if x.dtype == jnp.bool_ else jnp.where(is_read, x, jnp.zeros((), x.dtype))

    def leaf_later(leaf: Leaf) -> Leaf:
        arrays = {name: x for name, x in leaf._asdict().items() if name not in ("key", "layout")}
        return leaf._replace(**jax.tree.map(later, arrays), key=key_later(leaf.key))

    return [leaf_later(leaf) for leaf in leaves], [key_later(key) for key in keys]


def _behind(
    first: Sequence[jax.Array], leaves: Sequence[Leaf], keys: Sequence[jax.Array]
) -> tuple[list[Leaf], list[jax.Array]]:
    """Returns leaves and keys behind a barrier."""
    flat, tree = jax.tree.flatten((list(leaves), list(keys)))
    arrays = [x for x in flat if isinstance(x, jax.Array)]
    _, arrays = jax.lax.optimization_barrier((list(first), arrays))
    later = iter(arrays)
    return jax.tree.unflatten(tree, [next(later) if isinstance(x, jax.Array) else x for x in flat])
