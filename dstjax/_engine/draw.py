"""A random choice of the weights that are active at first."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.keys import leaf_keys, placed_like
from dstjax.structures import WEIGHT, Structure


def random_masks(
    key: jax.Array, leaves: list[Any], counts: list[int], structure: Structure = WEIGHT
) -> list[jax.Array]:
    """Uniformly random masks with exact counts, sharded like the leaves.

    Args:
      key: uint32[2], data of a threefry key.
      leaves: arrays, or their shapes and dtypes.
      counts: active weights of each leaf.
      structure: what is switched as one unit.

    Returns:
      A boolean tensor for each leaf.
    """
    if not leaves:
        return []
    drawn = _draw(key, counts, tuple((tuple(leaf.shape), _sharding(leaf)) for leaf in leaves), structure)
    return [placed_like(m, leaf) for m, leaf in zip(drawn, leaves, strict=True)]


@functools.partial(jax.jit, static_argnames=("shapes", "structure"))
def _draw(
    key: jax.Array, counts: list[Any], shapes: tuple[tuple[tuple[int, ...], Any], ...], structure: Structure
) -> list[jax.Array]:
    bits = [
        jax.random.bits(k, shape, jnp.uint32, out_sharding=sharding)
        for (k, _), (shape, sharding) in zip(leaf_keys(key, 0, len(shapes)), shapes, strict=True)
    ]
    return structure.best(bits, counts)


def _sharding(leaf: Any) -> Any:
    """The sharding in the type of a leaf on an Explicit mesh, None elsewhere."""
    if not isinstance(leaf, jax.Array):
        return None
    sharding = jax.typeof(leaf).sharding
    return sharding if sharding.mesh.shape else None
