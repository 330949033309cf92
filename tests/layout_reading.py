"""Shapes, and layouts as a program says them, for the tests of the reader."""

import jax
import jax.numpy as jnp
from jax import lax

from dstjax import program

NHWC = ("NHWC", "HWIO", "NHWC")


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def read(function, params, *args):
    return dict(program.layouts(function, params, *args))


def one(function, leaf, *args):
    """The layout of a single leaf."""
    return read(function, leaf, *args)[""]


def conv(w, x, groups=1):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=groups)


def layers(w, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]
