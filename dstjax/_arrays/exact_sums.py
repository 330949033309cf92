"""Root mean squares that are the same however an array is spread over devices."""

import math

import jax
import jax.numpy as jnp
from jax import lax

BITS = 28  # behind the point, of a square in units of the largest


def root_mean_square(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns the root mean square over some axes, which stay with length one; float32.

    A sum of floats depends on its order, and so on the number of devices. Squares become integers of 28 bits here, as
    multiples of a power of two near the largest entry, and integers have one sum. It is kept in digits that are summed
    over one axis after another, so that it has these bits however many entries there are.

    Args:
      x: real numbers; what is not finite counts as 0. The mean of none is 0.
      axes: at least one.
    """
    size = jnp.abs(x.astype(jnp.float32))
    size = jnp.where(jnp.isfinite(size), size, 0)
    bits = lax.bitcast_convert_type(jnp.max(size, axis=axes, keepdims=True, initial=0), jnp.uint32)
    unit = lax.bitcast_convert_type(bits & jnp.uint32(0x7F800000), jnp.float32)  # 0 where all is 0, or subnormal
    rest = jnp.square(jnp.where(unit > 0, size / unit, 0))  # below 4
    longest = max(x.shape[a] for a in axes)
    width = max(1, min(14, 30 - longest.bit_length()))  # so that no sum of digits reaches 2**32
    digits = [jnp.floor(rest)]
    places = -(-BITS // width)
    for place in range(1, places + 1):
        rest = (rest - digits[-1]) * 2**width
        # The last is rounded: what is cut off of many small squares would add up.
        digits.append(jnp.floor(rest) if place < places else jnp.round(rest))
    numbers = [d.astype(jnp.uint32) for d in reversed(digits)]  # the last digit first
    # Squares below 4 add up to less than 4 times their number: digits above are 0, and their units beyond float32.
    number = math.prod(x.shape[a] for a in axes)
    above = -(-(2 + number.bit_length()) // width)
    for axis in axes:
        numbers = _carried(_sums(numbers, axis), width)[: places + above]
    total = jnp.zeros_like(unit)
    for place, n in reversed(list(enumerate(numbers, 1 - len(digits)))):
        total = total + n.astype(jnp.float32) * 2.0 ** (place * width)
    return unit * jnp.sqrt(total / max(number, 1))


def _sums(numbers: list[jax.Array], axis: int) -> list[jax.Array]:
    """Sums arrays of one shape over an axis in one pass, so that no digit of an entry is ever stored."""
    zeros = tuple(jnp.zeros((), jnp.uint32) for _ in numbers)
    sums = lax.reduce(tuple(numbers), zeros, lambda a, b: tuple(map(lax.add, a, b)), (axis,))
    return [jnp.expand_dims(n, axis) for n in sums]


def _carried(sums: list[jax.Array], width: int) -> list[jax.Array]:
    """Sums of digits as digits, the last first; there may be more of them."""
    carry, found = jnp.zeros_like(sums[0]), []
    for n in [*sums, *[carry] * -(-32 // width)]:
        n = n + carry
        found.append(n & jnp.uint32(2**width - 1))
        carry = n >> width
    return found
