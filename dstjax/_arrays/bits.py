"""Stores boolean tensors at one bit per entry, and zeroes tensors where such a one is not set."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.platforms import is_tpu

StoredMask = jax.Array  # uint8 or int8 where eight neighbours share a byte, bool where they cannot


def pack(mask: jax.Array, like: Any = None) -> StoredMask:
    """Packs a boolean tensor to one bit per entry.

    Eight neighbours along one axis share a byte, the first in the lowest bit. The dtype says which axis. uint8 is the
    last but one, whose length is a multiple of eight (unpacking then shifts whole rows of bytes alike). int8 is the
    last, of any length from nine on; if its last byte holds only r entries, r axes of length one are appended. So a
    stored mask is a plain array that knows its shape, whatever tree, wrapper or checkpoint it travels through.

    A tensor stays boolean where neither axis will do, or where a device's piece of that axis may be no multiple of
    eight: as the type says on an Explicit mesh, however an Auto mesh might cut it. The type is that of ``like``, the
    weight, since a fresh mask may not know its mesh yet.

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
    """Stores a boolean tensor in the form of another stored mask of its shape, which its dtype tells."""
    by_window = is_tpu()  # there a copy brings eight neighbours to an axis of their own
    if dtype == jnp.uint8:
        return _pack(mask, mask.ndim - 2, by_window)
    if dtype == jnp.int8:
        ndim, rest = mask.ndim, mask.shape[-1] % 8
        padded = jnp.pad(mask, [(0, 0)] * (ndim - 1) + [(0, 8 - rest)]) if rest else mask
        bits = jax.lax.bitcast_convert_type(_pack(padded, ndim - 1, by_window), jnp.int8)
        return jnp.expand_dims(bits, tuple(range(ndim, ndim + rest)))
    return mask


def unpack(stored: StoredMask) -> jax.Array:
    """Returns the boolean tensor of a stored mask. Keeps leading axes that ``vmap`` added to the state."""
    if stored.dtype == jnp.uint8:
        return _unpack(stored, stored.ndim - 2)
    if stored.dtype == jnp.int8:
        rest = _trailing_ones(stored)
        bits = jax.lax.bitcast_convert_type(stored, jnp.uint8).reshape(stored.shape[: stored.ndim - rest])
        mask = _unpack(bits, bits.ndim - 1)
        return jax.lax.slice_in_dim(mask, 0, shape(stored)[-1], axis=-1) if rest else mask
    return stored


def once(masks: list[jax.Array]) -> list[jax.Array]:
    """Returns boolean tensors that many read: a TPU computes each once, since each reader would compile it again."""
    return [jax.lax.optimization_barrier(m) for m in masks] if is_tpu() else masks


def shape(stored: StoredMask) -> tuple[int, ...]:
    """Returns the shape of the boolean tensor of a stored mask."""
    if stored.dtype == jnp.uint8:
        return (*stored.shape[:-2], stored.shape[-2] * 8, stored.shape[-1])
    if stored.dtype == jnp.int8:
        rest = _trailing_ones(stored)
        *lead, last = stored.shape[: stored.ndim - rest]
        return (*lead, last * 8 - (8 - rest) % 8)
    return tuple(stored.shape)


@jax.custom_jvp
def zero_outside(x: jax.Array, flags: jax.Array) -> jax.Array:
    """Returns ``x`` where the flags are set and exactly 0.0 elsewhere, where there was NaN or infinity too.

    Masks floats by their bits. LLVM would make a masked load of a ``where`` with the constant 0, and an optimiser's
    step on a CPU would take about a quarter longer; an AND costs nothing.
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


@functools.partial(jax.jit, static_argnums=(1, 2))
def _pack(mask: jax.Array, axis: int, by_window: bool) -> jax.Array:
    if by_window:
        places = jax.lax.broadcasted_iota(jnp.int32, mask.shape, axis) % 8
        window = tuple(8 if a == axis else 1 for a in range(mask.ndim))
        bits = mask.astype(jnp.int32) << places
        return jax.lax.reduce_window(bits, np.int32(0), jax.lax.add, window, window, "VALID").astype(jnp.uint8)
    groups = mask.reshape(*mask.shape[:axis], mask.shape[axis] // 8, 8, *mask.shape[axis + 1 :])
    places = jax.lax.broadcasted_iota(jnp.uint8, groups.shape, axis + 1)
    return jax.lax.reduce(groups.astype(jnp.uint8) << places, np.uint8(0), jax.lax.bitwise_or, (axis + 1,))


@functools.partial(jax.jit, static_argnums=1)
def _unpack(bits: jax.Array, axis: int) -> jax.Array:
    shifts = _along(jnp.arange(8, dtype=jnp.uint8), axis + 1, bits.ndim + 1)
    flags = (jnp.expand_dims(bits, axis + 1) >> shifts) & jnp.uint8(1)
    return flags.reshape(*bits.shape[:axis], bits.shape[axis] * 8, *bits.shape[axis + 1 :]).astype(bool)


def _trailing_ones(stored: StoredMask) -> int:
    return next((n for n, length in enumerate(reversed(stored.shape)) if length != 1), stored.ndim)


def _cuts_at_bytes(weight: Any, axis: int) -> bool:
    """Whether the length of each device's piece of the axis is a multiple of eight, however the compiler cuts it."""
    piece, ways = _piece(weight, axis)
    return piece > 0 and piece % (8 * ways) == 0


def _is_whole(weight: Any, axis: int) -> bool:
    """Whether every device has the whole axis."""
    return _piece(weight, axis) == (weight.shape[axis], 1)


def _piece(weight: Any, axis: int) -> tuple[int, int]:
    """Returns the length of each device's piece by its type, and into how many the compiler may cut it further."""
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
