"""What the forward pass sees of the weights of methods that keep dense weights behind their masks.

The state holds one of these, or None for methods whose weights are sparse themselves. Each one is a NamedTuple, so that
it travels in the state, and has ``of(weight, mask, index, training)``: the view of the leaf that is the ``index``-th of
the masked ones. The derivative of a view is the identity (straight-through), whatever it does to the values: gradients
are those of the loss with respect to what the forward pass saw, and the rule of the method is applied in ``update``.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import zero_outside
from dstjax.rules import Memory


class View(Protocol):
    """See the module."""

    def of(self, weight: jax.Array, mask: jax.Array, index: int, training: bool) -> jax.Array:
        """The view of one leaf."""
        ...


class Masked(NamedTuple):
    """The active weights; zero elsewhere."""

    def of(self, weight: jax.Array, mask: jax.Array, index: int, training: bool) -> jax.Array:
        """The product w * m."""
        del index, training
        return zero_outside(weight, mask)


def masked(step: jax.Array, memory: Memory) -> Masked:
    """The view of a method whose forward pass always sees the active weights alone."""
    del step, memory
    return Masked()


class Exploring(NamedTuple):
    """All weights while the inactive ones are explored, the active ones otherwise."""

    exploring: jax.Array  # bool[]: whether the next step explores

    def of(self, weight: jax.Array, mask: jax.Array, index: int, training: bool) -> jax.Array:
        """All of w in training steps that explore, else w * m."""
        del index
        return zero_outside(weight, mask | self.exploring if training else mask)


class SoftThreshold(NamedTuple):
    """Weights shrunk towards zero by the threshold of their layer."""

    thresholds: list[jax.Array]  # of each leaf, >= 0: float[], or what fits a stack of layers

    def of(self, weight: jax.Array, mask: jax.Array, index: int, training: bool) -> jax.Array:
        """The soft threshold of w where it is active."""
        del training
        return zero_outside(soft(weight, self.thresholds[index]), mask)


def soft(weight: jax.Array, threshold: jax.Array) -> jax.Array:
    """The soft threshold sign(w) * relu(abs(w) - threshold), in the dtype of the weight."""
    return jnp.sign(weight) * jnp.maximum(jnp.abs(weight) - threshold.astype(weight.dtype), 0)


@jax.custom_jvp
def straight_through(seen: jax.Array, weight: jax.Array) -> jax.Array:
    """``seen``, with the derivative of ``weight``."""
    del weight
    return seen


@straight_through.defjvp
def _straight_through_jvp(primals: Any, tangents: Any) -> Any:
    return straight_through(*primals), tangents[1]
