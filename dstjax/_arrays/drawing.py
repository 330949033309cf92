"""Draws random bits for many tensors in few kernels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p

from dstjax._arrays.shards import may_be_cut

SMALL = 2**19  # entries below which tensors are drawn together
WIDTH = 1024  # entries of a row; each tensor begins a row


def random_bits(
    keys: Sequence[jax.Array], shapes: Sequence[tuple[int, ...]], shardings: Sequence[Any]
) -> list[jax.Array]:
    """Draws 32 random bits for each entry of each tensor: those of ``jax.random.bits`` with its key.

    Small tensors that lie on one device are drawn together: a generator for each takes longer to compile than all else
    of a mask update.

    Args:
      keys: a key for each tensor.
      shapes: their shapes.
      shardings: their shardings, where types show them; else None.

    Returns:
      uint32 of each shape.
    """
    found: list[Any] = [None] * len(shapes)
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    together = [
        i
        for i, (key, size, sharding) in enumerate(zip(keys, sizes, shardings, strict=True))
        if 0 < size < SMALL and _is_threefry(key) and not may_be_cut(sharding)
    ]
    if len(together) > 1:
        rows = _rows([keys[i] for i in together], [-(-sizes[i] // WIDTH) for i in together])
        start = 0
        for i in together:
            found[i] = lax.slice(rows, (start,), (start + sizes[i],)).reshape(shapes[i])
            start += -(-sizes[i] // WIDTH) * WIDTH
    return [
        jax.random.bits(key, shape, jnp.uint32, out_sharding=sharding) if bits is None else bits
        for bits, key, shape, sharding in zip(found, keys, shapes, shardings, strict=True)
    ]


def _is_threefry(key: jax.Array) -> bool:
    """Whether bits are a function of the key and of the place of an entry alone, in the way that is written below."""
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if not partitionable or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return False
    return str(jax.random.key_impl(key)) == "threefry2x32" and key.ndim == 0


def _rows(keys: Sequence[jax.Array], numbers: Sequence[int]) -> jax.Array:
    """Draws so many rows of bits with each key, one after another in one vector."""
    data = jnp.stack([jax.random.key_data(key) for key in keys])
    of_row = data[np.repeat(np.arange(len(keys)), numbers)]
    first = np.concatenate([np.arange(n) for n in numbers]) * WIDTH
    place = jnp.asarray(first.astype(np.uint32))[:, None] + lax.broadcasted_iota(jnp.uint32, (len(first), WIDTH), 1)
    halves = (jnp.broadcast_to(of_row[:, i, None], place.shape) for i in range(2))
    high, low = threefry2x32_p.bind(*halves, jnp.zeros_like(place), place)
    return (high ^ low).reshape(-1)
