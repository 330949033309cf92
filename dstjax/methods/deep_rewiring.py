"""Methods whose weights have fixed signs: a connection dies when its weight crosses zero, at any step.

With sigma = sign and theta = sigma * w, a connection is active while theta > 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, views
from dstjax._arrays.keys import leaf_keys
from dstjax.checks import check_number
from dstjax.masks import zero_outside
from dstjax.method import Method, catalogued, checked
from dstjax.rules import Leaf, Memory, Network
from dstjax.selection import count_true

EVERY_STEP: dict[str, Any] = dict(update_period=1, start_step=0, end_step=None)


class _Fixed(NamedTuple):
    sign: jax.Array  # int8, of the shape of the weight: 1 or -1


class _Soft(NamedTuple):
    sign: jax.Array  # int8, of the shape of the weight: 1 or -1
    lowest: jax.Array  # float32[], theta never falls below


def _theta(leaf: Leaf) -> jax.Array:
    return leaf.weight * leaf.memory.sign.astype(leaf.weight.dtype)


def _noise(leaf: Leaf) -> jax.Array:
    w = leaf.weight
    return jax.random.normal(leaf.key, w.shape, w.dtype, out_sharding=jax.typeof(w).sharding)


def _signs(weights: list[jax.Array], key: jax.Array) -> list[jax.Array]:
    """1 or -1 for each weight, int8; random for zeros, such as the inactive weights of a network that is sparse."""
    keys = [k for _, k in leaf_keys(key, 0, len(weights))]
    drawn = [
        jax.random.bernoulli(k, 0.5, w.shape, out_sharding=jax.typeof(w).sharding)
        for k, w in zip(keys, weights, strict=True)
    ]
    return [jnp.where((w < 0) | ((w == 0) & d), -1, 1).astype(jnp.int8) for w, d in zip(weights, drawn, strict=True)]


def _alive(network: Network) -> jax.Array:
    return count_true([leaf.mask & (_theta(leaf) > 0) for leaf in network.leaves])


@catalogued()
def deepr(*, noise: float = 1e-5, l1: float = 1e-5, **common: Any) -> Method:
    """DeepR: noisy descent with fixed signs; connections that cross zero die, and as many random ones wake up.

    theta <- theta - lr * (dE/dtheta + l1 - noise * nu), nu standard normal, for active connections; those with
    theta <= 0 become dormant, and dormant ones are activated at 1e-12 until each layer has its count. The optimiser
    should be plain gradient descent. Signs are those of the weights given to ``init``, random where these are zero.

    Args:
      noise: Gamma; the temperature of the paper is lr * noise**2 / 2.
      l1: weight of the L1 penalty.
      **common: as in :func:`dstjax.method.rewiring`. Every step is a mask update, to the end.

    Reference: Bellec et al., "Deep rewiring: training very sparse deep networks", ICLR 2018, Algorithm 1; constants and
    the order of the terms from the authors' code.
    """
    _check(noise, l1)

    def signs(weights: list[jax.Array], masks: list[jax.Array], key: jax.Array) -> Memory:
        del masks
        return Memory([_Fixed(sign) for sign in _signs(weights, key)])

    def seen(leaf: Leaf) -> jax.Array:
        return leaf.gradient + l1 * leaf.memory.sign.astype(leaf.weight.dtype) - noise * _noise(leaf)

    def settle(leaf: Leaf, grown: jax.Array) -> jax.Array:
        del grown
        woken = 1e-12 * leaf.memory.sign.astype(leaf.weight.dtype)
        return zero_outside(jnp.where(_theta(leaf) > 0, leaf.weight, woken), leaf.mask)

    return Method(
        "deepr",
        **checked(**common, **EVERY_STEP),
        keep=lambda network: _alive(network),
        regrow=budgets.to_target,
        drop=_theta,
        grow=criteria.random,
        update_order="step_then_update",
        memory=signs,
        gradient=seen,
        settle=settle,
    )


@catalogued()
def soft_deepr(*, noise: float = 1e-5, l1: float = 1e-5, learning_rate: float = 0.05, **common: Any) -> Method:
    """Soft-DeepR: dormant connections walk at random below zero and wake up when they cross it.

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

    def begin(weights: list[jax.Array], masks: list[jax.Array], key: jax.Array) -> Memory:
        depth = learning_rate * noise**2 / 2 / l1
        return Memory(
            [
                _Soft(jnp.where(m, s, -s), -depth * (1 / p - 1))
                for s, m in zip(_signs(weights, key), masks, strict=True)
                for p in [jnp.mean(m, dtype=jnp.float32)]
            ]
        )

    def seen(leaf: Leaf) -> jax.Array:
        pull = leaf.gradient + l1 * leaf.memory.sign.astype(leaf.weight.dtype)
        return zero_outside(pull, leaf.mask) - noise * _noise(leaf)

    def settle(leaf: Leaf, grown: jax.Array) -> jax.Array:
        del grown
        lowest = leaf.memory.lowest.astype(leaf.weight.dtype)
        return jnp.maximum(_theta(leaf), lowest) * leaf.memory.sign.astype(leaf.weight.dtype)

    def positive(network: Network, kept: jax.Array) -> jax.Array:
        del kept
        return jnp.maximum(count_true([_theta(leaf) > 0 for leaf in network.leaves]), 1)

    return Method(
        "soft_deepr",
        **checked(**common, **EVERY_STEP),
        keep=budgets.none,
        regrow=positive,
        grow=_theta,
        counts="free",
        update_order="step_then_update",
        memory=begin,
        gradient=seen,
        settle=settle,
        view=lambda step, memory: views.Masked(),
    )


def _check(noise: float, l1: float) -> None:
    check_number("noise", noise, "a number >= 0", lambda v: 0 <= v < float("inf"))
    check_number("l1", l1, "a number >= 0", lambda v: 0 <= v < float("inf"))
