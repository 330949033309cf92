"""Growth rules that were tried where balanced momentum loses: made of public parts, as a user would make them."""

import jax
import jax.numpy as jnp

from dstjax import criteria
from dstjax.rules import Leaf


def adaptive_share(leaf: Leaf) -> jax.Array:
    """Grows by the balanced average, but a share of 1 - cos(m, g), 0 to 1, at random: the less an average explains.

    m is the average that the method remembers, g the gradient of the moment, both of inactive weights.
    """
    free = ~leaf.mask
    m, g = (jnp.where(free, x.astype(jnp.float32), 0) for x in (leaf.memory, leaf.gradient))
    size = jnp.sqrt(jnp.sum(m**2) * jnp.sum(g**2))
    cosine = jnp.where(size > 0, jnp.sum(m * g) / jnp.where(size > 0, size, 1), 0)
    wanted = (1 - jnp.clip(cosine, 0, 1)) * leaf.budget
    drawn = jax.random.uniform(leaf.key, leaf.mask.shape)
    lucky = drawn < wanted / jnp.maximum(jnp.sum(free), 1)
    score = criteria.balanced(leaf)
    return jnp.where(lucky, jnp.max(score) + 1 + drawn, score)


def decayed(leaf: Leaf) -> jax.Array:
    """Balanced average over 1 + N, where N counts the mask rounds in which a weight was active: what failed decays."""
    assert leaf.counter is not None
    return criteria.balanced(leaf) / (1 + leaf.counter.astype(jnp.float32))
