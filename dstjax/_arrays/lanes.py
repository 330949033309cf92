"""Sums over the layers of leaves, and fits numbers of layers to them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.layout import Layout, lanes_of
from dstjax._arrays.places import cut, hidden
from dstjax._arrays.shards import gathered

Layouts = Sequence[Layout | None]


def layer_counts(shapes: Sequence[tuple[int, ...]], layouts: Layouts) -> list[int]:
    """Returns the number of layers in each leaf."""
    return [math.prod(shape[a] for a in lanes_of(layout)) for shape, layout in zip(shapes, layouts, strict=True)]


def layer_sizes(shapes: Sequence[tuple[int, ...]], layouts: Layouts) -> jax.Array:
    """Returns the number of weights of each layer, int32[layers].

    Raises:
      ValueError: a layer has 2**31 weights or more.
    """
    numbers = layer_counts(shapes, layouts)
    sizes = [math.prod(s) // max(n, 1) for s, n in zip(shapes, numbers, strict=True)]
    for size, n, shape in zip(sizes, numbers, shapes, strict=True):
        if size >= 2**31:
            raise ValueError(
                f"a leaf of shape {shape} has {n} layer{'s' * (n > 1)} of {size:,} weights; at most 2,147,483,647 of a "
                "layer can be counted. Expected a layout= that names its stack axes, or the leaf in parts."
            )
    return jnp.array(np.repeat(sizes, numbers), jnp.int32)


def total(x: jax.Array, layout: Layout | None, dtype: Any = None) -> jax.Array:
    """Returns the sum over each layer of a leaf: a scalar; of a stack an array whose other axes have length one."""
    stack = lanes_of(layout)
    if not stack:
        return jnp.sum(x, dtype=dtype)
    return jnp.sum(x, axis=tuple(a for a in range(x.ndim) if a not in stack), dtype=dtype, keepdims=True)


def line_up(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns an array that has entries along some axes alone as a vector, the first of the axes slowest."""
    return gathered(x).transpose((*axes, *(a for a in range(x.ndim) if a not in axes))).reshape(-1)


def spread(numbers: jax.Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """Undoes :func:`line_up`: returns what can be compared with an array of this shape."""
    whole = numbers.reshape([shape[a] for a in axes] + [1] * (len(shape) - len(axes)))
    order = (*axes, *(a for a in range(len(shape)) if a not in axes))
    return whole.transpose(np.argsort(order))


def sums(arrays: Sequence[jax.Array], layouts: Layouts, dtype: Any = None) -> jax.Array:
    """Returns the sum over each layer of some leaves, one number for each layer."""
    found = [total(x, layout, dtype) for x, layout in zip(arrays, layouts, strict=True)]
    if not any(lanes_of(layout) for layout in layouts):
        return jnp.stack(found)
    return jnp.concatenate([line_up(x, lanes_of(layout)) for x, layout in zip(found, layouts, strict=True)])


def of_each(numbers: jax.Array, shapes: Sequence[tuple[int, ...]], layouts: Layouts) -> list[jax.Array]:
    """Returns numbers of all layers as what each leaf can be compared with: a scalar, or see :func:`total`."""
    counts = layer_counts(shapes, layouts)
    places = hidden([int(n) for n in np.cumsum([0, *counts[:-1]])], numbers)
    found = []
    for shape, layout, n, place in zip(shapes, layouts, counts, places, strict=True):
        stack, mine = lanes_of(layout), cut(numbers, place, n)
        found.append(spread(mine, stack, shape) if stack else mine.reshape(()))
    return found
