"""Cuts parts out of vectors at places that XLA does not know: kernels that read at any of them are one program."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dstjax._arrays.platforms import is_tpu
from dstjax._arrays.varying import varying_as


def hidden(values: Sequence[int], *like: Any) -> Sequence[Any]:
    """Returns places as uint32[] each, of which XLA does not know that they are constant.

    A TPU gets them as they are, since its compiler copies more for others. Within ``shard_map`` they vary over the
    devices as arrays do that they are used with.
    """
    return values if is_tpu() else varying_as(unseen(values), *like)


def unseen(values: Sequence[int]) -> list[jax.Array]:
    """Returns numbers as uint32[] each, and hides from XLA that they are constant."""
    turned = [jnp.uint32(values[(i - 2) % len(values)]) for i in range(len(values))]
    return lax.fori_loop(0, 2, lambda _, v: [*v[1:], *v[:1]], turned)


def cut(x: jax.Array, start: Any, length: int) -> jax.Array:
    """Returns so many entries of a vector from a place on, which may be an array."""
    if isinstance(start, int):
        return lax.slice(x, (start,), (start + length,))
    return lax.dynamic_slice(x, (start,), (length,))
