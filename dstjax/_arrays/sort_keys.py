"""Turns scores into unsigned integers of the same order, bit by bit: NaN, infinities, signed zeros, subnormals too."""

from collections.abc import Sequence
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


def common_dtype(dtypes: Sequence[Any]) -> Any:
    """Returns a dtype that holds scores of several exactly, so that keys of one order rank them.

    Raises:
      ValueError: there is none, as for int32 and float32.
    """
    distinct = sorted({jnp.dtype(d) for d in dtypes}, key=str)
    if len(distinct) == 1:
        return distinct[0]
    for name in ("int32", "uint32", "float32", "int64", "uint64", "float64"):
        wide = jnp.dtype(name)
        if jax.dtypes.canonicalize_dtype(wide) == wide and all(_holds(wide, d) for d in distinct):
            return wide
    names = ", ".join(map(str, distinct))
    raise ValueError(
        f"scores of dtypes {names} have no common order that is exact; expected one dtype in all leaves that are "
        "ranked together."
    )


def _holds(wide: Any, narrow: Any) -> bool:
    """Whether a dtype has every number of another one."""
    is_integer = [bool(d == jnp.bool_ or jnp.issubdtype(d, jnp.integer)) for d in (wide, narrow)]
    if narrow == jnp.bool_ or wide == narrow:
        return True
    if all(is_integer):
        return bool(jnp.iinfo(wide).min <= jnp.iinfo(narrow).min and jnp.iinfo(narrow).max <= jnp.iinfo(wide).max)
    if is_integer[1]:
        return bool(jnp.iinfo(narrow).bits <= jnp.finfo(wide).nmant)
    return not is_integer[0] and jnp.issubdtype(narrow, jnp.floating) and jnp.finfo(narrow).bits < jnp.finfo(wide).bits


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
