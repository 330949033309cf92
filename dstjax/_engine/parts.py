"""Switches a large tree in parts, one after another, so that the keys of one part alone are held at a time."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import StoredMask, once, pack, unpack
from dstjax._arrays.counting import SMALL
from dstjax._arrays.platforms import is_cpu, is_tpu
from dstjax._arrays.selection import count_true
from dstjax._arrays.shards import may_be_cut, pieces_of
from dstjax.rules import Leaf

# A device that holds so many weights for each part, and at least twice as many, switches them in parts; there are at
# most so many. A part has loops of its own, which take longer to compile and, on many devices, a collective a pass.
PART = 13 * 2**20
PARTS = 8
# On a single TPU: the vector memory of each kind holds the keys and the scores of so many from pass to pass.
PART_OF_TPU = 9 * 2**19
# On a single CPU: its last cache holds their keys from pass to pass, and what it needs beside the arguments is taken
# from memory that the process has already, where new pages take as long as all else.
PART_OF_CPU = 17 * 2**18


def parts(weights: Sequence[jax.Array]) -> list[list[int]]:
    """Deals leaves out to a few parts that hold about the same; small ones, which are counted together, to one of them.

    On a single CPU parts have as many leaves, or one more, and small ones a part of their own if they fill half of it:
    then most kernels of the parts are the same, and are compiled once.

    Returns the leaves of each part by number.
    """
    sizes = [w.size // pieces_of(w) for w in weights]
    single_tpu, single_cpu = is_tpu() and _is_whole(weights), is_cpu() and _is_whole(weights)
    least = PART_OF_TPU if single_tpu else PART_OF_CPU if single_cpu else PART
    number = min(PARTS, sum(sizes) // least)
    if number < 2:
        return [list(range(len(sizes)))]
    small = [i for i, size in enumerate(sizes) if size < SMALL]
    large = sorted((i for i, size in enumerate(sizes) if size >= SMALL), key=lambda i: (-sizes[i], i))
    dealt = _evenly(sizes, large, small, number) if single_cpu else _by_size(sizes, large, small, number)
    return [part for part in dealt if part]


def _is_whole(weights: Sequence[jax.Array]) -> bool:
    """Whether each leaf lies on one device."""
    return not any(may_be_cut(w) for w in weights)


def _by_size(sizes: list[int], large: list[int], small: list[int], number: int) -> list[list[int]]:
    """Deals out each leaf, and the small ones together, to the part that holds the least."""
    dealt: list[list[int]] = [[] for _ in range(number)]
    held = [0] * number
    groups = [[i] for i in large] + [small]
    for total, group in sorted(((sum(sizes[i] for i in group), group) for group in groups), reverse=True):
        least = held.index(min(held))
        dealt[least] += group
        held[least] += total
    return [sorted(part) for part in dealt]


def _evenly(sizes: list[int], large: list[int], small: list[int], number: int) -> list[list[int]]:
    """Deals out equally many large leaves, from the largest on forwards and backwards."""
    apart = 2 * number * sum(sizes[i] for i in small) >= sum(sizes)
    ways = number - apart
    dealt: list[list[int]] = [[] for _ in range(ways)]
    for k, i in enumerate(large):
        turn = k % (2 * ways)
        dealt[min(turn, 2 * ways - 1 - turn)].append(i)
    if apart:
        return [*dealt, small]
    min(dealt, key=lambda part: sum(sizes[i] for i in part)).extend(small)
    return dealt


def after(
    masks: Sequence[jax.Array],
    active: jax.Array,
    leaves: Sequence[Leaf],
    keys: Sequence[jax.Array],
    stored: Sequence[StoredMask] | None = None,
) -> tuple[list[Leaf], list[jax.Array]]:
    """Returns leaves and keys as they are, but XLA reads them only after it has packed some masks.

    It would compute all parts side by side otherwise. A packed mask is computed once, others in all that reads them.
    The first part is behind no masks; on a single CPU it gets what others get, so that its kernels are theirs.

    Args:
      masks: those of the part before, or none.
      active: int32[layers], how many weights are active in some layers.
      leaves: those of this part.
      keys: their keys.
      stored: the masks of these leaves as they are stored, if known. A TPU unpacks them here, so that it holds those of
        one part alone, a byte a weight.
    """
    if is_tpu():  # whose compiler keeps to a barrier; others remove it before they choose an order
        return _behind([pack(m) for m in masks], leaves, keys, stored)
    if not masks and not (is_cpu() and _is_whole([leaf.weight for leaf in leaves])):
        return list(leaves), list(keys)
    counts = (count_true([pack(m) for m in masks]) if masks else active).astype(jnp.uint32)
    zero = jnp.max(counts) >> 31  # not known to XLA, though a leaf has less than 2**31 active weights
    is_read = zero == 0

    def key_later(key: jax.Array) -> jax.Array:
        return jax.random.wrap_key_data(jax.random.key_data(key) | zero, impl=jax.random.key_impl(key))

    def later(x: Any) -> Any:
        if not isinstance(x, jax.Array) or jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        if x.dtype == jnp.bool_:
            return x & is_read
        return jax.lax.select(is_read, x, jnp.zeros_like(x))

    def leaf_later(leaf: Leaf) -> Leaf:
        arrays = {name: x for name, x in leaf._asdict().items() if name not in ("key", "layout")}
        return leaf._replace(**jax.tree.map(later, arrays), key=key_later(leaf.key))

    return [leaf_later(leaf) for leaf in leaves], [key_later(key) for key in keys]


def _behind(
    first: Sequence[jax.Array],
    leaves: Sequence[Leaf],
    keys: Sequence[jax.Array],
    stored: Sequence[StoredMask] | None,
) -> tuple[list[Leaf], list[jax.Array]]:
    """Returns leaves and keys behind a barrier, masks unpacked there."""
    if stored is not None:
        leaves = [leaf._replace(mask=m) for leaf, m in zip(leaves, stored, strict=True)]
    some, others = list(leaves), list(keys)
    if first:
        flat, tree = jax.tree.flatten((some, others))
        arrays = [x for x in flat if isinstance(x, jax.Array)]
        _, arrays = jax.lax.optimization_barrier((list(first), arrays))
        later = iter(arrays)
        some, others = jax.tree.unflatten(tree, [next(later) if isinstance(x, jax.Array) else x for x in flat])
    if stored is not None:
        flags = once([unpack(leaf.mask) for leaf in some])
        some = [leaf._replace(mask=m) for leaf, m in zip(some, flags, strict=True)]
    return some, others
