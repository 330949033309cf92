"""Which leaves are masked, how many of their weights are active at first, and a random choice of these."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dstjax import distributions
from dstjax.method import Method
from dstjax.structures import WEIGHT, Structure


def masked_leaves(method: Method, leaves: Mapping[str, Any]) -> list[str]:
    """The paths of the leaves that a method masks, in the order of the tree.

    Raises:
      ValueError: no leaf is maskable, or one that should be masked is no real tensor, or empty.
    """
    rule = method.maskable or _default_maskable
    chosen = [name for name, leaf in leaves.items() if rule(name, leaf)]
    if isinstance(method.distribution, Mapping):
        chosen = distributions.masked_by_map(method.distribution, list(leaves), chosen)
    for name in chosen:
        if not jnp.issubdtype(leaves[name].dtype, jnp.floating):
            raise ValueError(
                f"leaf {name!r} has dtype {leaves[name].dtype}; only real floating leaves can be masked. "
                "Exclude it with maskable=lambda path, leaf: ..."
            )
        if 0 in leaves[name].shape:
            raise ValueError(
                f"leaf {name!r} of shape {leaves[name].shape} has no weights to mask. "
                "Exclude it with maskable=lambda path, leaf: ..."
            )
    if not chosen:
        raise ValueError(
            f"method {method.name!r} finds nothing to mask among {list(leaves)}; by default leaves of two or more "
            "dimensions are masked, maskable= chooses others."
        )
    return chosen


def active_counts(method: Method, leaves: Mapping[str, Any]) -> dict[str, int]:
    """Which leaves a method masks, and how many active weights each of them has.

    Args:
      method: the method.
      leaves: path -> array, or its shape and dtype.

    Raises:
      ValueError: no leaf is maskable, one that should be masked is no real tensor, or one is too small.
    """
    if not method.masked:
        return {}
    shapes = {name: tuple(leaves[name].shape) for name in masked_leaves(method, leaves)}
    return distributions.active_counts(method.distribution, shapes, method.sparsity)


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


def placed_like(x: jax.Array, leaf: Any) -> jax.Array:
    """``x`` on the devices of a leaf, if it was put on certain ones; without need the next step would compile anew."""
    placed = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.committed
    return jax.device_put(x, leaf.sharding) if placed else x


def leaf_keys(key: jax.Array, step: Any, leaves: int) -> list[tuple[jax.Array, jax.Array]]:
    """Keys for the drop and for the growth of each leaf at a step; the same on every device and platform."""
    at_step = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), step)
    of_leaf = [jax.random.fold_in(at_step, i) for i in range(leaves)]
    return [(jax.random.fold_in(k, 0), jax.random.fold_in(k, 1)) for k in of_leaf]


@functools.partial(jax.jit, static_argnames=("shapes", "structure"))
def _draw(
    key: jax.Array, counts: list[Any], shapes: tuple[tuple[tuple[int, ...], Any], ...], structure: Structure
) -> list[jax.Array]:
    bits = [
        jax.random.bits(k, shape, jnp.uint32, out_sharding=sharding)
        for (k, _), (shape, sharding) in zip(leaf_keys(key, 0, len(shapes)), shapes, strict=True)
    ]
    return structure.best(bits, counts)


def _default_maskable(path: str, leaf: Any) -> bool:
    del path
    return len(leaf.shape) >= 2


def _sharding(leaf: Any) -> Any:
    """The sharding in the type of a leaf on an Explicit mesh, None elsewhere."""
    if not isinstance(leaf, jax.Array):
        return None
    sharding = jax.typeof(leaf).sharding
    return sharding if sharding.mesh.shape else None
