"""Multiply-adds by leaf, for the tests that count them."""

import jax
import jax.numpy as jnp

from dstjax.program import flops


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def by_leaf(function, params, *args):
    """The multiply-adds by leaf, those of no leaf under None."""
    found = flops.count(function, params, *args)
    return {**found.multiply_adds, None: found.other}
