"""Keeps dense weights behind a threshold that each layer learns: STR."""

from typing import Any

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, views
from dstjax.checks import check_number
from dstjax.masks import zero_outside
from dstjax.method import Method, Remembered, Seen, Start, Updates, common_fields, refuse_n_m
from dstjax.methods.catalogue import catalogued
from dstjax.rules import Layers, Leaf, Memory, bind, wide, wide_dtype
from dstjax.structures import Units

__all__ = ["str_"]


def _initial(s: float, leaf: Leaf) -> jax.Array:
    """The threshold before the sigmoid, in float32 at least."""
    return jnp.full(jnp.shape(leaf.total(leaf.mask)), s, wide_dtype(leaf.weight.dtype))


def _passed(final: int | None, leaf: Leaf) -> jax.Array:
    """Passes the gradient where the forward pass saw something: not to weights of the mask below the threshold."""
    above = jnp.abs(leaf.weight) > jax.nn.sigmoid(leaf.memory).astype(leaf.weight.dtype)
    above = above if final is None else above | (leaf.step > final)
    return zero_outside(leaf.gradient, leaf.mask & above)


def _descent(final: int | None, learning_rate: float, decay: float, leaf: Leaf) -> jax.Array:
    """One step on the threshold: s <- s - lr_s * (dL/ds + decay * s)."""
    s, threshold = leaf.memory, jax.nn.sigmoid(leaf.memory)
    pull = leaf.total(jnp.sign(leaf.weight) * _passed(final, leaf), s.dtype)
    slope = threshold * (1 - threshold)
    return s - learning_rate * (decay * s - slope * pull)


def _above(final: int | None, layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows as many as lie above the threshold of their layer; the final count at the update that fixes the masks."""
    del kept
    above = [wide(jnp.abs(leaf.weight)) > jax.nn.sigmoid(leaf.memory) for leaf in layers.leaves]
    free = jnp.maximum(layers.counts(above), 1)
    return free if final is None else jnp.where(layers.step == final, layers.target, free)


def _shrunk_at(final: int, leaf: Leaf, grown: jax.Array) -> jax.Array:
    """Shrinks weights for the last time at the update that fixes the masks."""
    del grown
    shrunk = zero_outside(views.soft(leaf.weight, jax.nn.sigmoid(leaf.memory)), leaf.mask)
    return jnp.where(leaf.step == final, shrunk, leaf.weight)


def _view(final: int | None, step: jax.Array, memory: Memory) -> views.View:
    """Shows weights shrunk by the thresholds, which go with the masks."""
    thresholds = [jax.nn.sigmoid(s) for s in memory.leaves]
    return views.SoftThreshold([t if final is None else jnp.where(step >= final, 0, t) for t in thresholds])


@catalogued(
    "STR", "dense to sparse", "kusupati2020", cost="always_sparse", needs=("forward_params",), distribution="uniform"
)
def str_(
    *,
    s_init: float = -8.0,
    threshold_learning_rate: float = 0.1,
    threshold_decay: float = 1e-2,
    end_step: int | None = None,
    **common: Any,
) -> Method:
    """Shrinks the weights of every layer by a threshold that it learns: STR.

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
    masking, every_step = common_fields(**common, end_step=end_step)
    refuse_n_m("str", masking)
    final = None if end_step is None else end_step - 1
    updates = Updates(
        every_step, budgets.none, bind(_above, final), grow_score=criteria.magnitude, order="step_then_update"
    )
    learn = bind(_descent, final, threshold_learning_rate, threshold_decay)
    remembered = Remembered(bind(_initial, s_init), before_step=learn)
    seen = Seen(bind(_passed, final), bind(_view, final))
    method = Method("str", masking, Start(sparsity=0), updates, remembered, seen, promises="free")
    if final is None:
        return method
    # Whole filters below the threshold may leave a layer without a gradient, which then stands still.
    promises = "free" if isinstance(masking.structure, Units) else "reached"
    return method.but(new_weights=bind(_shrunk_at, final), promises=promises)
