"""Keeps dense weights behind a threshold that each layer learns: STR."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, views
from dstjax.checks import check_number
from dstjax.masks import zero_outside
from dstjax.method import Method, Remembered, Seen, Start, Updates, common_fields, refuse_n_m
from dstjax.methods.catalogue import catalogued
from dstjax.rules import Layers, Leaf, Memory, Value, value
from dstjax.selection import count_true

__all__ = ["str_"]


class _Threshold(NamedTuple):
    s: jax.Array  # float[], the threshold before the sigmoid


@value
class _Initial(Value):
    """Returns s at first, in float32 at least."""

    s: float

    def __call__(self, leaf: Leaf) -> _Threshold:
        return _Threshold(jnp.full((), self.s, jnp.result_type(jnp.float32, leaf.weight)))


@value
class _Passed(Value):
    """Passes the gradient where the forward pass saw something: not to weights of the mask below the threshold."""

    final: int | None  # the update that fixes the masks; after it no threshold is left

    def __call__(self, leaf: Leaf) -> jax.Array:
        above = jnp.abs(leaf.weight) > jax.nn.sigmoid(leaf.memory.s).astype(leaf.weight.dtype)
        above = above if self.final is None else above | (leaf.step > self.final)
        return zero_outside(leaf.gradient, leaf.mask & above)


@value
class _Descent(Value):
    """Learns the threshold: s <- s - lr_s * (dL/ds + decay * s)."""

    passed: _Passed
    learning_rate: float
    decay: float

    def __call__(self, leaf: Leaf) -> _Threshold:
        s, threshold = leaf.memory.s, jax.nn.sigmoid(leaf.memory.s)
        pull = jnp.sum(jnp.sign(leaf.weight) * self.passed(leaf), dtype=s.dtype)
        slope = threshold * (1 - threshold)
        return _Threshold(s - self.learning_rate * (self.decay * s - slope * pull))


@value
class _Above(Value):
    """Grows as many as lie above the threshold of their layer; the final count at the update that fixes the masks."""

    final: int | None

    def __call__(self, layers: Layers, kept: jax.Array) -> jax.Array:
        del kept
        above = [jnp.abs(leaf.weight) > jax.nn.sigmoid(leaf.memory.s) for leaf in layers.leaves]
        free = jnp.maximum(count_true(above), 1)
        return free if self.final is None else jnp.where(layers.step == self.final, layers.target, free)


@value
class _ShrunkAt(Value):
    """Shrinks weights for the last time at the update that fixes the masks."""

    final: int

    def __call__(self, leaf: Leaf, grown: jax.Array) -> jax.Array:
        del grown
        shrunk = zero_outside(views.soft(leaf.weight, jax.nn.sigmoid(leaf.memory.s)), leaf.mask)
        return jnp.where(leaf.step == self.final, shrunk, leaf.weight)


@value
class _View(Value):
    """Shows weights shrunk by the thresholds, which go with the masks."""

    final: int | None

    def __call__(self, step: jax.Array, memory: Memory) -> views.View:
        thresholds = jax.nn.sigmoid(jnp.stack([m.s for m in memory.leaves]))
        return views.SoftThreshold(thresholds if self.final is None else jnp.where(step >= self.final, 0, thresholds))


@catalogued(
    family="dense to sparse",
    label="STR",
    papers=("kusupati2020",),
    cost="always_sparse",
    needs=("forward_params",),
    distribution="uniform",
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
    masking, schedule = common_fields(**common, end_step=end_step)
    refuse_n_m("str", masking)
    final = None if end_step is None else end_step - 1
    new_weights = None if final is None else _ShrunkAt(final)
    learn = _Descent(_Passed(final), threshold_learning_rate, threshold_decay)
    return Method(
        "str",
        masking,
        Start(sparsity=0),
        Updates(
            schedule,
            budgets.none,
            _Above(final),
            criteria.magnitude,
            criteria.magnitude,
            order="step_then_update",
            new_weights=new_weights,
        ),
        Remembered(_Initial(s_init), before_step=learn),
        Seen(_Passed(final), _View(final)),
        promises="free" if final is None else "reached",
    )
