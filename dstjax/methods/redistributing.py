"""Moves weights from one layer to another."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, schedules, structures
from dstjax.budgets import part_of
from dstjax.checks import check_choice, check_number
from dstjax.method import Method, Remembered, Updates, common_fields, rewiring
from dstjax.methods.catalogue import ITOP, catalogued
from dstjax.rules import Layers, Leaf, bind

__all__ = ["dsr", "snfs"]


class _Carry(NamedTuple):
    """Holds what later updates of SNFS grow more or less, since rounding and full layers change the total."""

    adjustment: Any  # float32[]
    total: Any  # float32[], sum of all differences so far
    rounds: Any  # int32[]


def _nothing(leaf: Leaf) -> jax.Array:
    return jnp.zeros_like(leaf.weight)


def _average(momentum: float, leaf: Leaf) -> jax.Array:
    """M <- momentum * m + (1 - momentum) * g, of all weights."""
    return (momentum * leaf.memory + (1 - momentum) * leaf.gradient).astype(leaf.memory.dtype)


def _momentum_shares(layers: Layers) -> jax.Array:
    """Returns the share of each layer in the mean momentum of active weights, float32[layers]."""
    sums = [jnp.where(leaf.mask, jnp.abs(leaf.memory), 0) for leaf in layers.leaves]
    means = layers.sums(sums).astype(jnp.float32) / jnp.maximum(layers.active, 1).astype(jnp.float32)
    return means / jnp.maximum(jnp.sum(means), jnp.finfo(jnp.float32).tiny)


def _kept_if_nearly_dense(n_kept: budgets.NKept, layers: Layers) -> jax.Array:
    """Lets layers that are nearly dense and important drop no larger a share than their sparsity."""
    moving, inactive = layers.active - n_kept(layers), layers.sizes - layers.active
    nearly_dense = (inactive < -(-layers.sizes // 5)) & (_momentum_shares(layers) > 1 / layers.active.size)
    share = jax.vmap(part_of)(layers.active, inactive, layers.sizes)
    whole = share * layers.sizes == layers.active * inactive
    least = jnp.minimum(moving, share + jnp.where(whole, 0, 1))
    return layers.active - jnp.where(nearly_dense, least, moving)


def _by_momentum(layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows what all layers lost, by their shares in the momentum; no layer beyond 99 % of its room."""
    lost = layers.about(layers.active - kept) + layers.shared.adjustment
    # Rounding, which is not the same on all meshes, must not lift an integer.
    wanted = jnp.ceil(_momentum_shares(layers) * lost * (1 - 1e-5))
    return budgets.fill(wanted, 0.99 * layers.room(kept).astype(jnp.float32))


def _carried(layers: Layers, kept: jax.Array, masks: list[jax.Array]) -> _Carry:
    del kept
    carry = layers.shared
    missing = layers.about(layers.target - layers.counts(masks))
    total, rounds = carry.total + missing, carry.rounds + 1
    return _Carry(0.25 * carry.adjustment + 0.75 * missing + total / rounds.astype(jnp.float32), total, rounds)


@catalogued("SNFS", "sparse to sparse", "dettmers2019", cost="dense_gradient_always", grow="momentum", **ITOP)
def snfs(*, momentum: float = 0.9, redistribution: str = "momentum", **shared: Any) -> Method:
    """Grows what all layers drop where the momentum of the weights is large: SNFS, sparse momentum.

    A moving average of the dense gradients is kept for all weights. A layer's share of what is grown is the mean of its
    absolute momentum over active weights; within a layer the inactive weights with the largest momentum are grown. The
    overall count is kept up to rounding, which later updates make good, and no layer grows beyond 99 % of its room.

    Args:
      momentum: decay of the moving average; in the paper the momentum buffer of the optimiser.
      redistribution: 'momentum', or 'none' for as many in each layer as it lost.
      **shared: as in :func:`dstjax.method.rewiring`; grow='momentum', drop_fraction=0.5, drop_schedule='cosine_floor',
        rounding='ceil', update_order='step_then_update'.

    Reference: Dettmers and Zettlemoyer, "Sparse networks from scratch: faster training without losing performance",
    2019, Section 3, and the authors' code for the carry. The moments of grown weights in the optimiser start at zero
    here; the moving average is kept.
    """
    check_number("momentum", momentum, "a number in [0, 1)", lambda m: 0 <= m < 1)
    check_choice("redistribution", redistribution, ("momentum", "none"))
    base = rewiring("snfs", **shared).but(leaf=_nothing, before_step=bind(_average, momentum))
    if redistribution == "none":
        return base
    return base.but(
        promises="free",
        n_kept=bind(_kept_if_nearly_dense, base.moving.n_kept),
        n_grown=_by_momentum,
        shared=_Carry(0.0, 0.0, 0),
        after_update=_carried,
    )


def _above_threshold(layers: Layers) -> jax.Array:
    """Keeps weights with abs(w) >= H, and one of each layer at least."""
    h = layers.shared
    above = [leaf.mask & (jnp.abs(leaf.weight) >= h.astype(leaf.weight.dtype)) for leaf in layers.leaves]
    return jnp.maximum(layers.counts(above), jnp.minimum(layers.active, 1))


def _by_what_is_left(layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows what is missing altogether, in proportion to what has stayed; not where something was just dropped."""
    return budgets.deal(layers.sum(layers.target - kept), kept, room=layers.room(layers.active))


def _threshold(
    part: schedules.Fractions, tolerance: float, layers: Layers, kept: jax.Array, masks: list[jax.Array]
) -> jax.Array:
    """Halves H where too many weights went, and doubles it where too few did."""
    del masks
    h, dropped = layers.shared, layers.sum(layers.active - kept).astype(jnp.float32)
    wanted = part.of(layers.sum(layers.target), layers.update_index).astype(jnp.float32)
    lower, higher = dropped > (1 + tolerance) * wanted, dropped < (1 - tolerance) * wanted
    return jnp.where(lower, h / 2, jnp.where(higher, 2 * h, h))


@catalogued("DSR", "sparse to sparse", "mostafa2019", cost="always_sparse", update_period=1000, distribution="uniform")
def dsr(*, threshold: float = 1e-3, drop_fraction: float = 0.1, tolerance: float = 0.1, **scheduled: Any) -> Method:
    """Drops weights by one threshold for all layers, and grows in proportion to what each layer has left: DSR.

    Every layer drops its weights with abs(w) < H, but for one at least. What all have dropped is grown at random, never
    where it was just dropped. H is halved where more than (1 + tolerance) * ``drop_fraction`` of the weights went, and
    doubled where fewer than (1 - tolerance) did. The number of active weights of the network is kept, those of its
    layers change; where more were dropped than there is room elsewhere, the next update grows the rest.

    Args:
      threshold: H at first.
      drop_fraction: share of all active weights that an update should drop; the paper gives numbers of weights.
      tolerance: see above.
      **scheduled: as in :func:`dstjax.method.rewiring`; update_period=1000, distribution='uniform'.

    Reference: Mostafa and Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
    reparameterization", ICML 2019, Algorithm 1. What rounding leaves is divided again and then goes to the first
    layers, in the authors' code to a random one.

    For fewer than 2**31 weights in all layers together: their sums are integers of 32 bits.
    """
    check_number("threshold", threshold, "a number > 0", lambda h: 0 < h < float("inf"))
    check_number("tolerance", tolerance, "a number in [0, 1)", lambda t: 0 <= t < 1)
    masking, schedule = common_fields(**scheduled)
    part = schedules.Fractions(drop_fraction, "constant", schedule.steps, schedule.end_step)
    updates = Updates(
        schedule,
        n_kept=_above_threshold,
        n_grown=_by_what_is_left,
        grow_score=criteria.random,
        regrow_dropped=False,
        order="step_then_update",
    )
    remembered = Remembered(shared=threshold, after_update=bind(_threshold, part, tolerance))
    # Where more than half of the weights are active there may be no room for what was dropped.
    has_room = not isinstance(masking.sparsity, int | float) or masking.sparsity >= 0.5
    # Units of several weights round the number of each layer down.
    in_units = isinstance(masking.structure, structures.Block | structures.Units)
    promises = "total" if has_room and not in_units else "free"
    return Method("dsr", masking, updates=updates, remembered=remembered, promises=promises)
