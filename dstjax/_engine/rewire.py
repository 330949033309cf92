"""The mask update of a whole tree, on lists of masked leaves: all that a branch of the step computes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import budgets
from dstjax._arrays import lanes
from dstjax._arrays.bits import StoredMask, once, pack_like, unpack
from dstjax._arrays.selection import count_true
from dstjax._engine import measures, returned
from dstjax._engine.drop_and_grow import drop_and_grow_all, in_all
from dstjax._engine.states import Topology
from dstjax.method import Masking, Remembered, Updates
from dstjax.rules import Layers
from dstjax.structures import WEIGHT


def rewire(
    masking: Masking,
    updates: Updates,
    remembered: Remembered,
    old: Topology,
    layers: Layers,
    grow_keys: list[jax.Array],
    frozen: Sequence[bool],
    pulls: Sequence[jax.Array],
    dense: Sequence[Any] = (),
    *,
    prunes: bool = False,
) -> Topology:
    """One mask update: drops and grows in every leaf, counts, and tracks what is tracked.

    A layer that is frozen stands still: nothing could train what is grown there. So does one whose gradient is zero
    while others have one, but that a method which prunes takes from it what is too much, and grows nothing there: its
    count is promised, and this may be the last update.

    Args:
      masking: what is masked.
      updates: the rules of the update.
      remembered: what the method remembers.
      old: the topology before.
      layers: what the rules read.
      grow_keys: a PRNG key for the growth of each leaf.
      frozen: for each leaf whether the optimiser never moves it.
      pulls: the gradient of each leaf as the optimiser sees it, with what the method adds (noise, a penalty).
      dense: the gradients of leaves that are not masked.
      prunes: whether the method brings each layer, or all, down to a number.

    Returns:
      The topology after, of the same structure, shapes, dtypes and shardings.
    """
    before = once([leaf.mask for leaf in layers.leaves])
    leaves = [leaf._replace(mask=mask) for leaf, mask in zip(layers.leaves, before, strict=True)]
    layers = layers._replace(leaves=leaves)
    fixed, quiet = _standing_still(layers, frozen, pulls, dense)
    across = getattr(masking.structure, "across_leaves", False)
    if across:  # a channel is whole in all its leaves
        still = jnp.any(fixed if prunes else fixed | quiet)
        fixed, quiet = (jnp.broadcast_to(x, quiet.shape) for x in (still, False))
    still = fixed | quiet
    layers = layers._replace(still=fixed if prunes else still)
    n_kept = returned.counts(updates.n_kept, "n_kept", updates.n_kept(layers), layers.active.size)
    stay = _fewer(updates, layers, n_kept) if prunes and not across else layers.active
    # Where all layers are ranked together, and nothing is exchanged, those without a gradient are ranked too.
    only_drops = isinstance(updates.n_grown, budgets.Pooled) or updates.n_grown == budgets.no_growth
    is_ranked = prunes and only_drops and updates.scope == "global"
    ahead = fixed if is_ranked else still
    unchanged = fixed if is_ranked else fixed | (quiet & (stay >= layers.active))
    of_leaf, as_before, first = (
        lanes.of_each(x, [m.shape for m in before], layers.layouts) for x in (still, unchanged, ahead)
    )
    heard: list[jax.Array] = []

    def n_grown(kept: jax.Array) -> jax.Array:
        heard.append(kept)
        rule = updates.n_grown
        if rule is None:
            return layers.active - kept
        if isinstance(rule, budgets.Pooled):
            return in_all(jnp.where(ahead, 0, rule.n_grown(layers, kept)), leaves, masking.structure)
        pooled = getattr(masking.structure, "ranks_together", True)
        n = returned.counts(rule, "n_grown", rule(layers, kept), layers.active.size, pooled=pooled)
        n = n if across else jnp.maximum(n, 0)  # only the sum counts there
        if masking.structure == WEIGHT or not n.ndim:
            return jnp.where(still, 0, n) if n.ndim else n
        # Groups and neurons are filled up to what stays: their drop leaves less where the best lie side by side.
        return jnp.where(fixed, 0, jnp.where(quiet, jnp.maximum(stay - kept, 0), n))

    moves = drop_and_grow_all(
        leaves,
        grow_keys,
        drop=updates.drop_score,
        grow=updates.grow_score,
        active=layers.active,
        n_kept=jnp.where(fixed, layers.active, jnp.where(quiet, stay, n_kept)),
        n_grown=n_grown,
        target=layers.target,
        scope=updates.scope,
        structure=masking.structure,
        regrow_dropped=updates.regrow_dropped,
        still=of_leaf,
        ahead=first,
        stored=old.masks,
    )
    new = [move.mask for move in moves]
    if masking.structure != WEIGHT or updates.scope != "layer":  # single weights of a layer stay by their numbers
        new = [jnp.where(s, b, m) for s, b, m in zip(as_before, before, new, strict=True)]
    result = old._replace(masks=_stored_like(old.masks, new))
    if remembered.second_mask is not None:
        rule = remembered.second_mask
        second = returned.masks(rule, "second_mask", rule(layers, new), new)
        last = [unpack(m) for m in old.second_mask or []]
        second = [jnp.where(s, b, m) for s, b, m in zip(of_leaf, last, second, strict=True)]
        result = result._replace(second_mask=_stored_like(old.second_mask or [], second))
    if remembered.after_update is not None:
        after = remembered.after_update
        shared = returned.like(after, "after_update", after(layers, heard[0], new), old.shared)
        result = result._replace(shared=shared)
    if layers.measured is not None:
        result = result._replace(measured=measures.closed(old.measured, layers.measured))
    if old.counters is not None:
        result = result._replace(
            counters=[saturating_add(c, m & ~s) for c, m, s in zip(old.counters, new, of_leaf, strict=True)]
        )
    if old.ever is not None:
        result = result._replace(
            ever=_stored_like(old.ever, [unpack(e) | m for e, m in zip(old.ever, new, strict=True)])
        )
    if old.grown is not None:
        last = [unpack(g) for g in old.grown]
        result = result._replace(
            grown=_stored_like(old.grown, [m & ~b for m, b in zip(new, before, strict=True)]),
            n_grown=count_true(last),
            n_survived=count_true([g & move.kept for g, move in zip(last, moves, strict=True)]),
        )
    if old.error is not None:
        result = result._replace(error=error([leaf.weight for leaf in leaves], new))
    return result


def _fewer(updates: Updates, layers: Layers, n_kept: jax.Array) -> jax.Array:
    """How many of its active weights each layer would have after the update, at most all of them, int32[layers]."""
    rule = updates.n_grown.n_grown if isinstance(updates.n_grown, budgets.Pooled) else updates.n_grown
    if rule is None:
        return layers.active
    grown = rule(layers, n_kept)
    return jnp.clip(n_kept + jnp.maximum(grown, 0), 0, layers.active) if grown.ndim else layers.active


def _standing_still(
    layers: Layers, frozen: Sequence[bool], pulls: Sequence[jax.Array], dense: Sequence[Any]
) -> tuple[jax.Array, jax.Array]:
    """Which layers are frozen, and which have no gradient where another leaf has one, bool[layers] each."""
    moving = layers.counts([pull != 0 for pull in pulls])
    anywhere = jnp.any(moving > 0)
    for gradient in dense:
        anywhere |= jnp.any(gradient != 0)
    numbers = lanes.layer_counts([leaf.weight.shape for leaf in layers.leaves], layers.layouts)
    return jnp.asarray(np.repeat(np.array(frozen, bool), numbers)), (moving == 0) & anywhere


def _stored_like(old: list[StoredMask], new: list[jax.Array]) -> list[StoredMask]:
    return [pack_like(m, o.dtype) for o, m in zip(old, new, strict=True)]


def saturating_add(counter: jax.Array, mask: jax.Array) -> jax.Array:
    """Adds one where the mask is set, and stays at the highest number of the dtype."""
    highest = np.array(np.iinfo(counter.dtype).max, counter.dtype)
    return counter + (mask & (counter < highest)).astype(counter.dtype)


def counter_dtype(updates: int | None) -> Any:
    """The smallest unsigned integer that holds the initial mask and every update; 16 bits where they never end."""
    highest = 2**16 - 1 if updates is None else updates + 1
    return next(d for d in (jnp.uint8, jnp.uint16, jnp.uint32) if highest <= jnp.iinfo(d).max)


def error(weights: list[jax.Array], new: list[jax.Array]) -> jax.Array:
    """Mask-incurred error of a list of weights: ||W * M - W||^2 / ||W||^2 over all of them, float32 scalar.

    Reference: DST-EE, Assumption 3 (tau squared).
    """
    squares = [jnp.square(w.astype(jnp.float32)) for w in weights]
    lost = sum(jnp.sum(jnp.where(m, 0.0, s)) for s, m in zip(squares, new, strict=True))
    total = jnp.asarray(sum(jnp.sum(s) for s in squares), jnp.float32)
    return jnp.where(total > 0, lost / jnp.maximum(total, jnp.finfo(jnp.float32).tiny), 0.0).astype(jnp.float32)
