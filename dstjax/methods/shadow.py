"""Keeps dense weights behind the masks: what is switched off lives on, and may come back.

``dstjax.forward_params`` is the sparse view that the forward pass sees. Its derivative is the identity, and each method
here says what the optimiser makes of the gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, schedules, structures, views
from dstjax.checks import check_choice, check_number
from dstjax.method import SCOPES, Method, Remembered, Seen, Start, Updates, common_fields, refuse_map, refuse_n_m
from dstjax.methods.catalogue import catalogued
from dstjax.rules import Layers, Leaf, bind, wide_dtype

__all__ = ["dcil", "dpf", "top_kast"]


@catalogued(
    "DPF",
    "dense to sparse",
    "lin2020",
    cost="dense_weights",
    needs=("forward_params",),
    update_period=16,
    distribution="uniform",
)
def dpf(*, prune_end_step: int | None = None, scope: str = "global", **scheduled: Any) -> Method:
    """Trains all weights by the gradient at the pruned ones, and chooses the largest anew at each update: DPF.

    w <- w - lr * dL/d(w * m); every ``update_period`` steps m marks the largest weights at the sparsity of the cubic
    schedule of gradual pruning.

    Args:
      prune_end_step: by which step the final sparsity is reached; ``end_step`` if omitted. Updates go on after it.
      scope: 'global' ranks all layers together; every layer keeps one weight at least.
      **scheduled: as in :func:`dstjax.method.rewiring`; update_period=16, distribution='uniform'.

    Reference: Lin et al., "Dynamic model pruning with feedback", ICLR 2020. From general knowledge and unofficial code;
    the paper was not at hand.
    """
    return _reselected("dpf", prune_end_step, scope, scheduled)


@catalogued(
    "DCIL",
    "dense to sparse",
    "kim2021",
    cost="two_networks",
    needs=("forward_params", "full_gradient="),
    update_period=16,
    distribution="uniform",
)
def dcil(*, prune_end_step: int | None = None, scope: str = "global", **scheduled: Any) -> Method:
    """Lets active weights learn from the sparse network, the others from the full one: DCIL.

    The optimiser sees m * g_sparse + (1 - m) * g_full, where g_sparse is the gradient at the sparse weights and g_full,
    passed to ``update`` as ``full_gradient=``, that at all weights; leaves without a mask see the sum. Masks as in DPF.
    The loss of the paper is the sum of both cross entropies and, after a warm-up, of both divergences between the two
    outputs, the targets detached.

    Args:
      prune_end_step: by which step the final sparsity is reached; ``end_step`` if omitted. Updates go on after it.
      scope: 'global' ranks all layers together; every layer keeps one weight at least.
      **scheduled: as in :func:`dstjax.method.rewiring`; update_period=16, distribution='uniform'.

    Reference: Kim et al., "Dynamic collective intelligence learning: finding efficient sparse model via refined
    gradients for pruned weights", 2021. The paper keeps two sets of batch normalisation; that is the model's part.
    """
    method = _reselected("dcil", prune_end_step, scope, scheduled)
    return method.but(needs=("full_gradient",), gradient=_of_both)


def _of_both(leaf: Leaf) -> jax.Array:
    """Returns m * g_sparse + (1 - m) * g_full."""
    assert leaf.full_gradient is not None  # the method needs it
    return jnp.where(leaf.mask, leaf.gradient, leaf.full_gradient)


def _no_denser(count: budgets.NKept, together: bool, layers: Layers) -> jax.Array:
    """Counts no more than are active: masks that were pruned further than the schedule do not fill up again."""
    wanted, active = count(layers), layers.active
    is_more = layers.about(wanted - active) > 0 if together else wanted > active
    return jnp.where(is_more, active, wanted)


def _reselected(name: str, until: int | None, scope: str, scheduled: dict[str, Any]) -> Method:
    """Makes a method that starts dense and chooses the largest weights anew at each update."""
    check_choice("scope", scope, SCOPES)
    masking, schedule = common_fields(**scheduled)
    refuse_n_m(name, masking)
    refuse_map(name, masking, scope)
    ramp = budgets.Ramp(schedules.Cubic(schedule, until))
    n_grown: budgets.NGrown = budgets.To(bind(_no_denser, ramp, scope == "global"))
    if scope == "global":
        n_grown = budgets.Pooled(n_grown)
    updates = Updates(schedule, budgets.none, n_grown, grow_score=criteria.magnitude, order="step_then_update")
    promises = "total" if scope == "global" else "reached"
    return Method(name, masking, Start(sparsity=0), updates, seen=Seen(view=views.masked), promises=promises)


def _wider(
    structure: structures.Structure, exploration: float, layers: Layers, masks: list[jax.Array]
) -> list[jax.Array]:
    """Marks the mask, and besides the largest others, ``exploration`` times as many as it has."""
    extra = budgets.times(layers.counts(masks), exploration)
    sizes = [jnp.abs(leaf.weight) for leaf in layers.leaves]
    chosen = structure.grow(sizes, masks, [~m for m in masks], extra, layers.layouts)
    return [m | c for m, c in zip(masks, chosen, strict=True)]


def _penalised(penalty: float, leaf: Leaf) -> jax.Array:
    """Adds a penalty of the squares to the gradient, larger outside the mask by 1 / density."""
    # A mean in half precision would be coarse.
    density = leaf.mean(leaf.mask, wide_dtype(leaf.weight.dtype)).astype(leaf.weight.dtype)
    return leaf.gradient + penalty * jnp.where(leaf.mask, leaf.weight, leaf.weight / density)


def _in_second_mask(leaf: Leaf) -> jax.Array:
    assert leaf.second_mask is not None  # the method keeps one
    return leaf.second_mask


@catalogued(
    "Top-KAST",
    "sparse to sparse",
    "jayakumar2020",
    cost="forward_and_backward_sets",
    needs=("forward_params",),
    update_period=1,
)
def top_kast(*, exploration: float = 1.0, penalty: float = 1e-4, **scheduled: Any) -> Method:
    """Shows the largest weights to the forward pass, and trains these and the next largest: Top-KAST.

    With A the largest D of all weights and B the largest D + M, the gradient at the weights of A trains B alone, and a
    penalty pulls the weights of A by ``penalty`` * w and those of B without A by ``penalty`` * w / D.

    Args:
      exploration: M / D, how many weights are trained besides those that the forward pass sees.
      penalty: weight of the penalty; it takes the place of weight decay.
      **scheduled: as in :func:`dstjax.method.rewiring`; update_period=1 chooses both sets anew after every step.

    Reference: Jayakumar et al., "Top-KAST: top-k always sparse training", NeurIPS 2020. From general knowledge and
    unofficial code; the paper was not at hand. The penalty is that of squares.
    """
    check_number("exploration", exploration, "a number in [0, 1000]", lambda v: 0 <= v <= 1000)
    check_number("penalty", penalty, "a number >= 0", lambda v: 0 <= v < float("inf"))
    masking, schedule = common_fields(**scheduled)
    refuse_n_m("top_kast", masking)
    return Method(
        "top_kast",
        masking,
        Start(by="magnitude"),
        Updates(schedule, budgets.none, budgets.to_target, grow_score=criteria.magnitude, order="step_then_update"),
        Remembered(second_mask=bind(_wider, masking.structure, exploration)),
        Seen(bind(_penalised, penalty), view=views.masked, trainable=_in_second_mask),
    )
