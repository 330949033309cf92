"""One mask update: drop the lowest-scored active weights, grow as many of the highest-scored inactive ones."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dstjax.criteria import Criterion, Leaf
from dstjax.selection import count_true, top_k_masks


class MaskUpdate(NamedTuple):
    """Result of one mask update of one leaf, boolean tensors of its shape."""

    mask: jax.Array  # the new mask: kept or grown
    kept: jax.Array  # what the drop has left; a weight outside it that is in ``mask`` was grown


def drop_and_grow(leaf: Leaf, *, drop: Criterion, grow: Criterion, grow_key: jax.Array | None = None) -> MaskUpdate:
    """Drops ``leaf.budget`` active weights and grows as many; pure, for one leaf.

    Weights that were just dropped may be grown again. Of equal scores the lower row-major index is kept, and grown. At
    least one weight is kept.

    Args:
      leaf: the weight with all that the criteria read.
      drop: the lowest-scored active weights go.
      grow: the highest-scored inactive weights come.
      grow_key: PRNG key for the growth; split from ``leaf.key`` if omitted.

    >>> from dstjax import criteria
    >>> w, g = jnp.array([0.5, -0.1, 0.0]), jnp.array([0.1, 0.4, -0.9])
    >>> leaf = Leaf(w, g, w != 0, None, jnp.int32(1), jax.random.key(0), jnp.int32(1))
    >>> drop_and_grow(leaf, drop=criteria.magnitude, grow=criteria.gradient).mask
    Array([ True, False,  True], dtype=bool)
    """
    if grow_key is None:
        drop_key, grow_key = jax.random.split(leaf.key)
        leaf = leaf._replace(key=drop_key)
    return drop_and_grow_all([leaf], [grow_key], drop=drop, grow=grow)[0]


def drop_and_grow_all(
    leaves: Sequence[Leaf],
    grow_keys: Sequence[jax.Array],
    *,
    drop: Criterion,
    grow: Criterion,
    scope: str = "layer",
) -> list[MaskUpdate]:
    """:func:`drop_and_grow` of all leaves of a tree at once, in as many kernels a pass as there are leaves.

    With ``scope='global'`` the weights to drop are ranked over all leaves (Nowak et al., 2023, Section 5); every leaf
    keeps its best one and grows as many as it lost.
    """
    active = count_true([leaf.mask for leaf in leaves])
    moving = jnp.clip(jnp.stack([leaf.budget for leaf in leaves]), 0, jnp.maximum(active - 1, 0))
    leaves = [leaf._replace(budget=n) for leaf, n in zip(leaves, moving, strict=True)]
    scores = [_scored(drop, leaf) for leaf in leaves]
    where = [leaf.mask for leaf in leaves]
    if scope == "layer":
        kept, growing = top_k_masks(scores, list(active - moving), where=where), moving
    else:
        best = top_k_masks(scores, [1] * len(leaves), where=where)
        others = [w & ~b for w, b in zip(where, best, strict=True)]
        left = jnp.sum(active) - jnp.sum(moving) - jnp.sum(jnp.minimum(active, 1))
        kept = [b | k for b, k in zip(best, top_k_masks(scores, [left], where=others, together=True), strict=True)]
        growing = active - count_true(kept)
    grown_leaves = [
        leaf._replace(mask=k, key=key, budget=n)
        for leaf, k, key, n in zip(leaves, kept, grow_keys, growing, strict=True)
    ]
    grown = top_k_masks([_scored(grow, leaf) for leaf in grown_leaves], list(growing), where=[~k for k in kept])
    return [MaskUpdate(k | g, k) for k, g in zip(kept, grown, strict=True)]


def _scored(criterion: Criterion, leaf: Leaf) -> jax.Array:
    score = jnp.asarray(criterion(leaf))
    if score.shape != leaf.weight.shape:
        name = getattr(criterion, "__name__", repr(criterion))
        raise ValueError(
            f"the criterion {name} returned scores of shape {score.shape} for a leaf of shape {leaf.weight.shape}; "
            "expected one score for each weight."
        )
    return score
