"""IEE: iterative exploitation and exploration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import criteria, schedules, views
from dstjax.checks import check_choice, check_integer, check_number
from dstjax.masks import zero_outside
from dstjax.method import SCOPES, Method, catalogued, checked
from dstjax.rules import Leaf, Memory, Network

IMPORTANCES = {"magnitude": criteria.magnitude, "taylor": criteria.snip}


@catalogued()
def iee(
    *,
    update_period: int = 450,
    stages: tuple[int, int, int] | None = None,
    end_step: int | None,
    drop_fraction: float = 0.3,
    drop_schedule: str | schedules.StepFunction = "exponential",
    importance: str = "magnitude",
    growth: str = "importance",
    explore_from: str = "mru",
    freeze: bool = True,
    scope: str = "layer",
    **common: Any,
) -> Method:
    """IEE: prune, improve, let the inactive weights learn while the active ones stand still, and grow the best of them.

    A cycle of ``update_period`` steps has three stages. Importance estimation trains the active weights; at its end
    each layer prunes those of least importance. Accuracy improvement trains what is left. Then all weights are
    reactivated: the forward pass sees all of them, and only the inactive ones are trained; at the end those of largest
    importance are grown, with the values that they have learnt. What is not grown keeps its most recent value (MRU).
    A prune or growth before iteration i in the paper comes at the end of call i - 1 of ``update``.

    While the inactive weights are explored the active ones keep values and moments, unmasked leaves stand still too,
    and the moments of the inactive ones start at zero: choices of ours, as the paper says nothing. Running statistics
    of batch normalisation should not be updated then: ``dstjax.is_exploring(opt_state)`` says when.

    Args:
      update_period: steps in a cycle.
      stages: steps of the three stages (H, J, Q), which add up to ``update_period``; thirds if omitted. H >= 2.
      end_step: cycles that do not end by then are not begun; in the paper three quarters of training.
      drop_fraction: share of the final number of active weights that the first cycle exchanges.
      drop_schedule: 'exponential', from ``drop_fraction`` to a hundredth of it; another name or a function as in
        :func:`dstjax.method.rewiring`, of the step before the cycle. A budget that rounds to nothing still explores.
      importance: 'magnitude', or 'taylor' for abs(w * g).
      growth: 'importance', or 'random' for an ablation: what was explored is then not asked.
      explore_from: 'mru'; or 'zero', which sets the inactive weights to zero at each prune.
      freeze: False trains the active weights too while the inactive ones are explored.
      scope: 'global' ranks all layers together when pruning and when growing, so that layer densities move.
      **common: as in :func:`dstjax.method.rewiring`.

    Reference: Sun et al., "Advancing weight and channel sparsification with enhanced saliency", WACV 2025, Algorithm 1.
    The schedule of the budget and the end of its decay are inferred.
    """
    check_integer("update_period", update_period, 4)
    if stages is None:
        stages = (update_period - 2 * (update_period // 3), update_period // 3, update_period // 3)
    if len(stages) != 3 or sum(stages) != update_period:
        raise ValueError(f"stages={stages!r} is not accepted; expected three numbers of steps that add up to "
                         f"update_period={update_period}.")  # fmt: skip
    check_choice("importance", importance, IMPORTANCES)
    check_choice("growth", growth, ("importance", "random"))
    check_choice("explore_from", explore_from, ("mru", "zero"))
    check_choice("scope", scope, SCOPES)
    if not isinstance(freeze, bool):
        raise ValueError(f"freeze={freeze!r} is not accepted; expected True or False.")
    if end_step is None:
        raise ValueError("end_step=None is not accepted by 'iee', whose budget decays; expected an end_step.")
    check_integer("end_step", end_step, 1)
    cycles = end_step // update_period
    if not cycles:
        raise ValueError(
            f"update_period={update_period} is not accepted with end_step={end_step}: no cycle would end by then; "
            "expected a shorter period or a later end."
        )
    updates = schedules.Stages(stages, cycles)
    fractions = schedules.table(np.repeat(_budget(drop_fraction, drop_schedule, update_period, cycles), 2))

    def keep(network: Network) -> jax.Array:
        moving = fractions.of(network.target, network.update_index)
        left = network.active - jnp.minimum(moving, jnp.maximum(network.active - 1, 0))
        return jnp.where(updates.ends_first(network.step), left, network.active)

    def regrow(network: Network, kept: jax.Array) -> jax.Array:
        missing = jnp.where(updates.ends_last(network.step), network.target - kept, 0)
        return jnp.sum(missing) if scope == "global" else missing

    def trainable(leaf: Leaf) -> jax.Array:
        return jnp.where(updates.in_last(leaf.step), ~leaf.mask if freeze else True, leaf.mask)

    def from_zero(leaf: Leaf, grown: jax.Array) -> jax.Array:
        del grown
        return zero_outside(leaf.weight, leaf.mask | ~updates.ends_first(leaf.step))

    def view(step: jax.Array, memory: Memory) -> views.View:
        del memory
        return views.Exploring(jnp.asarray(updates.in_last(step + 1)))

    return Method(
        "iee",
        **checked(**common),
        updates=updates,
        keep=keep,
        regrow=regrow,
        drop=IMPORTANCES[importance],
        grow=IMPORTANCES[importance] if growth == "importance" else criteria.random,
        scope=scope,
        counts="reached" if scope == "layer" else "total",
        update_order="step_then_update",
        trainable=trainable,
        trains_dense=(lambda step: ~updates.in_last(step)) if freeze else None,
        settle=from_zero if explore_from == "zero" else None,
        view=view,
    )


class _Beginnings(schedules.UpdateSchedule):
    """The steps at which cycles begin."""

    @property
    def first(self) -> int:
        """The first step; the budget of the first cycle is not yet decayed."""
        return 0


def _budget(fraction: float, schedule: Any, period: int, cycles: int) -> Any:
    """The share that each cycle exchanges, float64[cycles]."""
    check_number("drop_fraction", fraction, "a number in [0, 1]", lambda f: 0 <= f <= 1)
    if schedule == "exponential":
        return fraction * 0.01 ** (np.arange(cycles) / cycles)
    values = np.asarray(schedules.fractions(fraction, schedule, _Beginnings(period, 0, cycles * period)).values)
    return np.resize(values, cycles) if len(values) == 1 else values
