"""Root mean squares that are the same however an array is spread over devices."""

import math

import jax
import jax.numpy as jnp
from jax import lax


def root_mean_square(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns the root mean square over some axes, which stay with length one; float32.

    A sum of floats depends on its order, and so on the number of devices. Squares become integers of up to 28 bits
    here, as multiples of a power of two near the largest entry, and integers have one sum.

    Args:
      x: real numbers; what is not finite counts as 0.
      axes: at least one.
    """
    size = jnp.abs(x.astype(jnp.float32))
    size = jnp.where(jnp.isfinite(size), size, 0)
    bits = lax.bitcast_convert_type(jnp.max(size, axis=axes, keepdims=True), jnp.uint32)
    unit = lax.bitcast_convert_type(bits & jnp.uint32(0x7F800000), jnp.float32)  # 0 where all is 0, or subnormal
    square = jnp.square(jnp.where(unit > 0, size / unit, 0))  # below 4
    number = math.prod(x.shape[a] for a in axes)
    digit = min(14, 30 - number.bit_length())  # so that no sum reaches 2**32
    high = jnp.floor(square * 2**digit)
    low = jnp.floor((square * 2**digit - high) * 2**digit)
    sums = [jnp.sum(d.astype(jnp.uint32), axis=axes, keepdims=True, dtype=jnp.uint32) for d in (high, low)]
    total = sums[0].astype(jnp.float32) + sums[1].astype(jnp.float32) * 2.0**-digit
    return unit * jnp.sqrt(total * (2.0**-digit / number))
