"""Exploits and explores in turns: IEE."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, schedules, views
from dstjax.checks import check_bool, check_choice, check_integer, check_step
from dstjax.masks import zero_outside
from dstjax.method import SCOPES, Masking, Method, Seen, Updates
from dstjax.methods.catalogue import catalogued
from dstjax.rules import Layers, Leaf, Memory, bind

__all__ = ["iee"]

_PROMISES = {"layer": "reached", "global": "total"}
IMPORTANCES = {"magnitude": criteria.magnitude, "taylor": criteria.snip}


def _pruned(stages: schedules.Stages, budget: schedules.Fractions, layers: Layers) -> jax.Array:
    """Drops the budget of the cycle at the end of its first stage; later all that are left stay."""
    moving = budget.of(layers.target, layers.update_index // 2)
    left = layers.active - jnp.minimum(moving, jnp.maximum(layers.active - 1, 0))
    return jnp.where(stages.ends_first(layers.step), left, layers.active)


def _grown_back(stages: schedules.Stages, layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows as many as are missing, at the end of a cycle."""
    return jnp.where(stages.ends_last(layers.step), layers.target - kept, 0)


def _explored(stages: schedules.Stages, freeze: bool, leaf: Leaf) -> jax.Array:
    """Trains the active weights, and the inactive ones while the cycle explores; all then, without ``freeze``."""
    return jnp.where(stages.in_last(leaf.step), ~leaf.mask if freeze else True, leaf.mask)


def _from_zero(
    stages: schedules.Stages, explored_at_zero: bool, grown_at_zero: bool, leaf: Leaf, grown: jax.Array
) -> jax.Array:
    """Sets inactive weights to zero after each prune, grown ones after each growth."""
    w = leaf.weight
    if explored_at_zero:
        w = zero_outside(w, leaf.mask | ~stages.ends_first(leaf.step))
    return zero_outside(w, ~(grown & stages.ends_last(leaf.step))) if grown_at_zero else w


def _view(stages: schedules.Stages, step: jax.Array, memory: Memory) -> views.View:
    """Shows all weights in steps that explore."""
    del memory
    return views.Exploring(jnp.asarray(stages.in_last(step + 1)))


def _dense_stand_still(stages: schedules.Stages, step: jax.Array) -> jax.Array:
    """Trains leaves without a mask, but not in steps that explore."""
    return ~stages.in_last(step)


def _cycles(update_period: int, stages: Any, end_step: int | None) -> tuple[schedules.Stages, int]:
    """Returns when the stages of the cycles that end by a step end, and when the last one does."""
    check_integer("update_period", update_period, 4)
    third = update_period // 3
    stages = (update_period - 2 * third, third, third) if stages is None else stages
    if not (isinstance(stages, tuple | list) and len(stages) == 3 and all(map(_is_integer, stages))) or (
        sum(stages) != update_period
    ):
        raise ValueError(
            f"stages={stages!r} is not accepted; expected three numbers of steps that add up to "
            f"update_period={update_period}."
        )
    if end_step is None:
        raise ValueError("end_step=None is not accepted by 'iee', whose budget decays; expected an end_step.")
    check_step("end_step", end_step, 1)
    cycles = end_step // update_period
    if not cycles:
        raise ValueError(
            f"update_period={update_period} is not accepted with end_step={end_step}: no cycle would end by then; "
            "expected a shorter period or a later end."
        )
    return schedules.Stages(tuple(stages), cycles), cycles * update_period


def _is_integer(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


@catalogued("IEE", "sparse to sparse", "sun2025", cost="explore_phases", needs=("forward_params",))
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
    grown_from: str = "explored",
    freeze: bool = True,
    scope: str = "layer",
    **common: Any,
) -> Method:
    """Prunes, improves, trains the inactive weights while the active ones stand still, and grows the best of them: IEE.

    A cycle of ``update_period`` steps has three stages. Importance estimation trains the active weights; at its end
    each layer prunes those of least importance. Accuracy improvement trains what is left. Then all weights are
    reactivated: the forward pass sees all of them, and only the inactive ones are trained; at the end those of largest
    importance are grown, with the values that they have learnt. What is not grown keeps its most recent value (MRU).
    A prune or growth before iteration i in the paper comes at the end of call i - 1 of ``update``.

    While the inactive weights are explored the active ones keep values and moments, unmasked leaves stand still too,
    and the moments of the inactive ones start at zero. We chose so, as the paper says nothing. Do not update running
    statistics of batch normalisation then: ``dstjax.is_exploring(opt_state)`` says when.

    Args:
      update_period: steps in a cycle.
      stages: steps of the three stages (H, J, Q), which add up to ``update_period``; thirds if omitted. H >= 2.
      end_step: cycles that do not end by then are not begun; in the paper three quarters of training.
      drop_fraction: share of the final number of active weights that the first cycle exchanges. The paper prints 0.3 %
        for it, with which hardly anything ever moves; 0.3, the share of RigL, fits what it shows. Give 0.003 for the
        letter of the text.
      drop_schedule: 'exponential', from ``drop_fraction`` to a hundredth of it; another name or a function as in
        :func:`dstjax.method.rewiring`, of the step before the cycle. A budget that rounds to nothing still explores.
      importance: 'magnitude', or 'taylor' for abs(w * g).
      growth: 'importance', or 'random' for an ablation, which ignores what was explored.
      explore_from: 'mru'; or 'zero', which sets the inactive weights to zero at each prune.
      grown_from: 'explored', the values that grown weights have learnt; or 'zero' as in RigL, the paper's ablation
        ZeroInit.
      freeze: False trains the active weights too while the inactive ones are explored.
      scope: 'global' ranks all layers together when pruning and when growing, so that layer densities move.
      **common: as in :func:`dstjax.method.rewiring`.

    Reference: Sun et al., "Advancing weight and channel sparsification with enhanced saliency", WACV 2025, Algorithm 1.
    We inferred the schedule of the budget and the end of its decay.
    """
    check_choice("importance", importance, IMPORTANCES)
    check_choice("growth", growth, ("importance", "random"))
    check_choice("explore_from", explore_from, ("mru", "zero"))
    check_choice("grown_from", grown_from, ("explored", "zero"))
    check_choice("scope", scope, SCOPES)
    check_bool("freeze", freeze)
    when, end = _cycles(update_period, stages, end_step)
    budget = schedules.Fractions(drop_fraction, drop_schedule, range(0, end, update_period), end)
    n_grown: budgets.NGrown = bind(_grown_back, when) if scope == "layer" else budgets.Pooled(bind(_grown_back, when))
    drop = IMPORTANCES[importance]
    grow = drop if growth == "importance" else criteria.random
    updates = Updates(when, bind(_pruned, when, budget), n_grown, drop, grow, scope=scope, order="step_then_update")
    seen = Seen(
        None, bind(_view, when), bind(_explored, when, freeze), bind(_dense_stand_still, when) if freeze else None
    )
    method = Method("iee", Masking(**common), updates=updates, seen=seen, promises=_PROMISES[scope])
    zeroed = explore_from == "zero", grown_from == "zero"
    return method.but(new_weights=bind(_from_zero, when, *zeroed)) if any(zeroed) else method
