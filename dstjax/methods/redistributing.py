"""Methods that move weights from one layer to another."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, schedules
from dstjax._arrays.shares import part_of
from dstjax.checks import check_number
from dstjax.method import Method, catalogued, checked, rewiring
from dstjax.rules import Memory, Network
from dstjax.selection import count_true


class _Carry(NamedTuple):
    """Of SNFS: what later updates grow more or less, since rounding and full layers change the total."""

    adjustment: jax.Array  # float32[]
    total: jax.Array  # float32[], sum of all differences so far
    rounds: jax.Array  # int32[]


@catalogued(
    grow="momentum",
    drop_fraction=0.5,
    drop_schedule="cosine_floor",
    rounding="ceil",
    update_order="step_then_update",
)
def snfs(*, momentum: float = 0.9, redistribution: str = "momentum", **shared: Any) -> Method:
    """SNFS, sparse momentum: what all layers drop is grown where the momentum of the weights is large.

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
    schedules.check_choice("redistribution", redistribution, ("momentum", "none"))
    base = rewiring("snfs", **{"counters": False, **shared})
    assert base.keep is not None
    move = base.keep

    def observe(network: Network) -> Memory:
        kept = [momentum * leaf.memory + (1 - momentum) * leaf.gradient for leaf in network.leaves]
        kept = [k.astype(leaf.memory.dtype) for k, leaf in zip(kept, network.leaves, strict=True)]
        return network.memory._replace(leaves=kept)

    def values(network: Network) -> jax.Array:
        """The share of each layer in the momentum."""
        sums = [jnp.sum(jnp.where(leaf.mask, jnp.abs(leaf.memory), 0)) for leaf in network.leaves]
        means = jnp.stack(sums).astype(jnp.float32) / jnp.maximum(network.active, 1).astype(jnp.float32)
        return means / jnp.maximum(jnp.sum(means), jnp.finfo(jnp.float32).tiny)

    def keep(network: Network) -> jax.Array:
        """Layers that are nearly dense and important drop no larger a share than their sparsity."""
        moving, inactive = network.active - move(network), network.sizes - network.active
        nearly_dense = (inactive * 5 < network.sizes) & (values(network) > 1 / len(network.leaves))
        share = jax.vmap(part_of)(network.active, inactive, network.sizes)
        whole = share * network.sizes == network.active * inactive
        least = jnp.minimum(moving, share + jnp.where(whole, 0, 1))
        return network.active - jnp.where(nearly_dense, least, moving)

    def regrow(network: Network, kept: jax.Array) -> jax.Array:
        lost = network.active - kept
        v = values(network)
        exact = v * (jnp.sum(lost).astype(jnp.float32) + network.memory.shared.adjustment)
        wanted = jnp.ceil(exact * (1 - 1e-5))  # rounding, which is not the same on all meshes, must not lift an integer
        most = 0.99 * (network.sizes - kept).astype(jnp.float32)

        def over(loop: tuple[jax.Array, jax.Array]) -> jax.Array:
            return jnp.any(loop[0] > most) & (loop[1] < 1000)

        def even(loop: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            excess = jnp.sum(jnp.maximum(loop[0] - most, 0))
            return jnp.minimum(loop[0], most) + excess / len(network.leaves), loop[1] + 1

        wanted, _ = jax.lax.while_loop(over, even, (jnp.maximum(wanted, 0), jnp.int32(0)))
        return jnp.floor(jnp.minimum(wanted, most)).astype(jnp.int32)

    def remember(network: Network, kept: jax.Array, new: list[jax.Array]) -> Memory:
        carry = network.memory.shared
        missing = (jnp.sum(network.target) - jnp.sum(count_true(new))).astype(jnp.float32)
        total, rounds = carry.total + missing, carry.rounds + 1
        adjustment = 0.25 * carry.adjustment + 0.75 * missing + total / rounds.astype(jnp.float32)
        return network.memory._replace(shared=_Carry(adjustment, total, rounds))

    def memory(weights: list[jax.Array], masks: list[jax.Array], key: jax.Array) -> Memory:
        zero = jnp.zeros((), jnp.float32)
        return Memory([jnp.zeros_like(w) for w in weights], shared=_Carry(zero, zero + 0, jnp.zeros((), jnp.int32)))

    method = dataclasses.replace(base, memory=memory, observe=observe)
    if redistribution == "none":
        return method
    return dataclasses.replace(method, counts="free", keep=keep, regrow=regrow, remember=remember)


class _Adaptive(NamedTuple):
    """Of DSR: below which absolute value weights are dropped, in all layers."""

    threshold: jax.Array  # float32[]


@catalogued(update_period=1000, distribution="uniform")
def dsr(*, threshold: float = 1e-3, drop_fraction: float = 0.1, tolerance: float = 0.1, **scheduled: Any) -> Method:
    """DSR: one threshold for all layers drops weights, and layers grow in proportion to what they have left.

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
    reparameterization", ICML 2019, Algorithm 1. The rest of the division goes to the first layers, in the authors' code
    to a random one.
    """
    check_number("threshold", threshold, "a number > 0", lambda h: 0 < h < float("inf"))
    check_number("tolerance", tolerance, "a number in [0, 1)", lambda t: 0 <= t < 1)
    fields = checked(**scheduled)
    part = schedules.fractions(drop_fraction, "constant", fields["updates"])

    def keep(network: Network) -> jax.Array:
        h = network.memory.shared.threshold
        above = [leaf.mask & (jnp.abs(leaf.weight) >= h.astype(leaf.weight.dtype)) for leaf in network.leaves]
        return jnp.maximum(count_true(above), jnp.minimum(network.active, 1))

    def regrow(network: Network, kept: jax.Array) -> jax.Array:
        room = network.sizes - network.active  # not where something was just dropped
        return budgets.deal(jnp.sum(network.target - kept), kept, room)

    def remember(network: Network, kept: jax.Array, new: list[jax.Array]) -> Memory:
        h = network.memory.shared.threshold
        dropped = jnp.sum(network.active - kept).astype(jnp.float32)
        wanted = part.of(jnp.sum(network.target), network.update_index).astype(jnp.float32)
        lower, higher = dropped > (1 + tolerance) * wanted, dropped < (1 - tolerance) * wanted
        return network.memory._replace(shared=_Adaptive(jnp.where(lower, h / 2, jnp.where(higher, 2 * h, h))))

    return Method(
        "dsr",
        **fields,
        keep=keep,
        regrow=regrow,
        grow=criteria.random,
        regrow_dropped=False,
        counts="total",
        update_order="step_then_update",
        memory=lambda weights, masks, key: Memory(shared=_Adaptive(jnp.full((), threshold, jnp.float32))),
        remember=remember,
    )
