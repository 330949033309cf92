"""ADMM pruning from a dense network: the baseline of DST-EE's graph experiments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import criteria
from dstjax.checks import check_number
from dstjax.method import Method, catalogued, checked, several_densities
from dstjax.rules import Leaf, Memory, Network


class _Split(NamedTuple):
    """The sparse copy of a leaf and the scaled dual that pulls the weights to it."""

    z: jax.Array
    u: jax.Array


@catalogued(distribution="uniform")
def admm(*, rho: float = 0.01, **scheduled: Any) -> Method:
    """ADMM: trains dense, pulls the weights towards a sparse copy, prunes, and trains what is left.

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
    fields = several_densities("admm", checked(**scheduled))
    updates = fields["updates"]
    if updates.count is None or updates.count < 2:
        raise ValueError(
            f"end_step={updates.end_step} is not accepted by 'admm': the first mask update begins the pull and the "
            "last one prunes; expected an end_step with two updates before it at least."
        )
    last = updates.first + (updates.count - 1) * updates.update_period
    structure = fields["structure"]

    def projected(network: Network) -> list[jax.Array]:
        """Where P is not zero."""
        begins = network.step == updates.first
        sums = [
            jnp.abs(leaf.weight + jnp.where(begins, jnp.zeros_like(leaf.weight), leaf.memory.u))
            for leaf in network.leaves
        ]
        nothing = [jnp.zeros(s.shape, bool) for s in sums]
        return structure.grow(sums, nothing, [~n for n in nothing], network.target)

    def observe(network: Network) -> Memory:
        """Z and U change at the beginning of the call after an update, when the weights are those after it."""
        after_update = updates.is_update(network.step - 1)
        begins = network.step - 1 == updates.first

        def one(leaf: Leaf, inside: jax.Array) -> _Split:
            z, u = leaf.memory
            dual = jnp.where(begins, jnp.zeros_like(u), u)
            copy = jnp.where(inside, leaf.weight + dual, jnp.zeros_like(u))
            return _Split(
                jnp.where(after_update, copy, z),
                jnp.where(after_update & ~begins, dual + leaf.weight - copy, jnp.where(after_update, dual, u)),
            )

        assert network.memory.sets is not None
        leaves = [one(leaf, s) for leaf, s in zip(network.leaves, network.memory.sets, strict=True)]
        return network.memory._replace(leaves=leaves)

    def seen(leaf: Leaf) -> jax.Array:
        pulling = (leaf.step > updates.first) & (leaf.step <= last)
        return leaf.gradient + jnp.where(pulling, rho * (leaf.weight - leaf.memory.z + leaf.memory.u), 0)

    def begin(weights: list[jax.Array], masks: list[jax.Array], key: jax.Array) -> Memory:
        del key
        leaves = [_Split(jnp.zeros_like(w), jnp.zeros_like(w)) for w in weights]
        return Memory(leaves, [jnp.ones_like(m) for m in masks])

    return Method(
        "admm",
        **fields,
        initial_sparsity=0,
        keep=lambda network: jnp.where(network.step == last, network.target, network.active),
        regrow=lambda network, kept: jnp.where(network.step == last, network.target - kept, 0),
        grow=criteria.magnitude,
        counts="reached",
        update_order="step_then_update",
        memory=begin,
        observe=observe,
        remember=lambda network, kept, new: network.memory._replace(sets=projected(network)),
        gradient=seen,
    )
