"""Masks in a state lie in bits along one axis or another, or in bytes, as the devices allow: one form for another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dstjax

FORMS = ("bool", "uint8", "int8")


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two leaves, each a shape and a dtype, may be the same mask in two forms."""
    if one[1] == other[1] or not {one[1], other[1]} <= {*FORMS}:
        return False
    try:
        shapes = [
            jax.eval_shape(dstjax.masks.unpack, jax.ShapeDtypeStruct(shape, dtype)).shape
            for shape, dtype, *_ in (one, other)
        ]
    except (IndexError, TypeError, ValueError):
        return False
    return shapes[0] == shapes[1]


def stored_like(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A stored mask in the form of another of its shape: eight neighbours share a byte, the first in the lowest bit.

    Raises:
      ValueError: they have not one shape.
    """
    flags = np.asarray(dstjax.masks.unpack(jnp.asarray(mask)))
    if like.dtype == np.bool_:
        stored = flags
    elif like.dtype == np.uint8:
        stored = np.packbits(flags, axis=-2, bitorder="little")
    else:
        stored = np.packbits(flags, axis=-1, bitorder="little").view(np.int8).reshape(like.shape)
    if stored.shape != like.shape:
        raise ValueError(f"a mask of shape {flags.shape} cannot be stored in {like.dtype}{list(like.shape)}.")
    return stored
