"""Methods that keep dense weights behind the masks: what is switched off lives on, and may come back.

``dstjax.forward_params`` is the sparse view that the forward pass sees; its derivative is the identity, and each method
says here what the optimiser makes of the gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, schedules, views
from dstjax._arrays.shares import share_limbs, share_of
from dstjax.checks import check_choice, check_number
from dstjax.masks import zero_outside
from dstjax.method import SCOPES, Method, catalogued, checked, several_densities
from dstjax.rules import Leaf, Memory, Network
from dstjax.selection import count_true


def _masked(step: jax.Array, memory: Memory) -> views.View:
    del step, memory
    return views.Masked()


@catalogued(update_period=16, distribution="uniform")
def dpf(*, prune_end_step: int | None = None, scope: str = "global", **scheduled: Any) -> Method:
    """DPF: the gradient at the pruned weights trains all weights, and the largest are chosen anew at each update.

    w <- w - lr * dL/d(w * m); every ``update_period`` steps m marks the largest weights at the sparsity of the cubic
    schedule of gradual pruning.

    Args:
      prune_end_step: by which step the final sparsity is reached; ``end_step`` if omitted. Updates go on after it.
      scope: 'global' ranks all layers together; every layer keeps one weight at least.
      **scheduled: as in :func:`dstjax.method.rewiring`; update_period=16, distribution='uniform'.

    Reference: Lin et al., "Dynamic model pruning with feedback", ICLR 2020. From general knowledge and unofficial code;
    the paper was not at hand.
    """
    return Method("dpf", **_reselected("dpf", prune_end_step, scope, scheduled))


@catalogued(update_period=16, distribution="uniform")
def dcil(*, prune_end_step: int | None = None, scope: str = "global", **scheduled: Any) -> Method:
    """DCIL: active weights learn from the sparse network, the others from the full one.

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

    def mixed(leaf: Leaf) -> jax.Array:
        assert leaf.full_gradient is not None
        return jnp.where(leaf.mask, leaf.gradient, leaf.full_gradient)

    return Method(
        "dcil",
        **_reselected("dcil", prune_end_step, scope, scheduled),
        needs=("full_gradient",),
        gradient=mixed,
    )


def _reselected(name: str, until: int | None, scope: str, scheduled: dict[str, Any]) -> dict[str, Any]:
    """The fields of a method that starts dense and chooses the largest weights anew at each update."""
    check_choice("scope", scope, SCOPES)
    fields = several_densities(name, checked(**scheduled))
    regrow = budgets.to(budgets.ramp(schedules.cubic(fields["updates"], until)))
    return {
        **fields,
        "initial_sparsity": 0,
        "counts": "total" if scope == "global" else "reached",
        "keep": budgets.none,
        "regrow": budgets.pooled(regrow) if scope == "global" else regrow,
        "grow": criteria.magnitude,
        "update_order": "step_then_update",
        "view": _masked,
    }


@catalogued(update_period=1)
def top_kast(*, exploration: float = 1.0, penalty: float = 1e-4, **scheduled: Any) -> Method:
    """Top-KAST: the forward pass sees the largest weights, the optimiser trains these and the next largest.

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
    fields = several_densities("top_kast", checked(**scheduled))

    def wider(leaves: list[Any], masks: list[jax.Array]) -> list[jax.Array]:
        active = count_true(masks)
        extra = share_of(active, jnp.array(share_limbs(exploration), jnp.uint32)[:, None])
        chosen = fields["structure"].grow([jnp.abs(w) for w in leaves], masks, [~m for m in masks], extra)
        return [m | c for m, c in zip(masks, chosen, strict=True)]

    def penalised(leaf: Leaf) -> jax.Array:
        wide = jnp.promote_types(leaf.weight.dtype, jnp.float32)  # a mean in half precision would be coarse
        density = jnp.mean(leaf.mask, dtype=wide).astype(leaf.weight.dtype)
        return leaf.gradient + penalty * jnp.where(leaf.mask, leaf.weight, leaf.weight / density)

    def within(leaf: Leaf) -> jax.Array:
        assert leaf.second is not None
        return leaf.second

    return Method(
        "top_kast",
        **fields,
        initial="magnitude",
        keep=budgets.none,
        regrow=budgets.to_target,
        grow=criteria.magnitude,
        update_order="step_then_update",
        memory=lambda weights, masks, key: Memory(sets=wider(weights, masks)),
        remember=lambda network, kept, new: network.memory._replace(
            sets=wider([leaf.weight for leaf in network.leaves], new)
        ),
        gradient=penalised,
        trainable=within,
        view=_masked,
    )


class _Threshold(NamedTuple):
    s: jax.Array  # float[], the threshold before the sigmoid
    seen: jax.Array  # float[], the threshold that the forward pass of this call saw


@catalogued(distribution="uniform")
def str_(
    *,
    s_init: float = -8.0,
    threshold_learning_rate: float = 0.1,
    threshold_decay: float = 1e-2,
    end_step: int | None = None,
    **common: Any,
) -> Method:
    """STR: every layer shrinks its weights by a threshold that it learns.

    The forward pass sees sign(w) * relu(abs(w) - sigmoid(s)). The threshold follows its own gradient and a decay,
    s <- s - lr_s * (dL/ds + decay * s): from very negative values only the decay moves it, until weights vanish. So
    sparsity is the result of ``s_init``, ``threshold_learning_rate`` and ``threshold_decay``. To end at the sparsity
    that is asked for, the masks become fixed at the last update: the largest weights stay, shrunk for the last time,
    and the thresholds go.

    Args:
      s_init: s of every layer at first; the paper uses -3200 for ResNet-50 with its small decay.
      threshold_learning_rate: of plain gradient descent on s, where the paper has the optimiser of the weights.
      threshold_decay: of s; in the paper the weight decay.
      end_step: the masks become fixed at the step before it; None: never, and the number of active weights is free.
      **common: as in :func:`dstjax.method.rewiring`; distribution='uniform'.

    Reference: Kusupati et al., "Soft threshold weight reparameterization for learnable sparsity", ICML 2020, Eq. 2
    and 3. Fixing the masks in the end is not in the paper.
    """
    check_number("s_init", s_init, "a finite number", lambda v: abs(v) < float("inf"))
    check_number("threshold_learning_rate", threshold_learning_rate, "a number > 0", lambda v: 0 < v < float("inf"))
    check_number("threshold_decay", threshold_decay, "a number >= 0", lambda v: 0 <= v < float("inf"))
    fields = several_densities("str", checked(**common, update_period=1, start_step=0, end_step=end_step))
    final = None if end_step is None else end_step - 1

    def passed(leaf: Leaf, threshold: jax.Array) -> jax.Array:
        """The gradient where the forward pass saw something: not at weights of the mask below the threshold."""
        above = jnp.abs(leaf.weight) > threshold.astype(leaf.weight.dtype)
        above = above if final is None else above | (leaf.step > final)
        return zero_outside(leaf.gradient, leaf.mask & above)

    def moved(leaf: Leaf) -> _Threshold:
        s, threshold = leaf.memory.s, jax.nn.sigmoid(leaf.memory.s)
        pull = jnp.sum(jnp.sign(leaf.weight) * passed(leaf, threshold), dtype=s.dtype)
        slope = threshold * (1 - threshold)
        return _Threshold(s - threshold_learning_rate * (threshold_decay * s - slope * pull), threshold)

    def begin(weights: list[jax.Array], masks: list[jax.Array], key: jax.Array) -> Memory:
        dtype = jnp.result_type(jnp.float32, *weights)
        return Memory([_Threshold(jnp.full((), s_init, dtype), jnp.zeros((), dtype)) for _ in weights])

    def reached(network: Network, kept: jax.Array) -> jax.Array:
        above = [jnp.abs(leaf.weight) > jax.nn.sigmoid(leaf.memory.s) for leaf in network.leaves]
        free = jnp.maximum(count_true(above), 1)
        return free if final is None else jnp.where(network.step == final, network.target, free)

    def fold(leaf: Leaf, grown: jax.Array) -> jax.Array:
        del grown
        shrunk = zero_outside(views.soft(leaf.weight, jax.nn.sigmoid(leaf.memory.s)), leaf.mask)
        return jnp.where(leaf.step == final, shrunk, leaf.weight)

    def view(step: jax.Array, memory: Memory) -> views.View:
        thresholds = jax.nn.sigmoid(jnp.stack([m.s for m in memory.leaves]))
        return views.SoftThreshold(thresholds if final is None else jnp.where(step >= final, 0, thresholds))

    return Method(
        "str",
        **fields,
        initial_sparsity=0,
        keep=budgets.none,
        regrow=reached,
        grow=criteria.magnitude,
        counts="free" if final is None else "reached",
        update_order="step_then_update",
        memory=begin,
        observe=lambda network: network.memory._replace(leaves=[moved(leaf) for leaf in network.leaves]),
        gradient=lambda leaf: passed(leaf, leaf.memory.seen),
        settle=None if final is None else fold,
        view=view,
    )
