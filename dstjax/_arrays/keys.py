"""Makes the keys of the random choices, and puts arrays where others are."""

import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays.shards import mesh_axes

_HALF = 2**32 - 1


def check_seed(seed: Any) -> None:
    """Refuses an integer of more than 64 bits; a traced one has as many as its type."""
    if isinstance(seed, numbers.Integral | np.ndarray) and not -(2**63) <= int(seed) < 2**63:
        raise ValueError(f"seed={seed} is not accepted; expected an integer of 64 bits, or a PRNG key.")


def of_seed(seed: Any) -> jax.Array:
    """Returns the data of a threefry key, uint32[2]: the two halves of an integer of 64 bits, which may be traced.

    ``jax.random.key`` gives the same where it has 64 bits, and drops the upper half where it has not.
    """
    if isinstance(seed, numbers.Integral | np.ndarray):
        data = jnp.asarray(np.array([int(seed) >> 32 & _HALF, int(seed) & _HALF], np.uint32))
    else:
        upper = seed >> 32 if seed.dtype.itemsize == 8 else jnp.where(seed < 0, jnp.uint32(_HALF), jnp.uint32(0))
        data = jnp.stack([upper.astype(jnp.uint32), seed.astype(jnp.uint32)])
    # Zeros have the type of the mesh in use. Without them a jitted init leaves the key without one, the first step
    # returns it with one, and the second step is traced anew.
    return data | jnp.zeros_like(data)


def placed_like(x: jax.Array, leaf: Any) -> jax.Array:
    """Puts ``x`` where a leaf was put, and nowhere else: without need the next step would compile anew."""
    placed = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.committed
    return jax.device_put(x, leaf.sharding) if placed else x


def near(key: jax.Array, leaves: Iterable[Any]) -> jax.Array:
    """Ties a key to arrays on a mesh of Explicit axes that no context names.

    jax knows the devices of a program by what it takes. One that draws, and fills the rest with zeros, would take
    nothing of that mesh.
    """
    if not jax.sharding.get_abstract_mesh().empty:
        return key
    for leaf in leaves:
        if not isinstance(leaf, jax.Array) or mesh_axes(leaf) is None:
            continue
        if isinstance(leaf, jax.core.Tracer):
            return lax.optimization_barrier((key, leaf))[0]
        sharding: Any = leaf.sharding
        return jax.device_put(key, jax.NamedSharding(sharding.mesh, jax.P()))
    return key


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
