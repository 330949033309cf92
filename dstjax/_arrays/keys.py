"""Makes the keys of the random choices, and puts arrays where others are."""

from typing import Any

import jax


def placed_like(x: jax.Array, leaf: Any) -> jax.Array:
    """Puts ``x`` where a leaf was put, and nowhere else: without need the next step would compile anew."""
    placed = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.committed
    return jax.device_put(x, leaf.sharding) if placed else x


def leaf_keys(key: jax.Array, step: Any, leaves: int) -> list[tuple[jax.Array, jax.Array]]:
    """Returns keys for the drop and for the growth of each leaf at a step; the same on every device and platform."""
    at_step = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), step)
    of_leaf = [jax.random.fold_in(at_step, i) for i in range(leaves)]
    return [(jax.random.fold_in(k, 0), jax.random.fold_in(k, 1)) for k in of_leaf]
