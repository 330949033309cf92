"""A random choice of the weights that are active at first."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays import random_subsets
from dstjax._arrays.drawing import can_draw_rows, random_bits
from dstjax._arrays.keys import leaf_keys, near, placed_like
from dstjax._arrays.layout import Layout, lanes_of, order_of
from dstjax.structures import WEIGHT, Structure
from dstjax.structures.weights import numbers


def random_masks(
    key: jax.Array,
    leaves: list[Any],
    counts: list[int],
    structure: Structure = WEIGHT,
    layouts: tuple[Layout | None, ...] | None = None,
) -> list[jax.Array]:
    """Uniformly random masks with exact counts, sharded like the leaves.

    Args:
      key: uint32[2], data of a threefry key.
      leaves: arrays, or their shapes and dtypes.
      counts: active weights of each layer.
      structure: what is switched as one unit.
      layouts: what the axes of each leaf mean; by default a leaf is one layer.

    Returns:
      A boolean tensor for each leaf.
    """
    if not leaves:
        return []
    layouts = (None,) * len(leaves) if layouts is None else layouts
    shapes = tuple((tuple(leaf.shape), sharding_of(leaf)) for leaf in leaves)
    drawn = _draw(near(key, leaves), counts, shapes, structure, layouts)
    return [placed_like(m, leaf) for m, leaf in zip(drawn, leaves, strict=True)]


def filled_masks(
    key: jax.Array,
    masks: list[jax.Array],
    missing: list[int],
    structure: Structure,
    layouts: tuple[Layout | None, ...],
) -> list[jax.Array]:
    """Masks with so many more active weights in each layer, drawn among the inactive ones.

    Args:
      key: uint32[2], data of a threefry key.
      masks: boolean tensors.
      missing: how many are added to each layer; a structure that switches larger units may add others.
      structure: what is switched as one unit.
      layouts: what the axes of each leaf mean.
    """
    shapes = tuple((tuple(m.shape), sharding_of(m)) for m in masks)
    drawn = _filled(key, masks, jnp.asarray(missing, jnp.int32), shapes, structure, layouts)
    return [placed_like(d, m) for d, m in zip(drawn, masks, strict=True)]


@functools.partial(jax.jit, static_argnames=("shapes", "structure", "layouts"))
def _draw(
    key: jax.Array,
    counts: list[Any],
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
    structure: Structure,
    layouts: tuple[Layout | None, ...],
) -> list[jax.Array]:
    keys = [k for k, _ in leaf_keys(key, 0, len(shapes))]
    stored, shardings = [shape for shape, _ in shapes], [sharding for _, sharding in shapes]
    few = sum(math.prod(shape) for shape in stored) <= random_subsets.MOST
    if structure == WEIGHT and few and all(map(_is_joined, keys, stored, shardings, layouts)):
        return _joined(keys, stored, layouts, counts)
    return structure.best(ordered_bits(keys, stored, shardings, layouts), counts, layouts)


def _is_joined(key: jax.Array, shape: tuple[int, ...], sharding: Any, layout: Layout | None) -> bool:
    """Whether a leaf can be drawn and chosen from together with others."""
    size, lanes = math.prod(shape), math.prod(shape[a] for a in lanes_of(layout))
    return can_draw_rows(key, size, sharding) and random_subsets.fits(size, lanes)


def _joined(
    keys: Sequence[jax.Array],
    shapes: Sequence[tuple[int, ...]],
    layouts: Sequence[Layout | None],
    counts: Sequence[Any],
) -> list[jax.Array]:
    """The masks of leaves that are drawn and chosen from together: those that one by one would have."""
    stacks = [lanes_of(layout) for layout in layouts]
    orders = [stack + order_of(layout, len(x)) for x, layout, stack in zip(shapes, layouts, stacks, strict=True)]
    turned = [tuple(shape[a] for a in axes) for shape, axes in zip(shapes, orders, strict=True)]
    masks = random_subsets.random_subsets(keys, turned, [len(stack) for stack in stacks], numbers(counts))
    return [_turned_back(m, axes) for m, axes in zip(masks, orders, strict=True)]


@functools.partial(jax.jit, static_argnames=("shapes", "structure", "layouts"))
def _filled(
    key: jax.Array,
    masks: list[jax.Array],
    missing: jax.Array,
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
    structure: Structure,
    layouts: tuple[Layout | None, ...],
) -> list[jax.Array]:
    grown = structure.grow(_scores(key, shapes, layouts), masks, [~m for m in masks], missing, layouts)
    return [m | g for m, g in zip(masks, grown, strict=True)]


def _scores(
    key: jax.Array, shapes: tuple[tuple[tuple[int, ...], Any], ...], layouts: tuple[Layout | None, ...]
) -> list[jax.Array]:
    keys = [k for k, _ in leaf_keys(key, 0, len(shapes))]
    return ordered_bits(keys, [shape for shape, _ in shapes], [sharding for _, sharding in shapes], layouts)


def ordered_bits(
    keys: Sequence[jax.Array],
    shapes: Sequence[tuple[int, ...]],
    shardings: Sequence[Any],
    layouts: Sequence[Layout | None],
) -> list[jax.Array]:
    """Random scores, drawn in the order of (stack..., window..., in..., out...): the same however a leaf is stored."""
    orders = [lanes_of(layout) + order_of(layout, len(shape)) for shape, layout in zip(shapes, layouts, strict=True)]
    turned = [tuple(shape[a] for a in axes) for shape, axes in zip(shapes, orders, strict=True)]
    specs = [_turned(sharding, axes) for sharding, axes in zip(shardings, orders, strict=True)]
    bits = random_bits(keys, turned, specs)
    return [_turned_back(x, axes) for x, axes in zip(bits, orders, strict=True)]


def _turned_back(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """An array whose axes come in another order, as it is stored."""
    return x if axes == tuple(range(x.ndim)) else x.transpose(np.argsort(axes))


def _turned(sharding: Any, axes: tuple[int, ...]) -> Any:
    """The sharding of an array whose axes come in another order."""
    if sharding is None or axes == tuple(range(len(axes))):
        return sharding
    spec = (*sharding.spec, *[None] * len(axes))
    return sharding.update(spec=jax.P(*(spec[a] for a in axes)))


def sharding_of(leaf: Any) -> Any:
    """The sharding in the type of a leaf on an Explicit mesh, None elsewhere."""
    if not isinstance(leaf, jax.Array):
        return None
    sharding = jax.typeof(leaf).sharding
    return sharding if sharding.mesh.shape else None
