"""Fixes the signs of weights: a connection dies when its weight crosses zero, at any step.

With sigma = sign and theta = sigma * w, a connection is active while theta > 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, views
from dstjax.checks import check_number
from dstjax.masks import zero_outside
from dstjax.method import Method, Remembered, Seen, Updates, common_fields
from dstjax.methods.catalogue import catalogued
from dstjax.rules import Layers, Leaf, bind

__all__ = ["deepr", "soft_deepr"]


class _Fixed(NamedTuple):
    sign: jax.Array  # int8, of the shape of the weight: 1 or -1


class _Soft(NamedTuple):
    sign: jax.Array  # int8, of the shape of the weight: 1 or -1
    lowest: jax.Array  # float32[], theta never falls below


def _theta(leaf: Leaf) -> jax.Array:
    return leaf.weight * leaf.memory.sign.astype(leaf.weight.dtype)


def _sign(leaf: Leaf) -> jax.Array:
    """Returns 1 or -1 for each weight, int8; random for zeros, such as the inactive weights of a sparse network."""
    w = leaf.weight
    drawn = jax.random.bernoulli(leaf.key, 0.5, w.shape, out_sharding=jax.typeof(w).sharding)
    return jnp.where((w < 0) | ((w == 0) & drawn), -1, 1).astype(jnp.int8)


def _fixed(leaf: Leaf) -> _Fixed:
    return _Fixed(_sign(leaf))


def _depth(depth: float, leaf: Leaf) -> _Soft:
    """Remembers signs, and how far below zero a dormant connection may walk; dormant ones begin at the lowest value."""
    sign, density = _sign(leaf), leaf.mean(leaf.mask, jnp.float32)
    return _Soft(jnp.where(leaf.mask, sign, -sign), -depth * (1 / density - 1))


def _noise(leaf: Leaf) -> jax.Array:
    """The standard normal numbers nu, of the shape of the weight."""
    w = leaf.weight
    return jax.random.normal(leaf.key, w.shape, w.dtype, out_sharding=jax.typeof(w).sharding)


def _noisy(noise: float, l1: float, soft: bool, leaf: Leaf) -> jax.Array:
    """Returns dE/dtheta + l1 - noise * nu; where connections are ``soft`` only active ones are pulled."""
    w = leaf.weight
    pull = leaf.gradient + l1 * leaf.memory.sign.astype(w.dtype)
    return (zero_outside(pull, leaf.mask) if soft else pull) - noise * _noise(leaf)


def _alive(layers: Layers) -> jax.Array:
    return layers.counts([leaf.mask & (_theta(leaf) > 0) for leaf in layers.leaves])


def _woken(leaf: Leaf, grown: jax.Array) -> jax.Array:
    """Lets connections that wake up begin at 1e-12."""
    del grown
    begin = 1e-12 * leaf.memory.sign.astype(leaf.weight.dtype)
    return zero_outside(jnp.where(_theta(leaf) > 0, leaf.weight, begin), leaf.mask)


def _positive(layers: Layers, kept: jax.Array) -> jax.Array:
    del kept
    return jnp.maximum(layers.counts([_theta(leaf) > 0 for leaf in layers.leaves]), 1)


def _not_below(leaf: Leaf, grown: jax.Array) -> jax.Array:
    del grown
    lowest = leaf.memory.lowest.astype(leaf.weight.dtype)
    return jnp.maximum(_theta(leaf), lowest) * leaf.memory.sign.astype(leaf.weight.dtype)


@catalogued("DeepR", "sparse to sparse", "bellec2018", cost="always_sparse")
def deepr(*, noise: float = 1e-5, l1: float = 1e-5, **common: Any) -> Method:
    """Descends with noise and fixed signs; what crosses zero dies, and as many random connections wake up: DeepR.

    theta <- theta - lr * (dE/dtheta + l1 - noise * nu), nu standard normal, for active connections; those with
    theta <= 0 become dormant, and dormant ones are activated at 1e-12 until each layer has its count; those that become
    dormant and are activated by the same call at 0, since adding an update to them does not reach 1e-12. The optimiser
    should be plain gradient descent. Signs are those of the weights given to ``init``, random where these are zero.

    Args:
      noise: Gamma; the temperature of the paper is lr * noise**2 / 2.
      l1: weight of the L1 penalty.
      **common: as in :func:`dstjax.method.rewiring`. Every step is a mask update, to the end.

    Reference: Bellec et al., "Deep rewiring: training very sparse deep networks", ICLR 2018, Algorithm 1; constants and
    the order of the terms from the authors' code.
    """
    _check(noise, l1)
    masking, every_step = common_fields(**common)
    updates = Updates(
        every_step,
        n_kept=_alive,
        n_grown=budgets.to_target,
        drop_score=_theta,
        grow_score=criteria.random,
        order="step_then_update",
        new_weights=_woken,
    )
    seen = Seen(gradient=bind(_noisy, noise, l1, False))
    return Method("deepr", masking, updates=updates, remembered=Remembered(_fixed), seen=seen)


@catalogued("Soft-DeepR", "sparse to sparse", "bellec2018", cost="always_sparse", needs=("forward_params",))
def soft_deepr(*, noise: float = 1e-5, l1: float = 1e-5, learning_rate: float = 0.05, **common: Any) -> Method:
    """Lets dormant connections walk at random below zero; they wake up when they cross it: Soft-DeepR.

    theta <- theta - lr * (dE/dtheta + l1) * [theta > 0] + lr * noise * nu for all connections, never below
    -(1 - p) / (p * beta) with beta = l1 / T, T = lr * noise**2 / 2 and p the density of the layer at the start. The
    number of active connections is free; in equilibrium the density is about p. Dormant connections begin at the lowest
    value. A layer keeps one connection at least.

    Args:
      noise: Gamma.
      l1: weight of the L1 penalty, > 0.
      learning_rate: lr of the temperature above, that of the optimiser.
      **common: as in :func:`dstjax.method.rewiring`. Every step is a mask update, to the end.

    Reference: Bellec et al., "Deep rewiring: training very sparse deep networks", ICLR 2018, Section 4 and the authors'
    code.
    """
    _check(noise, l1)
    check_number("l1", l1, "a number > 0", lambda v: v > 0)
    check_number("learning_rate", learning_rate, "a number > 0", lambda v: 0 < v < float("inf"))
    masking, every_step = common_fields(**common)
    return Method(
        "soft_deepr",
        masking,
        updates=Updates(
            every_step, budgets.none, _positive, grow_score=_theta, order="step_then_update", new_weights=_not_below
        ),
        remembered=Remembered(bind(_depth, learning_rate * noise**2 / 2 / l1)),
        seen=Seen(gradient=bind(_noisy, noise, l1, True), view=views.masked),
        promises="free",
    )


def _check(noise: float, l1: float) -> None:
    check_number("noise", noise, "a number >= 0", lambda v: 0 <= v < float("inf"))
    check_number("l1", l1, "a number >= 0", lambda v: 0 <= v < float("inf"))
