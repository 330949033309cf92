"""What happened to the topology, read from the state of ``sparsify`` and from pairs of masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax import masks as masks_lib
from dstjax._trees import Tree, is_hole
from dstjax.masks import iou, jaccard, overlap
from dstjax.state import SparseState, Tracked, find

__all__ = [
    "exploitation_degree",
    "exploration_rate",
    "exploration_rate_per_leaf",
    "iou",
    "jaccard",
    "last_mask_error",
    "mask_error",
    "overlap",
    "survival_rate",
]


def exploration_rate(opt_state: Tree) -> jax.Array:
    """R: the share of maskable weights that have ever been active, float32 scalar.

    Needs the counters of the method, or ``track=['exploration']``. 1 where nothing is masked.

    Raises:
      ValueError: neither is there.

    Reference: Liu et al., 2021 (ITOP rate R_s); DST-EE, Figure 3.
    """
    ever = list(_ever(find(opt_state)).values())
    if not ever:
        return jnp.ones((), jnp.float32)
    active = sum(jnp.sum(e, dtype=jnp.uint32).astype(jnp.float32) for e in ever)
    return jnp.asarray(active / sum(e.size for e in ever), jnp.float32)


def exploration_rate_per_leaf(opt_state: Tree) -> dict[str, jax.Array]:
    """R of each masked leaf by path, float32 scalars; see :func:`exploration_rate`."""
    return {n: jnp.sum(e, dtype=jnp.uint32).astype(jnp.float32) / e.size for n, e in _ever(find(opt_state)).items()}


def survival_rate(opt_state: Tree) -> jax.Array:
    """Share of the weights grown by the update before the last that the drop of the last update left, float32 scalar.

    Being dropped and grown again does not count as survival. NaN until two updates have been made. Needs
    ``track=['survival']``.

    Raises:
      ValueError: it was not tracked.

    Reference: IEE, Figure 5b.
    """
    tracked = _tracked(find(opt_state))
    if tracked.n_grown is None or tracked.n_survived is None:
        raise ValueError("the survival rate needs dstjax.sparsify(..., track=['survival']).")
    return (jnp.sum(tracked.n_survived) / jnp.sum(tracked.n_grown)).astype(jnp.float32)


def last_mask_error(opt_state: Tree) -> jax.Array:
    """Mask-incurred error of the last mask update, float32 scalar; needs ``track=['error']``.

    Raises:
      ValueError: it was not tracked.
    """
    error = _tracked(find(opt_state)).error
    if error is None:
        raise ValueError("the mask-incurred error needs dstjax.sparsify(..., track=['error']).")
    return error


def mask_error(params: Tree, opt_state_or_masks: Tree) -> jax.Array:
    """Tau squared: ||W * M - W||^2 / ||W||^2 over the masked leaves, float32 scalar.

    Args:
      params: the weights just before the new mask is applied; or dense weights and the mask in force.
      opt_state_or_masks: the new masks, or the state that holds them.

    Raises:
      ValueError: a masked leaf is missing.

    Reference: DST-EE, Assumption 3.
    """
    tree = opt_state_or_masks
    states = jax.tree_util.tree_leaves(tree, is_leaf=lambda x: isinstance(x, SparseState))
    masks = masks_lib.by_name(find(tree).masks if any(isinstance(x, SparseState) for x in states) else tree)
    weights = masks_lib.by_name(params)
    masked = {name: masks_lib.unpack(mask) for name, mask in masks.items() if mask is not None}
    lost = [name for name in masked if weights.get(name) is None]
    if lost:
        raise ValueError(f"no weight has the path of these masks: {', '.join(lost)}.")
    return masks_lib.error([jnp.asarray(weights[name]) for name in masked], list(masked.values()))


def exploitation_degree(loss: Callable[[Tree], Any], params: Tree, grown: Tree) -> jax.Array:
    """How much the grown weights lower the loss: L(W without them) - L(W).

    A weight is worth nothing while it is still 0, so measure after at least one more step. One index in ``grown`` gives
    Eq. 2, a set of indices Eq. 3.

    Args:
      loss: parameters -> scalar loss on an evaluation batch.
      params: the weights with the grown ones trained.
      grown: tree of boolean arrays that mark the grown weights, None elsewhere.

    Reference: DST-EE, Eq. 2 and 3.
    """
    kept = jax.tree_util.tree_map(lambda g: None if is_hole(g) else ~masks_lib.unpack(g), grown, is_leaf=is_hole)
    return jnp.asarray(loss(masks_lib.apply(params, kept))) - jnp.asarray(loss(params))


def _ever(state: SparseState) -> dict[str, jax.Array]:
    if state.counters is not None:
        return {n: c > 0 for n, c in masks_lib.by_name(state.counters).items() if c is not None}
    tracked = state.tracked
    if tracked is None or tracked.ever is None:
        raise ValueError(
            "the exploration rate needs counters (dst_ee has them) or dstjax.sparsify(..., track=['exploration'])."
        )
    return {n: masks_lib.unpack(e) for n, e in masks_lib.by_name(tracked.ever).items() if e is not None}


def _tracked(state: SparseState) -> Tracked:
    return state.tracked or Tracked(None, None, None, None, None)
