"""Sums of counts beyond 32 bits, in two parts: a budget that all layers of a very large network have in common."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BITS = 16  # of the low part
LIMIT = 2**31  # weights from which on numbers of all layers together are wide


class Wide(NamedTuple):
    """Holds numbers high * 2**BITS + low, uint32 each, low below 2**BITS: less than 2**48."""

    high: jax.Array
    low: jax.Array

    def to_float(self) -> jax.Array:
        """Returns the nearest float32 of each, as of an integer that is converted."""
        return self.high.astype(jnp.float32) * 2.0**BITS + self.low.astype(jnp.float32)

    def __int__(self) -> int:
        """Returns the one number, on the host."""
        return (int(self.high) << BITS) + int(self.low)


def is_large(sizes: Sequence[int]) -> bool:
    """Whether numbers of weights of such leaves together may not fit in 32 bits."""
    return sum(sizes) >= LIMIT


def total(counts: jax.Array) -> Wide:
    """Returns the sums over the last axis of counts, uint32; at most 2**16 of them are added up."""
    counts = counts.astype(jnp.uint32)
    high = jnp.sum(counts >> BITS, axis=-1, dtype=jnp.uint32)
    low = jnp.sum(counts & _lowest(), axis=-1, dtype=jnp.uint32)
    return _carried(high, low)


def counted(flags: jax.Array, limit: int = 2**32) -> Wide:
    """Returns how many entries of an array are true; ``limit`` says from how many on they are counted in parts.

    Along the longest axis in one sum, and the sums byte by byte: exact for fewer than 2**48 entries, of which that axis
    has at least one in 2**24.
    """
    if flags.size < limit:
        count = jnp.sum(flags, dtype=jnp.uint32)
        return Wide(count >> BITS, count & _lowest())
    sums = jnp.sum(flags, axis=int(np.argmax(flags.shape)), dtype=jnp.uint32)
    a, b, c, d = (jnp.sum(sums >> 8 * i & jnp.uint32(255), dtype=jnp.uint32) for i in range(4))
    low = (a & _lowest()) + ((b & jnp.uint32(255)) << 8)
    return _carried((a >> BITS) + (b >> 8) + c + (d << 8), low)


def surplus(counts: jax.Array) -> Wide:
    """Returns the sum over the last axis of signed counts, int32; 0 where it is negative."""
    return minus(total(jnp.maximum(counts, 0)), total(jnp.maximum(-counts, 0)))


def before(counts: jax.Array) -> Wide:
    """Returns for each count of a vector, uint32, the sum of those before it."""
    high, low = counts >> BITS, counts & _lowest()
    return _carried(*(jnp.cumsum(part, dtype=jnp.uint32) - part for part in (high, low)))


def at_least(a: Wide, b: Wide) -> jax.Array:
    """Whether a >= b, each with each."""
    return (a.high > b.high) | ((a.high == b.high) & (a.low >= b.low))


def minus(a: Wide, b: Wide) -> Wide:
    """Returns a - b, and 0 where b is larger."""
    borrow = (a.low < b.low).astype(jnp.uint32)
    found = Wide(a.high - b.high - borrow, a.low + (borrow << BITS) - b.low)
    enough = at_least(a, b)
    return Wide(*(jnp.where(enough, part, jnp.uint32(0)) for part in found))


def narrow(a: Wide) -> jax.Array:
    """Returns the numbers as uint32, the highest one where they are larger."""
    fits = a.high < 2 ** (32 - BITS)
    return jnp.where(fits, (a.high << BITS) | a.low, jnp.uint32(2**32 - 1))


def _carried(high: jax.Array, low: jax.Array) -> Wide:
    return Wide(high + (low >> BITS), low & _lowest())


def _lowest() -> jax.Array:
    return jnp.uint32(2**BITS - 1)
