"""Turns scores into unsigned integers of the same order, bit by bit: NaN, infinities, signed zeros, subnormals too."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@jax.jit
def ordered_key(score: jax.Array, where: jax.Array | None) -> jax.Array:
    """Returns an unsigned integer ordered like the score; 0 for what is no candidate.

    Floats leave 0 and 1 to spare: 1 is for NaN, so a key that is not 0 is a candidate. Integers use the whole range.
    """
    if jnp.issubdtype(score.dtype, jnp.complexfloating):
        raise ValueError(f"scores of dtype {score.dtype} have no order; expected real scores.")
    if jnp.issubdtype(score.dtype, jnp.floating):
        key = _float_key(score if jnp.finfo(score.dtype).bits >= 16 else score.astype(jnp.float32))
    else:
        # Narrow integers stay narrow: a key of 8 bits takes a quarter of the passes, and each a quarter of the memory.
        if jnp.issubdtype(score.dtype, jnp.bool_) or jnp.iinfo(score.dtype).bits < 8:
            score = score.astype(jnp.int8)
        bits = jnp.iinfo(score.dtype).bits
        unsigned = jnp.dtype(f"uint{bits}")
        flip = 0 if jnp.issubdtype(score.dtype, jnp.unsignedinteger) else 1 << (bits - 1)
        key = lax.bitcast_convert_type(score, unsigned) ^ unsigned.type(flip)
    return key if where is None else jnp.where(where, key, jnp.zeros((), key.dtype))


def is_narrow_integer(dtype: Any) -> bool:
    """Whether a dtype is of booleans, or of integers of less than 32 bits."""
    return bool(dtype == jnp.bool_ or (jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits < 32))


def tell_candidates(dtype: Any) -> bool:
    """Whether the keys of scores tell what is a candidate: those of floats do, and 0 is none."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _float_key(score: jax.Array) -> jax.Array:
    # Comparisons of floats flush subnormals to zero on CPU, so everything here is done on the bits.
    width = jnp.finfo(score.dtype).bits
    unsigned = jnp.dtype(f"uint{width}")
    sign = unsigned.type(1 << (width - 1))
    bits = lax.bitcast_convert_type(score, unsigned)
    magnitude = bits & ~sign
    infinity = lax.bitcast_convert_type(jnp.asarray(jnp.inf, score.dtype), unsigned)
    negative = (bits & sign) != 0
    key = jnp.where(negative, sign - magnitude, sign + magnitude)  # -0.0 meets 0.0 at the middle
    return jnp.where(magnitude > infinity, unsigned.type(1), key)
