"""Methods that start dense, or denser than they end: gradual pruning.

The masks change after the optimiser's step. Where the distribution is named the final counts follow it; 'uniform' is
that of the papers.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from dstjax import budgets, criteria, schedules
from dstjax.checks import check_choice, check_integer, check_number
from dstjax.method import SCOPES, Method, catalogued, checked, fixed, rewiring, several_densities
from dstjax.rules import Network
from dstjax.selection import count_true
from dstjax.structures import WEIGHT


@catalogued(distribution="uniform")
def gmp(*, scope: str = "layer", **scheduled: Any) -> Method:
    """Gradual magnitude pruning: the sparsity rises by a cubic from 0 at ``start_step`` to its end at the last update.

    Pruned weights never return. s(t) = s * (1 - (1 - p)^3) with p from 0 to 1.

    Args:
      scope: 'global' ranks all layers together.
      **scheduled: as in :func:`dstjax.method.rewiring`; ``end_step`` is required, distribution='uniform'.

    Reference: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    2017, Eq. 1. The last update is exactly at the target, where some code stops one update short.
    """
    check_choice("scope", scope, SCOPES)
    fields = several_densities("gmp", checked(**scheduled))
    return Method(
        "gmp",
        **fields,
        initial_sparsity=0,
        keep=budgets.ramp(schedules.cubic(fields["updates"])),
        regrow=budgets.no_growth,
        scope=scope,
        counts="reached" if scope == "layer" else "total",
        update_order="step_then_update",
    )


@catalogued(distribution="uniform")
def one_shot(*, prune_step: int, scope: str = "layer", **common: Any) -> Method:
    """Trains dense for ``prune_step`` steps, keeps the largest weights, and fine-tunes them.

    Args:
      prune_step: the step after which the network is pruned.
      scope: 'global' ranks all layers together.
      **common: as in :func:`dstjax.method.rewiring`; distribution='uniform'.

    Reference: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015.
    """
    check_choice("scope", scope, SCOPES)
    check_integer("prune_step", prune_step, 1)
    return Method(
        "one_shot",
        **checked(**common, update_period=prune_step, start_step=prune_step, end_step=prune_step + 1),
        initial_sparsity=0,
        keep=budgets.target,
        # Nothing, but where a structure needs whole units; leaves that are ranked together do not fill up each alone.
        regrow=budgets.to_target if scope == "layer" else budgets.pooled(budgets.to_target),
        grow=criteria.magnitude,
        scope=scope,
        counts="reached" if scope == "layer" else "total",
        update_order="step_then_update",
    )


@catalogued(distribution="uniform")
def sis(*, prune_step: int, **common: Any) -> Method:
    """Trains dense for ``prune_step`` steps, finds sparse layers with the same activations, and fine-tunes them.

    The masks come from :func:`dstjax.initial_masks.sis`, which needs the activations of each layer: the training loop
    calls it after ``prune_step`` steps and hands its masks to :func:`dstjax.set_masks`. Until then all weights are
    active.

    Args:
      prune_step: the step after which the network is pruned.
      **common: as in :func:`dstjax.method.rewiring`; distribution='uniform'.

    Reference: Verma and Pesquet, "Sparsifying networks via subdifferential inclusion", ICML 2021. From the abstract and
    general knowledge alone; the solver is a substitute.
    """
    check_integer("prune_step", prune_step, 1)
    return fixed(
        "sis", fields={"pruner": "sis", "prune_step": prune_step, "initial_sparsity": 0, "counts": "reached"}, **common
    )


@catalogued(
    update_period=1000,
    drop_fraction=0.5,
    drop_schedule="cosine_floor",
    rounding="ceil",
    update_order="step_then_update",
)
def granet(*, initial_sparsity: float = 0.5, prune_end_step: int | None = None, **shared: Any) -> Method:
    """GraNet: gradual pruning over all layers, and at each update a regrowth of what each layer then drops.

    First the smallest weights of the whole network go, as the cubic schedule of gradual pruning says; then each layer
    drops the drop fraction of what it has left and grows as many by the gradient.

    Args:
      initial_sparsity: at the start; 0 starts dense.
      prune_end_step: by which step the final sparsity is reached; ``end_step`` if omitted.
      **shared: as in :func:`dstjax.method.rewiring`; update_order='step_then_update', rounding='ceil',
        drop_fraction=0.5, drop_schedule='cosine_floor', update_period=1000.

    Reference: Liu et al., "Sparse training via boosting pruning plasticity with neuroregeneration", NeurIPS 2021,
    Algorithm 1. Counts are exact, and the last pruning update reaches the target, where the authors' code stops one
    update short and loses a weight to a strict comparison.
    """
    check_number("initial_sparsity", initial_sparsity, "a number in [0, 1)", lambda s: 0 <= s < 1)
    base = rewiring("granet", **shared)
    several_densities("granet", {"structure": base.structure})
    assert isinstance(base.updates, schedules.UpdateSchedule)
    assert base.keep is not None
    progress = schedules.cubic(base.updates, prune_end_step)
    second = base.keep

    def keep(network: Network) -> Any:
        return second(network._replace(active=pruned(network)))

    def pruned(network: Network) -> Any:
        """Active weights of each layer after the global pruning."""
        whole = jnp.sum(network.initial)
        stay = whole - progress.of(whole - jnp.sum(network.target), network.update_index)
        leaves = network.leaves
        kept, _ = WEIGHT.drop(
            [jnp.abs(leaf.weight) for leaf in leaves], [leaf.mask for leaf in leaves], stay, list, network.target
        )
        return count_true(kept)

    return dataclasses.replace(
        base,
        counts="total",
        initial_sparsity=initial_sparsity,
        keep=keep,
        # In a common ranking a leaf may keep more than it has left: it grows its drop fraction all the same.
        regrow=lambda network, kept: pruned(network) - (kept if base.scope == "layer" else keep(network)),
    )


@catalogued(distribution="uniform")
def gap(*, partitions: int | None = None, **scheduled: Any) -> Method:
    """GaP: one part of the network after the other is made dense, and pruned back when the next one's turn comes.

    The masked leaves are cut into ``partitions`` runs of neighbours. At update j = 0, 1, ... every leaf is pruned to
    its target by magnitude, and those of part j mod ``partitions`` then get all their weights back, new ones at 0. The
    last update only prunes.

    Args:
      partitions: how many parts; four, as in the paper, or as many as there are masked leaves, if omitted.
      **scheduled: as in :func:`dstjax.method.rewiring`; ``end_step`` is required, distribution='uniform'.

    Reference: Ma et al., "Effective model sparsification by scheduled grow-and-prune methods", ICLR 2022 (the cyclic
    form). The schedule is from general knowledge; the paper restarts the optimiser at each update, here only the
    moments of what changes are zero.
    """
    if partitions is not None:
        check_integer("partitions", partitions, 1)
    fields = several_densities("gap", checked(**scheduled))
    updates = fields["updates"].count
    if updates is None:
        raise ValueError("end_step=None is not accepted by 'gap', whose last update prunes; expected an end_step.")

    def grown(network: Network, kept: Any) -> Any:
        leaves = len(network.leaves)
        parts = min(4, leaves) if partitions is None else partitions
        if parts > leaves:
            raise ValueError(f"partitions={partitions} is not accepted; expected at most {leaves}, the masked leaves.")
        part = jnp.array([i * parts // leaves for i in range(leaves)])
        turn = (part == network.update_index % parts) & (network.update_index < updates - 1)
        return jnp.where(turn, network.sizes - kept, 0)

    return Method(
        "gap",
        **fields,
        keep=budgets.target,
        regrow=grown,
        grow=criteria.random,
        counts="reached",
        update_order="step_then_update",
    )
