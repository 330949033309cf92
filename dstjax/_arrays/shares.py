"""Takes shares of counts in exact integer arithmetic, traced or not."""

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays import fixed_point
from dstjax._arrays.trees import is_traced
from dstjax._arrays.varying import varying_as
from dstjax._arrays.widening import wide

_SHARE_BITS = 60
_DIGITS = 10**12  # at most, behind the point of a decimal that somebody typed


def floor_share(count: int, fraction: float) -> Any:
    """Returns floor(fraction * count) of the decimal that was typed: 0.29 of 100 is 29, and not 28 as in binary.

    An exact integer for a number, int32 for a traced one (of which it knows the digits that its dtype holds).
    """
    if is_traced(fraction):
        return share_of(jnp.asarray(count, jnp.int32), share_limbs(fraction))
    # The nudge of a trillion is more than a rest of 1e-4.
    if count >= 2**31 and (typed := Fraction(repr(float(fraction)))).denominator <= _DIGITS:
        return math.floor(typed * count)
    return math.floor(_nudged(fraction) * count >> _SHARE_BITS)


def share_limbs(fraction: Any) -> Any:
    """Returns a fraction in [0, 1] in base 2**15, least digit first, for :func:`share_of`; the last counts whole units.

    A tuple of five integers for a number; uint32[5, ...] for an array of shape [...].
    """
    if isinstance(fraction, jax.Array):
        rest = jnp.nextafter(fraction, jnp.ones_like(fraction) * 2)
        digits = [jnp.floor(rest)]
        for _ in range(4):  # exact: powers of two, and differences of floats within a factor of two
            rest = (rest - digits[-1]) * 2**15
            digits.append(jnp.floor(rest))
        digits[-1] = jnp.ceil(rest)  # or the decimal itself would be cut off with the last digit
        return jnp.stack(digits[::-1]).astype(jnp.uint32)
    fixed = _nudged(fraction)
    return tuple(fixed >> (15 * i) & 0x7FFF for i in range(5))


def computed_limbs(fraction: jax.Array) -> jax.Array:
    """Does what :func:`share_limbs` does for a scalar that a trace has computed, to a few units in its last place.

    Within four units of a decimal of six places it is that decimal, so that 0.7 computed in float32 is 7 of 10, rounded
    up too. What is no share counts as the nearest one, and what is no number as 0.
    """
    x = wide(fraction)
    x = jnp.clip(jnp.nan_to_num(x), 0, 1)
    millionths = jnp.round(x * 10**6)
    is_decimal = jnp.abs(x - millionths / 10**6) <= 4 * jnp.finfo(x.dtype).eps * x
    decimal = jnp.stack(fixed_limbs(fixed_point.ratio(millionths.astype(jnp.int32), 10**6)[1:]))
    return jnp.where(is_decimal, decimal, share_limbs(x))


def fixed_limbs(number: jax.Array) -> list[jax.Array]:
    """Returns a number with four digits behind the point (:mod:`dstjax._arrays.fixed_point`) for :func:`share_of`.

    It may be too low by a unit or so of the last of 60 bits, and becomes larger by two: integers are not lost.
    """
    return fixed_point.settled(number + np.array([2, 0, 0, 0, 0], np.int32))


def share_of(count: jax.Array, limbs: jax.Array, *, ceil: bool = False) -> jax.Array:
    """Returns floor (or ceil) of fraction * count in exact integer arithmetic, for traced counts.

    Args:
      count: int32 of any shape, at least 0.
      limbs: uint32[5, ...], or five of them, the digits of the fraction as :func:`share_limbs` gives them.
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
    """Returns floor(count * part / whole) of int32 scalars, 0 <= part <= whole, exact though the product is too large.

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


def _nudged(fraction: float) -> int:
    """Returns the fraction in fixed point, larger by 2**-50 of itself: that undoes the rounding of decimals to binary.

    It grows by one unit at least, since what is below a unit was cut off.
    """
    fixed = int(fraction * 2.0**_SHARE_BITS)
    return fixed + max(fixed >> 50, min(fixed, 1))
