"""Makes the keys of the random choices, and puts arrays where others are."""

from typing import Any

import jax
import jax.numpy as jnp


def placed_like(x: jax.Array, leaf: Any) -> jax.Array:
    """Puts ``x`` where a leaf was put, and nowhere else: without need the next step would compile anew."""
    placed = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.committed
    return jax.device_put(x, leaf.sharding) if placed else x


def leaf_keys(key: jax.Array, step: Any, leaves: int) -> list[tuple[jax.Array, jax.Array]]:
    """Returns keys for the drop and for the growth of each leaf at a step; the same on every device and platform."""
    at_step = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), step)
    # Folded all at once: one generator a leaf would take longer to compile than all else of an update.
    of_leaf = jax.vmap(jax.random.fold_in, (None, 0))(at_step, jnp.arange(leaves, dtype=jnp.uint32))
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    data = jax.random.key_data(fold(of_leaf, jnp.arange(2, dtype=jnp.uint32)))
    # Those of one kind lie side by side, so that XLA sees that what takes all of them takes one array.
    drop, grow = ([jax.random.wrap_key_data(k, impl="threefry2x32") for k in jnp.unstack(data[:, i])] for i in range(2))
    return list(zip(drop, grow, strict=True))
