"""Boolean masks: stored one bit per weight, applied, counted, compared."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._checks import is_traced
from dstjax._trees import Tree, is_hole, path_name

StoredMask = jax.Array  # uint8 or int8 where eight neighbours share a byte, bool where they cannot


def pack(mask: jax.Array) -> StoredMask:
    """Packs a boolean tensor to one bit per entry.

    Eight neighbours along one axis share a byte, the first in the lowest bit. The dtype says which axis: uint8 is the
    last axis but one (unpacking then shifts whole rows of bytes alike), int8 the last. So a stored mask is a plain
    array that knows its shape, whatever tree, wrapper or checkpoint it travels through.

    A tensor stays boolean where neither axis is a multiple of eight long, or where such an axis is sharded (on an
    Explicit mesh, or as a concrete array) in pieces that are none.

    >>> pack(jnp.array([True, False, True, False, False, False, False, False]))
    Array([5], dtype=int8)
    """
    for axis, dtype in _PACKED:
        if mask.ndim >= -axis and _pieces_of_eight(mask, mask.ndim + axis):
            at = mask.ndim + axis
            groups = mask.reshape(*mask.shape[:at], mask.shape[at] // 8, 8, *mask.shape[at + 1 :])
            weights = _along(jnp.uint8(1) << jnp.arange(8, dtype=jnp.uint8), at + 1, groups.ndim)
            bits = jnp.sum(jnp.where(groups, weights, jnp.uint8(0)), axis=at + 1, dtype=jnp.uint8)
            return jax.lax.bitcast_convert_type(bits, dtype)
    return mask


def unpack(stored: StoredMask) -> jax.Array:
    """The boolean tensor of a stored mask. Leading axes that ``vmap`` added to the state are kept."""
    for axis, dtype in _PACKED:
        if stored.dtype == dtype:
            at = stored.ndim + axis
            shifts = _along(jnp.arange(8, dtype=jnp.uint8), at + 1, stored.ndim + 1)
            bits = jnp.expand_dims(jax.lax.bitcast_convert_type(stored, jnp.uint8), at + 1)
            flags = (bits >> shifts) & jnp.uint8(1)
            return flags.reshape(*stored.shape[:at], stored.shape[at] * 8, *stored.shape[at + 1 :]).astype(bool)
    return stored


def shape(stored: StoredMask) -> tuple[int, ...]:
    """The shape of the boolean tensor of a stored mask."""
    packed = {jnp.dtype(dtype): axis for axis, dtype in _PACKED}
    axis = packed.get(jnp.dtype(stored.dtype))
    return tuple(n * 8 if a - stored.ndim == axis else n for a, n in enumerate(stored.shape))


def apply(params: Tree, masks: Tree) -> Tree:
    """Sets the inactive weights of a tree to exactly zero.

    Args:
      params: tree of weights.
      masks: tree with the same paths; boolean tensors or stored masks, ``None`` at dense leaves. Leaves of ``params``
        that have no path in ``masks`` stay as they are.

    Returns:
      The tree of weights, dtypes kept.

    Raises:
      ValueError: a mask has another shape than its weight, or no weight at all.
    """
    by_path = by_name(masks)
    used = set()

    def one(path: tuple[Any, ...], weight: Any) -> Any:
        name = path_name(path)
        mask = by_path.get(name)
        if mask is None:
            return weight
        used.add(name)
        flags = unpack(mask)
        if flags.shape != jnp.shape(weight):
            raise ValueError(f"the mask of {name!r} has shape {flags.shape}, its weight {jnp.shape(weight)}.")
        return jnp.where(flags, weight, jnp.zeros((), jnp.result_type(weight)))

    masked = jax.tree_util.tree_map_with_path(one, params)
    lost = {name for name, mask in by_path.items() if mask is not None} - used
    if lost:
        raise ValueError(f"no weight has the path of these masks: {', '.join(sorted(lost))}.")
    return masked


def by_name(masks: Tree) -> dict[str, StoredMask | None]:
    """The leaves of a tree of masks by path name; ``None`` at dense leaves."""
    flat = jax.tree_util.tree_flatten_with_path(masks, is_leaf=is_hole)[0]
    return {path_name(path): None if is_hole(mask) else mask for path, mask in flat}


def count_active(masks: Tree) -> dict[str, int]:
    """Active weights of each masked leaf by path, as Python integers."""
    return {
        name: int(jnp.sum(unpack(mask), dtype=jnp.int32)) for name, mask in by_name(masks).items() if mask is not None
    }


def overlap(a: Tree, b: Tree) -> dict[str, jax.Array]:
    """Jaccard index |A and B| / |A or B| of two trees of masks, for each leaf that both mask; 1 where both are empty.

    Reference: "Pruning criteria in dynamic sparse training" (2023), Figure 6; the mask IoU of IEE is the same formula.
    """
    return _pairwise(a, b, lambda both, either: jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1)))


def jaccard(a: Tree, b: Tree) -> jax.Array:
    """The Jaccard index of two trees of masks averaged over the layers, float32 scalar."""
    return jnp.mean(jnp.stack(list(overlap(a, b).values())))


def iou(a: Tree, b: Tree) -> jax.Array:
    """Intersection over union of two trees of masks, all layers pooled, float32 scalar."""
    counts = list(_pairwise(a, b, lambda both, either: jnp.stack([both, either])).values())
    both, either = jnp.sum(jnp.stack(counts).astype(jnp.float32), axis=0)
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))


def error(weights: list[jax.Array], new: list[jax.Array]) -> jax.Array:
    """Mask-incurred error of a list of weights: ||W * M - W||^2 / ||W||^2 over all of them, float32 scalar.

    Reference: DST-EE, Assumption 3 (tau squared).
    """
    squares = [jnp.square(w.astype(jnp.float32)) for w in weights]
    lost = sum(jnp.sum(jnp.where(m, 0.0, s)) for s, m in zip(squares, new, strict=True))
    total = jnp.asarray(sum(jnp.sum(s) for s in squares), jnp.float32)
    return jnp.where(total > 0, lost / jnp.maximum(total, jnp.finfo(jnp.float32).tiny), 0.0).astype(jnp.float32)


def floor_share(count: int, fraction: float) -> Any:
    """floor(fraction * count) of the decimal that was typed: 0.29 of 100 is 29, though 0.29 * 100 < 29 in binary.

    An exact integer for a number, int32 for a traced one (of which it knows the digits that its dtype holds).
    """
    if is_traced(fraction):
        return share_of(jnp.asarray(count, jnp.int32), share_limbs(fraction))
    return math.floor(_nudged(fraction) * count >> _SHARE_BITS)


def share_limbs(fraction: Any) -> Any:
    """A fraction in [0, 1] in base 2**15, least digit first, for :func:`share_of`; the last limb counts whole units.

    A tuple of five integers for a number; uint32[5, ...] for a traced array of shape [...].
    """
    if is_traced(fraction):
        rest = jnp.nextafter(fraction, jnp.ones_like(fraction) * 2)
        digits = [jnp.floor(rest)]
        for _ in range(4):  # exact: powers of two, and differences of floats within a factor of two
            rest = (rest - digits[-1]) * 2**15
            digits.append(jnp.floor(rest))
        return jnp.stack(digits[::-1]).astype(jnp.uint32)
    fixed = _nudged(fraction)
    return tuple(fixed >> (15 * i) & 0x7FFF for i in range(5))


def share_of(count: jax.Array, limbs: jax.Array, *, ceil: bool = False) -> jax.Array:
    """Floor (or ceil) of fraction * count in exact integer arithmetic, for traced counts.

    Args:
      count: int32 of any shape, at least 0.
      limbs: uint32[5, ...], the digits of the fraction as :func:`share_limbs` gives them.
      ceil: round up instead of down.

    Returns:
      int32 of the shape of ``count``; equal to :func:`floor_share` bit for bit.
    """
    a = [(count.astype(jnp.uint32) >> (15 * i)) & jnp.uint32(0x7FFF) for i in range(3)]
    carry = jnp.zeros_like(a[0])
    digits = []
    for place in range(8):
        total = carry
        for i in range(3):
            if 0 <= place - i < 5:
                total = total + a[i] * limbs[place - i]
        digits.append(total & jnp.uint32(0x7FFF))
        carry = total >> 15
    whole = digits[4] + (digits[5] << 15) + (digits[6] << 30)
    if ceil:
        # The nudge of 2**-50 must not lift an exact integer, so a rest of less than 2**-15 counts as none.
        whole = whole + (digits[3] > 0).astype(jnp.uint32)
    return whole.astype(jnp.int32)


_SHARE_BITS = 60
_PACKED = ((-2, jnp.uint8), (-1, jnp.int8))


def _nudged(fraction: float) -> int:
    """The fraction in fixed point, larger by 2**-50 of itself: that undoes the rounding of decimals to binary."""
    fixed = int(fraction * 2.0**_SHARE_BITS)
    return fixed + (fixed >> 50)


def _pairwise(a: Tree, b: Tree, of: Callable[[jax.Array, jax.Array], jax.Array]) -> dict[str, jax.Array]:
    left, right = by_name(a), by_name(b)
    if left.keys() != right.keys():
        raise ValueError(f"the two trees mask different leaves: {sorted(left.keys() ^ right.keys())}.")
    result = {}
    for name, x in left.items():
        y = right[name]
        if x is not None and y is not None:
            p, q = unpack(x), unpack(y)
            both = jnp.sum(p & q, dtype=jnp.int32)
            result[name] = of(both, jnp.sum(p | q, dtype=jnp.int32))
    if not result:
        raise ValueError("the two trees have no masked leaf in common.")
    return result


def _pieces_of_eight(mask: jax.Array, axis: int) -> bool:
    """Whether packing along the axis loses nothing and stays inside each device's piece."""
    length = mask.shape[axis]
    try:
        sharding = jax.typeof(mask).sharding
        piece = sharding.shard_shape(mask.shape)[axis] if sharding.mesh.shape else length
    except (AttributeError, ValueError):
        piece = length
    return length > 0 and length % 8 == 0 and piece % 8 == 0


def _along(x: jax.Array, axis: int, ndim: int) -> jax.Array:
    return x.reshape([-1 if a == axis else 1 for a in range(ndim)])
