"""One mask update: drop the lowest-scored active weights, grow the highest-scored inactive ones."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays import lanes, wide
from dstjax._arrays.bits import StoredMask
from dstjax._arrays.layout import lanes_of
from dstjax._arrays.selection import count_true
from dstjax._engine import returned
from dstjax._engine.parts import after, parts
from dstjax.criteria import Criterion
from dstjax.rules import Leaf, check_sums, is_separate
from dstjax.structures import WEIGHT, Structure

NGrown = Callable[[jax.Array], jax.Array]


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
    active: jax.Array | None = None,
    n_kept: jax.Array | None = None,
    n_grown: NGrown | None = None,
    target: jax.Array | None = None,
    scope: str = "layer",
    structure: Structure = WEIGHT,
    regrow_dropped: bool = True,
    still: Sequence[jax.Array] | None = None,
    ahead: Sequence[jax.Array] | None = None,
    stored: Sequence[StoredMask] | None = None,
) -> list[MaskUpdate]:
    """Drops and grows in all leaves of a tree at once.

    Args:
      leaves: what the criteria read. Their budgets say how many are dropped where ``n_kept`` does not.
      grow_keys: a PRNG key for the growth of each leaf.
      drop: the lowest-scored active weights go.
      grow: the highest-scored inactive weights come.
      active: int32[layers], how many weights are active in each; counted if omitted.
      n_kept: int32[layers], how many active weights stay in each. By default all but the budget, and at least one.
      n_grown: from how many have stayed in each leaf, int32[layers], to how many are grown, int32[layers]; or int32[]
        in one ranking over all leaves. Where there is no room for as many, fewer are grown. By default as many as
        were lost.
      target: int32[layers], active weights asked for, which structures with a budget of their own read.
      scope: 'global' drops in one ranking over all leaves, so that only the sum of ``n_kept`` counts; every leaf keeps
        its best one (Nowak et al., 2023, Section 5).
      structure: what is switched as one unit.
      regrow_dropped: whether what was just dropped may be grown again.
      still: for each leaf in which of its layers nothing new grows, bool[] or what fits the leaf.
      ahead: likewise, in which nothing is dropped where all layers are ranked together.
      stored: the masks as they are stored, from which a part of the leaves reads its own when it is its turn.
    """
    layouts = tuple(leaf.layout for leaf in leaves)
    shapes = [leaf.weight.shape for leaf in leaves]
    if active is None:
        active = count_true([leaf.mask for leaf in leaves], layouts)
    if n_kept is None:
        budgets = jnp.concatenate([jnp.atleast_1d(leaf.budget) for leaf in leaves])
        n_kept = active - jnp.clip(budgets, 0, jnp.maximum(active - 1, 0))
    # In one ranking a leaf may have fewer than its share, others more.
    together: Any = jnp.clip(jnp.sum(n_kept), 0, jnp.sum(active))
    if scope == "global" and wide.is_large([leaf.weight.size for leaf in leaves]):
        together = in_all(n_kept, leaves, structure)
    # What spans leaves deals out the sum: a leaf that has fewer than its share already takes nothing from others.
    keep = n_kept if getattr(structure, "across_leaves", False) else jnp.clip(n_kept, 0, active)
    target = active if target is None else target
    leaves = [leaf._replace(budget=n) for leaf, n in zip(leaves, _by_leaf(active - keep, shapes, layouts), strict=True)]
    stay = together if scope == "global" else keep
    grown_for: NGrown = (lambda kept: active - kept) if n_grown is None else n_grown
    switch = functools.partial(_switch, drop=drop, grow=grow, structure=structure, regrow_dropped=regrow_dropped)
    if getattr(structure, "exact", False) and scope == "layer":
        n = grown_for(keep)
        single = structure == WEIGHT and isinstance(n, jax.Array) and n.ndim == 1
        if single and is_separate(drop) and is_separate(grow):
            return _in_parts(switch, leaves, grow_keys, keep, n, target, active, stored)
        grown_for = lambda _: n  # noqa: E731
    return switch(leaves, grow_keys, stay, grown_for, target, active, still, ahead, scope == "global")


def _in_parts(
    switch: Callable[..., list[MaskUpdate]],
    leaves: Sequence[Leaf],
    grow_keys: Sequence[jax.Array],
    keep: jax.Array,
    grown: jax.Array,
    target: jax.Array,
    active: jax.Array,
    stored: Sequence[StoredMask] | None,
) -> list[MaskUpdate]:
    """Switches some leaves after others, where each is ranked by itself."""
    weights, layouts = [leaf.weight for leaf in leaves], tuple(leaf.layout for leaf in leaves)
    start = np.cumsum([0, *lanes.layer_counts([w.shape for w in weights], layouts)])
    found: dict[int, MaskUpdate] = {}
    last: list[MaskUpdate] = []
    dealt = parts(weights)
    for part in dealt:
        some, keys = [leaves[i] for i in part], [grow_keys[i] for i in part]
        if len(dealt) > 1:
            mine = None if stored is None else [stored[i] for i in part]
            some, keys = after([move.mask for move in last], active, some, keys, mine)
        layers = np.concatenate([np.arange(start[i], start[i + 1]) for i in part])
        at = slice(None) if len(part) == len(leaves) else layers
        last = switch(some, keys, keep[at], lambda _, n=grown[at]: n, target[at], active[at])
        found.update(zip(part, last, strict=True))
    return [found[i] for i in range(len(leaves))]


def _switch(
    leaves: Sequence[Leaf],
    grow_keys: Sequence[jax.Array],
    stay: Any,
    n_grown: NGrown,
    target: jax.Array,
    active: jax.Array,
    still: Sequence[jax.Array] | None = None,
    ahead: Sequence[jax.Array] | None = None,
    together: bool = False,
    *,
    drop: Criterion,
    grow: Criterion,
    structure: Structure,
    regrow_dropped: bool,
) -> list[MaskUpdate]:
    """Drops and grows in leaves whose numbers are known; see :func:`drop_and_grow_all`."""
    shapes, layouts = [leaf.weight.shape for leaf in leaves], tuple(leaf.layout for leaf in leaves)
    masks = [leaf.mask for leaf in leaves]
    choose = getattr(drop, "choose", None)
    if choose is not None and structure == WEIGHT and not together:
        kept = returned.masks(drop, "drop", choose(leaves), masks)
        room = [~k for k in kept]
    else:
        scores = _scored("drop", drop, leaves)
        if ahead is not None and together:  # their numbers are among n_kept
            scores = [jnp.where(s, _highest(x.dtype), x) for s, x in zip(ahead, scores, strict=True)]
        kept, room = structure.drop(scores, masks, stay, lambda: _scored("grow", grow, leaves), target, layouts)
    if not regrow_dropped:
        room = [r & ~m for r, m in zip(room, masks, strict=True)]
    is_exact = getattr(structure, "exact", False) and not together
    n = n_grown(stay if is_exact else count_true(kept, layouts))
    if still is not None and not (structure == WEIGHT and isinstance(n, jax.Array) and n.ndim):
        # Single weights of a layer go by its number, 0; units are filled up with what was active.
        back = [jnp.zeros_like(m) for m in masks] if structure == WEIGHT else masks
        room = [r & (~s | b) for r, s, b in zip(room, still, back, strict=True)]
    one = wide.narrow(n).astype(jnp.int32) if isinstance(n, wide.Wide) else n
    growing = one if jnp.ndim(one) else jnp.broadcast_to(one, active.shape)
    leaves = [
        leaf._replace(mask=k, key=key, budget=b)
        for leaf, k, key, b in zip(leaves, kept, grow_keys, _by_leaf(growing, shapes, layouts), strict=True)
    ]
    grown = structure.grow(_scored("grow", grow, leaves), kept, room, n, layouts)
    return [MaskUpdate(k | g, k) for k, g in zip(kept, grown, strict=True)]


def _highest(dtype: Any) -> Any:
    return jnp.array(jnp.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).max, dtype)


def in_all(counts: jax.Array, leaves: Sequence[Leaf], structure: Structure) -> Any:
    """Numbers of all layers added up for one ranking: int32[], or in two parts where that may be too narrow.

    Raises:
      ValueError: it is too narrow, and the structure switches no single weights.
    """
    sizes = [leaf.weight.size for leaf in leaves]
    if not wide.is_large(sizes):
        return jnp.sum(counts)
    if structure != WEIGHT:
        check_sums(sizes)
    return wide.surplus(counts)


def _by_leaf(numbers: jax.Array, shapes: Sequence[tuple[int, ...]], layouts: lanes.Layouts) -> list[jax.Array]:
    """Numbers of all layers by leaf: a scalar, or a vector of the layers of a stack."""
    found, start = [], 0
    for n, layout in zip(lanes.layer_counts(shapes, layouts), layouts, strict=True):
        found.append(numbers[start : start + n] if lanes_of(layout) else numbers[start])
        start += n
    return found


def _scored(what: str, criterion: Criterion, leaves: Sequence[Leaf]) -> list[jax.Array]:
    together = getattr(criterion, "of_all", None)
    scores = [criterion(leaf) for leaf in leaves] if together is None else together(leaves)
    return [returned.like_weight(criterion, what, s, leaf.weight) for s, leaf in zip(scores, leaves, strict=True)]
