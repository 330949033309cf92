"""Small programs for figures of masks.

Compiled even where one line would do: every constant of an eager line goes from the host to the device, which
``jax_transfer_guard`` refuses.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.wide import counted


def share(flags: list[jax.Array]) -> jax.Array:
    """Returns the share that is set; 1 of nothing."""
    # The size is passed: XLA multiplies by the inverse of a constant, and the share of all is not 1 then.
    return _share_of(jax.device_put(np.float32(sum(f.size for f in flags))), flags)


@jax.jit
def _share_of(size: jax.Array, flags: list[jax.Array]) -> jax.Array:
    return _count(flags) / size if flags else jnp.ones((), jnp.float32)


@jax.jit
def positive(counter: jax.Array) -> jax.Array:
    """Returns where a counter is not zero."""
    return counter > 0


@jax.jit
def ratio_of_sums(a: Any, b: Any) -> jax.Array:
    """Returns the ratio of two sums, each over all arrays of a tree; NaN of nothing."""
    zero = jnp.zeros((), jnp.float32)
    over, under = (
        sum((jnp.sum(x, dtype=jnp.float32) for x in jax.tree_util.tree_leaves(tree)), zero) for tree in (a, b)
    )
    return over / under


@jax.jit
def survived(leaves: list[tuple[jax.Array, ...]]) -> jax.Array:
    """Returns the share of what was grown that is left, given masks before, after and at the next drop."""
    grown = _count(new & ~old for old, new, _ in leaves)
    return _count(new & ~old & left for old, new, left in leaves) / grown


@jax.jit
def moved(leaves: list[tuple[jax.Array, ...]]) -> jax.Array:
    """Returns the share of the active weights that moved, given the masks before and after of each leaf."""
    return _count(a ^ b for a, b in leaves) / (_count(a for a, _ in leaves) + _count(b for _, b in leaves))


@jax.jit
def agreed(leaves: list[tuple[jax.Array, ...]]) -> tuple[jax.Array, jax.Array]:
    """Returns the shares of active and of inactive weights that all masks of each leaf have in common."""
    stacked = [jnp.stack(flags) for flags in leaves]
    trees = len(leaves[0])
    kept = _count(jnp.all(x, axis=0) for x in stacked) * trees / _count(stacked)
    removed = _count(~jnp.any(x, axis=0) for x in stacked) * trees / _count(~x for x in stacked)
    return kept, removed


@jax.jit
def effective(kernels: list[jax.Array]) -> jax.Array:
    """Returns how many active weights of each kernel of a chain are on a path through it, int32[kernels]."""
    links = [jnp.any(k, axis=tuple(range(k.ndim - 2))) for k in kernels]
    fed = [jnp.ones(links[0].shape[0], bool)]  # inputs of each layer that a path from the first inputs reaches
    for link, after in itertools.pairwise(links):
        fed.append(jnp.tile(jnp.any(link & fed[-1][:, None], axis=0), after.shape[0] // link.shape[1]))
    used = [jnp.ones(links[-1].shape[1], bool)]  # outputs of each layer, last first, from which a path leads on
    for after, link in itertools.pairwise(reversed(links)):
        used.append(jnp.any(jnp.any(after & used[-1][None, :], axis=1).reshape(-1, link.shape[1]), axis=0))
    ends = (f[:, None] & u[None, :] for f, u in zip(fed, reversed(used), strict=True))
    paths = (k & e.reshape((1,) * (k.ndim - 2) + e.shape) for k, e in zip(kernels, ends, strict=True))
    return jnp.stack([jnp.sum(p, dtype=jnp.int32) for p in paths])


def _count(flags: Iterable[jax.Array]) -> jax.Array:
    return jnp.asarray(sum(counted(f).to_float() for f in flags), jnp.float32)
