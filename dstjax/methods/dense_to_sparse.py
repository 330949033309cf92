"""Starts dense, or denser than the end, and prunes gradually.

The masks change after the optimiser's step. Where the distribution is named the final counts follow it; 'uniform' is
that of the papers.
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, schedules
from dstjax.checks import check_choice, check_integer, check_number, check_step
from dstjax.method import SCOPES, Method, Start, Updates, common_fields, fixed, refuse_map, refuse_n_m, rewiring
from dstjax.methods.catalogue import ITOP, catalogued
from dstjax.rules import Layers, Value, bind, value
from dstjax.structures import WEIGHT

__all__ = ["gap", "gmp", "granet", "one_shot", "sis"]


@catalogued("GMP", "dense to sparse", "zhu2017", cost="cubic_ramp", distribution="uniform")
def gmp(*, scope: str = "layer", **scheduled: Any) -> Method:
    """Prunes by magnitude; the sparsity rises by a cubic from 0 at ``start_step`` to its end at the last update: GMP.

    Pruned weights never return. s(t) = s * (1 - (1 - p)^3) with p from 0 to 1.

    Args:
      scope: 'global' ranks all layers together.
      **scheduled: as in :func:`dstjax.method.rewiring`; ``end_step`` is required, distribution='uniform'.

    Reference: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    2017, Eq. 1. The last update reaches the target exactly; some code stops one update short.
    """
    check_choice("scope", scope, SCOPES)
    masking, schedule = common_fields(**scheduled)
    refuse_n_m("gmp", masking)
    refuse_map("gmp", masking, scope)
    ramp = budgets.Ramp(schedules.Cubic(schedule))
    updates = Updates(schedule, ramp, n_grown=budgets.no_growth, scope=scope, order="step_then_update")
    promises = "reached" if scope == "layer" else "total"
    return Method("gmp", masking, Start(sparsity=0), updates, promises=promises)


@catalogued("one-shot", "dense to sparse", "han2015", cost="dense_then_sparse", distribution="uniform")
def one_shot(*, prune_step: int, scope: str = "layer", **common: Any) -> Method:
    """Trains dense for ``prune_step`` steps, keeps the largest weights, and fine-tunes them.

    Args:
      prune_step: the step after which the network is pruned.
      scope: 'global' ranks all layers together.
      **common: as in :func:`dstjax.method.rewiring`; distribution='uniform'.

    Reference: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015.
    """
    check_choice("scope", scope, SCOPES)
    check_step("prune_step", prune_step, 1)
    masking, schedule = common_fields(
        **common, update_period=prune_step, start_step=prune_step, end_step=prune_step + 1
    )
    refuse_map("one_shot", masking, scope)
    updates = Updates(
        schedule,
        n_kept=budgets.target,
        # Nothing, but where a structure needs whole units; leaves that are ranked together do not fill up each alone.
        n_grown=budgets.to_target if scope == "layer" else budgets.Pooled(budgets.to_target),
        grow_score=criteria.magnitude,
        scope=scope,
        order="step_then_update",
    )
    promises = "reached" if scope == "layer" else "total"
    return Method("one_shot", masking, Start(sparsity=0), updates, promises=promises)


@catalogued(
    "SIS", "dense to sparse", "verma2021", cost="dense_then_sparse", needs=("set_masks",), distribution="uniform"
)
def sis(*, prune_step: int, **common: Any) -> Method:
    """Trains dense for ``prune_step`` steps, finds sparse layers with the same activations, and fine-tunes them: SIS.

    The masks come from :func:`dstjax.initial_masks.sis`, which needs the activations of each layer: the training loop
    calls it after ``prune_step`` steps and hands its masks to :func:`dstjax.set_masks`. Until then all weights are
    active.

    Args:
      prune_step: the step after which the network is pruned.
      **common: as in :func:`dstjax.method.rewiring`; distribution='uniform'.

    Reference: Verma and Pesquet, "Sparsifying networks via subdifferential inclusion", ICML 2021. From the abstract and
    general knowledge alone; the solver is a substitute.
    """
    check_step("prune_step", prune_step, 1)
    return fixed("sis", start=Start(sparsity=0, pruner="sis", prune_step=prune_step), promises="reached", **common)


def _globally_pruned(progress: schedules.Cubic, layers: Layers) -> jax.Array:
    """Counts the active weights of each layer after the smallest of all went, as a ramp says; frozen layers stay."""
    whole, last = (layers.sum(layers.moving(n)) for n in (layers.initial, layers.target))
    stay = whole - progress.of(whole - last, layers.update_index)
    sizes, masks = [jnp.abs(leaf.weight) for leaf in layers.leaves], layers.moving_masks()
    left = layers.counts(WEIGHT.drop(sizes, masks, stay, list, layers.target, layers.layouts)[0])
    return left + layers.active - layers.moving(layers.active)


def _of_those(left: budgets.NKept, n_kept: budgets.NKept, layers: Layers) -> jax.Array:
    """Keeps as many as a rule says of the active weights that another rule has left."""
    return n_kept(layers._replace(active=left(layers)))


def _moved(left: budgets.NKept, n_kept: budgets.NKept, layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows as many as one rule leaves and the next does not keep, whatever a common ranking kept."""
    del kept
    return left(layers) - n_kept(layers)


@catalogued("GraNet", "dense to sparse", "liu2021granet", cost="ramp_with_growth", update_period=1000, **ITOP)
def granet(*, initial_sparsity: float = 0.5, prune_end_step: int | None = None, **shared: Any) -> Method:
    """Prunes gradually over all layers, and regrows at each update what each layer then drops: GraNet.

    First the smallest weights of the whole network go, as the cubic schedule of gradual pruning says; then each layer
    drops the drop fraction of what it has left and grows as many by the gradient. Under a structure of units of several
    weights each layer has whole units, and the network may end with fewer weights than asked for.

    Args:
      initial_sparsity: at the start; 0 starts dense.
      prune_end_step: by which step the final sparsity is reached; ``end_step`` if omitted.
      **shared: as in :func:`dstjax.method.rewiring`; update_order='step_then_update', rounding='ceil',
        drop_fraction=0.5, drop_schedule='cosine_floor', update_period=1000.

    Reference: Liu et al., "Sparse training via boosting pruning plasticity with neuroregeneration", NeurIPS 2021,
    Algorithm 1. Counts are exact, and the last pruning update reaches the target; the authors' code stops one update
    short and loses a weight to a strict comparison.

    For fewer than 2**31 weights in all layers together: their sums are integers of 32 bits.
    """
    check_number("initial_sparsity", initial_sparsity, "a number in [0, 1)", lambda s: 0 <= s < 1)
    base = rewiring("granet", **shared)
    assert base.masking is not None  # it drops and grows
    refuse_n_m("granet", base.masking)
    if isinstance(base.masking.distribution, Mapping):
        raise ValueError(
            f"distribution={base.masking.distribution!r} is not accepted by 'granet', which prunes over all layers "
            "together and does not read it; expected a name, or a function of shapes and sparsity for the start."
        )
    pruned = bind(
        _globally_pruned, schedules.Cubic(cast(schedules.UpdateSchedule, base.moving.schedule), prune_end_step)
    )
    n_kept = bind(_of_those, pruned, base.moving.n_kept)
    # In a common ranking a leaf may keep more than it has left: it grows its drop fraction all the same.
    n_grown = budgets.To(pruned) if base.moving.scope == "layer" else bind(_moved, pruned, n_kept)
    start = Start(sparsity=initial_sparsity)
    # The ranking is of single weights: each layer rounds its number down to whole units.
    promises = "total" if base.masking.structure == WEIGHT else "free"
    return base.but(promises=promises, start=start, n_kept=n_kept, n_grown=n_grown)


@value
class _PartInTurn(Value):
    """Grows all weights of the part of the network whose turn it is, and nothing in the last update."""

    partitions: int | None
    last: int

    def __call__(self, layers: Layers, kept: jax.Array) -> jax.Array:
        """Returns how many are grown, int32[layers]."""
        number = layers.active.size
        parts = min(4, number) if self.partitions is None else self.partitions
        part = jnp.array([i * parts // number for i in range(number)])
        turn = (part == layers.update_index % parts) & (layers.update_index < self.last)
        return jnp.where(turn, layers.sizes - kept, 0)

    def check_layers(self, number: int) -> None:
        """Refuses more parts than layers.

        Raises:
          ValueError: there are more.
        """
        if self.partitions is not None and self.partitions > number:
            raise ValueError(
                f"partitions={self.partitions} is not accepted; expected at most {number}, the masked layers."
            )


@catalogued("GaP", "dense to sparse", "ma2022", cost="dense_partition", distribution="uniform")
def gap(*, partitions: int | None = None, **scheduled: Any) -> Method:
    """Makes one part of the network after the other dense, and prunes it back when the next one's turn comes: GaP.

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
    masking, schedule = common_fields(**scheduled)
    refuse_n_m("gap", masking)
    if schedule.count is None:
        raise ValueError("end_step=None is not accepted by 'gap', whose last update prunes; expected an end_step.")
    updates = Updates(
        schedule,
        n_kept=budgets.target,
        n_grown=_PartInTurn(partitions, schedule.count - 1),
        grow_score=criteria.random,
        order="step_then_update",
    )
    return Method("gap", masking, updates=updates, promises="reached")
