"""Dtypes that are wide enough for sums, products and quotients of weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def wide_dtype(*dtypes: Any) -> Any:
    """Returns the dtype that holds some others, float32 at least; floats of one byte, which JAX never promotes, too."""
    promoted = (jnp.float32 if jnp.dtype(dtype).itemsize == 1 else dtype for dtype in dtypes)
    return functools.reduce(jnp.promote_types, promoted, jnp.dtype(jnp.float32))


def wide(x: jax.Array) -> jax.Array:
    """Widens to float32 at least: what is computed in half precision would collapse into ties."""
    return x.astype(wide_dtype(x.dtype))
