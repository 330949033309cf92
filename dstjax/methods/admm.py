"""Prunes from a dense network by ADMM: the baseline of DST-EE's graph experiments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, structures
from dstjax.checks import check_number
from dstjax.masks import zero_outside
from dstjax.method import Method, Remembered, Seen, Start, Updates, common_fields, refuse_n_m
from dstjax.methods.catalogue import catalogued
from dstjax.rules import Layers, Leaf, bind

__all__ = ["admm"]


class _Split(NamedTuple):
    """Holds the sparse copy of a leaf and the scaled dual that pulls the weights to it."""

    z: jax.Array
    u: jax.Array


def _begin(leaf: Leaf) -> _Split:
    return _Split(jnp.zeros_like(leaf.weight), jnp.zeros_like(leaf.weight))


def _pruned_at(last: int, layers: Layers) -> jax.Array:
    """Keeps all weights until the last update, which prunes."""
    return jnp.where(layers.step == last, layers.target, layers.active)


def _projected(structure: structures.Structure, layers: Layers, masks: list[jax.Array]) -> list[jax.Array]:
    """Marks where P(W + U) is not zero."""
    del masks
    sums = [jnp.abs(leaf.weight + leaf.memory.u) for leaf in layers.leaves]
    nothing = [jnp.zeros(s.shape, bool) for s in sums]
    return structure.grow(sums, nothing, [~n for n in nothing], layers.target, layers.layouts)


def _dual(first: int, leaf: Leaf, is_update: Any) -> _Split:
    """Sets Z = P(W + U) and U = U + W - Z after each update; the first begins with U = 0."""
    z, u = leaf.memory
    inside = zero_outside(leaf.weight + u, leaf.second_mask)
    moved = jnp.where(leaf.step == first, u, u + leaf.weight - inside)
    return _Split(jnp.where(is_update, inside, z), jnp.where(is_update, moved, u))


def _pulled(rho: float, first: int, last: int, leaf: Leaf) -> jax.Array:
    """Adds rho * (W - Z + U) to the gradient between the first update and the last."""
    pulls = (leaf.step > first) & (leaf.step <= last)
    return leaf.gradient + jnp.where(pulls, rho * (leaf.weight - leaf.memory.z + leaf.memory.u), 0)


@catalogued("ADMM", "dense to sparse", "zhang2018", cost="dense_then_sparse", distribution="uniform")
def admm(*, rho: float = 0.01, **scheduled: Any) -> Method:
    """Trains dense, pulls the weights towards a sparse copy, prunes, and trains what is left: ADMM.

    Dense training lasts until the first update. Then Z = P(W), which keeps the largest weights of each layer, and
    U = 0; the optimiser sees dL/dW + rho * (W - Z + U), and at each update Z = P(W + U), U = U + W - Z. The last update
    prunes to the largest abs(W).

    Args:
      rho: weight of the penalty.
      **scheduled: as in :func:`dstjax.method.rewiring`: ``start_step`` begins the pull, the last update before
        ``end_step``, which is required, prunes; distribution='uniform'.

    Reference: Zhang et al., "A systematic DNN weight pruning framework using alternating direction method of
    multipliers", ECCV 2018. DST-EE (graph experiments) trains 20 epochs in each of the three phases with one update of
    Z and U an epoch; its code calls the second phase reweighted.
    """
    check_number("rho", rho, "a number >= 0", lambda v: 0 <= v < float("inf"))
    masking, schedule = common_fields(**scheduled)
    refuse_n_m("admm", masking)
    first, last = schedule.first, schedule.last
    if last is None or first == last:
        raise ValueError(
            f"end_step={schedule.end_step} is not accepted by 'admm': the first mask update begins the pull and the "
            "last one prunes; expected an end_step with two updates before it at least."
        )
    n_kept, n_grown = bind(_pruned_at, last), budgets.To(bind(_pruned_at, last))
    return Method(
        "admm",
        masking,
        Start(sparsity=0),
        Updates(schedule, n_kept, n_grown, grow_score=criteria.magnitude, order="step_then_update"),
        Remembered(_begin, after_step=bind(_dual, first), second_mask=bind(_projected, masking.structure)),
        Seen(gradient=bind(_pulled, rho, first, last)),
        promises="reached",
    )
