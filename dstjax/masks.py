"""Boolean masks: stored one bit per weight, applied, counted, compared."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.trees import Tree, is_hole, path_name
from dstjax._arrays.varying import varying_as
from dstjax.checks import is_traced

StoredMask = jax.Array  # uint8 or int8 where eight neighbours share a byte, bool where they cannot


def pack(mask: jax.Array, like: Any = None) -> StoredMask:
    """Packs a boolean tensor to one bit per entry.

    Eight neighbours along one axis share a byte, the first in the lowest bit. The dtype says which axis: uint8 is the
    last but one, which is a multiple of eight long (unpacking then shifts whole rows of bytes alike); int8 is the last,
    of any length from nine on. If its last byte holds only r entries, r axes of length one are appended. So a stored
    mask is a plain array that knows its shape, whatever tree, wrapper or checkpoint it travels through.

    A tensor stays boolean where neither axis will do, or where the pieces of that axis that lie on different devices
    may be no multiple of eight: in the way that the type says on an Explicit mesh, in any way that an Auto mesh could
    cut it. That type is the one of ``like``, the weight, since a fresh mask may not know its mesh yet.

    >>> pack(jnp.arange(18) < 3)[:, 0, 0]
    Array([7, 0, 0], dtype=int8)
    """
    ndim, weight = mask.ndim, mask if like is None else like
    if not mask.size:
        return mask
    if ndim >= 2 and _cuts_at_bytes(weight, ndim - 2):
        return pack_like(mask, jnp.uint8)
    if ndim >= 1 and mask.shape[-1] > 8 and (_cuts_at_bytes(weight, ndim - 1) or _is_whole(weight, ndim - 1)):
        return pack_like(mask, jnp.int8)
    return mask


def pack_like(mask: jax.Array, dtype: Any) -> StoredMask:
    """Stores a boolean tensor in the form that another stored mask of its shape has, as told by its dtype."""
    if dtype == jnp.uint8:
        return _pack(mask, mask.ndim - 2)
    if dtype == jnp.int8:
        ndim, rest = mask.ndim, mask.shape[-1] % 8
        padded = jnp.pad(mask, [(0, 0)] * (ndim - 1) + [(0, 8 - rest)]) if rest else mask
        bits = jax.lax.bitcast_convert_type(_pack(padded, ndim - 1), jnp.int8)
        return jnp.expand_dims(bits, tuple(range(ndim, ndim + rest)))
    return mask


def unpack(stored: StoredMask) -> jax.Array:
    """The boolean tensor of a stored mask. Leading axes that ``vmap`` added to the state are kept."""
    if stored.dtype == jnp.uint8:
        return _unpack(stored, stored.ndim - 2)
    if stored.dtype == jnp.int8:
        rest = _trailing_ones(stored)
        bits = jax.lax.bitcast_convert_type(stored, jnp.uint8).reshape(stored.shape[: stored.ndim - rest])
        mask = _unpack(bits, bits.ndim - 1)
        return jax.lax.slice_in_dim(mask, 0, shape(stored)[-1], axis=-1) if rest else mask
    return stored


def shape(stored: StoredMask) -> tuple[int, ...]:
    """The shape of the boolean tensor of a stored mask."""
    if stored.dtype == jnp.uint8:
        return (*stored.shape[:-2], stored.shape[-2] * 8, stored.shape[-1])
    if stored.dtype == jnp.int8:
        rest = _trailing_ones(stored)
        *lead, last = stored.shape[: stored.ndim - rest]
        return (*lead, last * 8 - (8 - rest) % 8)
    return tuple(stored.shape)


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


@jax.custom_jvp
def zero_outside(x: jax.Array, flags: jax.Array) -> jax.Array:
    """``x`` where the flags are set and exactly 0.0 elsewhere, NaN and infinities included.

    Floats are masked by their bits: LLVM makes a masked load of a ``where`` with the constant 0, and an optimiser's
    step on a CPU then takes about a quarter longer; an AND costs nothing.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.where(flags, x, jnp.zeros((), x.dtype))
    bits = jnp.dtype(f"int{jnp.finfo(x.dtype).bits}")
    masked = jax.lax.bitcast_convert_type(x, bits) & -flags.astype(bits)
    return jax.lax.bitcast_convert_type(masked, x.dtype)


@zero_outside.defjvp
def _zero_outside_jvp(primals: Any, tangents: Any) -> Any:
    x, flags = primals
    return zero_outside(x, flags), jnp.where(flags, tangents[0], jnp.zeros((), x.dtype))


def by_name(masks: Tree) -> dict[str, StoredMask | None]:
    """The leaves of a tree of masks by path name; ``None`` at dense leaves."""
    flat = jax.tree_util.tree_flatten_with_path(masks, is_leaf=is_hole)[0]
    return {path_name(path): None if is_hole(mask) else mask for path, mask in flat}


def count_active(masks: Tree) -> dict[str, int]:
    """Active weights of each masked leaf by path, as Python integers."""
    return {
        name: int(jnp.sum(unpack(mask), dtype=jnp.uint32)) for name, mask in by_name(masks).items() if mask is not None
    }


def overlap(a: Tree, b: Tree) -> dict[str, jax.Array]:
    """Jaccard index |A and B| / |A or B| of two trees of masks, for each leaf that both mask; 1 where both are empty.

    Reference: Nowak et al., "Fantastic weights and how to find them", 2023, Figure 6; the mask IoU of IEE is the same.
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
        digits[-1] = jnp.ceil(rest)  # or the decimal itself would be cut off with the last digit
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


def part_of(count: jax.Array, part: jax.Array, whole: jax.Array) -> jax.Array:
    """floor(count * part / whole) of int32 scalars with 0 <= part <= whole, exact although the product is too large.

    >>> int(part_of(jnp.int32(2_000_000_000), jnp.int32(3), jnp.int32(4)))
    1500000000
    """
    n, b, c = (jnp.asarray(x).astype(jnp.uint32) for x in (count, part, jnp.maximum(whole, 1)))

    def digit(i: Any, loop: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        quotient, rest = loop[0] * 2, loop[1] * 2
        quotient, rest = quotient + (rest >= c).astype(jnp.uint32), jnp.where(rest >= c, rest - c, rest)
        rest = rest + jnp.where((n >> (31 - jnp.asarray(i).astype(jnp.uint32))) & 1 == 1, b, jnp.uint32(0))
        return quotient + (rest >= c).astype(jnp.uint32), jnp.where(rest >= c, rest - c, rest)

    zero = varying_as(jnp.zeros((), jnp.uint32), n, b, c)
    return jax.lax.fori_loop(0, 32, digit, (zero, zero))[0].astype(jnp.int32)


_SHARE_BITS = 60


def _nudged(fraction: float) -> int:
    """The fraction in fixed point, larger by 2**-50 of itself: that undoes the rounding of decimals to binary.

    By one unit at least, since what is below a unit was cut off.
    """
    fixed = int(fraction * 2.0**_SHARE_BITS)
    return fixed + max(fixed >> 50, min(fixed, 1))


def _pairwise(a: Tree, b: Tree, of: Callable[[jax.Array, jax.Array], jax.Array]) -> dict[str, jax.Array]:
    left, right = by_name(a), by_name(b)
    if left.keys() != right.keys():
        raise ValueError(f"the two trees mask different leaves: {sorted(left.keys() ^ right.keys())}.")
    result = {}
    for name, x in left.items():
        y = right[name]
        if x is not None and y is not None:
            p, q = unpack(x), unpack(y)
            both = jnp.sum(p & q, dtype=jnp.uint32)
            result[name] = of(both, jnp.sum(p | q, dtype=jnp.uint32))
    if not result:
        raise ValueError("the two trees have no masked leaf in common.")
    return result


@functools.partial(jax.jit, static_argnums=1)
def _pack(mask: jax.Array, axis: int) -> jax.Array:
    groups = mask.reshape(*mask.shape[:axis], mask.shape[axis] // 8, 8, *mask.shape[axis + 1 :])
    weights = _along(jnp.uint8(1) << jnp.arange(8, dtype=jnp.uint8), axis + 1, groups.ndim)
    return jnp.sum(jnp.where(groups, weights, jnp.uint8(0)), axis=axis + 1, dtype=jnp.uint8)


@functools.partial(jax.jit, static_argnums=1)
def _unpack(bits: jax.Array, axis: int) -> jax.Array:
    shifts = _along(jnp.arange(8, dtype=jnp.uint8), axis + 1, bits.ndim + 1)
    flags = (jnp.expand_dims(bits, axis + 1) >> shifts) & jnp.uint8(1)
    return flags.reshape(*bits.shape[:axis], bits.shape[axis] * 8, *bits.shape[axis + 1 :]).astype(bool)


def _trailing_ones(stored: StoredMask) -> int:
    return next((n for n, length in enumerate(reversed(stored.shape)) if length != 1), stored.ndim)


def _cuts_at_bytes(weight: Any, axis: int) -> bool:
    """Whether each device's piece of the axis is a multiple of eight long, however the compiler may cut it."""
    piece, ways = _piece(weight, axis)
    return piece > 0 and piece % (8 * ways) == 0


def _is_whole(weight: Any, axis: int) -> bool:
    """Whether no device has less than the whole axis."""
    return _piece(weight, axis) == (weight.shape[axis], 1)


def _piece(weight: Any, axis: int) -> tuple[int, int]:
    """How long each device's piece of the axis is by its type, and into how many the compiler may cut it further."""
    sharding = jax.typeof(weight).sharding if isinstance(weight, jax.Array) else getattr(weight, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    if sharding is None or mesh is None or not mesh.shape:
        return weight.shape[axis], 1
    ways = math.prod(mesh.shape[name] for name in mesh.auto_axes)
    entries = (*sharding.spec, *[None] * weight.ndim)
    names = entries[axis] if isinstance(entries[axis], tuple) else (entries[axis],)
    typed = math.prod(mesh.shape[name] for name in names if name is not None and name not in mesh.auto_axes)
    return weight.shape[axis] // typed, ways


def _along(x: jax.Array, axis: int, ndim: int) -> jax.Array:
    return x.reshape([-1 if a == axis else 1 for a in range(ndim)])
