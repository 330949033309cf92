"""Makes the loss a function of the masked leaves alone: its gradient and its Hessian, summed over batches."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.trees import Tree, is_traced
from dstjax._arrays.widening import wide as wide
from dstjax.initial_masks._goal import Goal

LossFn = Callable[[Tree, Any], jax.Array]
Weights = list[jax.Array]


def read(batches: Iterable[Any]) -> list[Any]:
    """Returns the batches as a list, for rules that need them more than once.

    Raises:
      ValueError: there is none, or what was given is one batch.
    """
    if isinstance(batches, Mapping):
        raise ValueError(f"batches is a mapping with the keys {list(batches)}, one batch; pass a list of it: [batch].")
    try:
        listed = list(batches)
    except TypeError:
        raise ValueError(f"batches={batches!r} is not accepted; expected an iterable of batches.") from None
    if not listed:
        raise ValueError("batches is empty; expected at least one batch (an iterator may be used up).")
    return listed


def summed_gradient(goal: Goal, loss_fn: LossFn, batches: list[Any]) -> Callable[[Weights], Weights]:
    """Returns ``weights -> gradients`` of the loss with respect to the masked leaves, summed over the batches.

    The sums have at least float32. Compiled once for each shape of a batch.
    """
    loss = _scalar(goal, loss_fn)

    @jax.jit
    def add(total: Weights, weights: Weights, leaves: list[Any], batch: Any) -> tuple[jax.Array, Weights]:
        value, gradient = jax.value_and_grad(loss)(weights, leaves, batch)
        return value, [t + g.astype(t.dtype) for t, g in zip(total, gradient, strict=True)]

    def at(weights: Weights) -> Weights:
        total = [jnp.zeros_like(wide(w)) for w in weights]
        for i, batch in enumerate(batches):
            value, total = add(total, weights, goal.leaves, batch)
            _check_finite(value, i)
        return total

    return at


def summed_hessian_product(goal: Goal, loss_fn: LossFn, batches: list[Any]) -> Callable[[Weights, Weights], Weights]:
    """Returns ``weights, direction -> H direction``, summed alike, with H the Hessian over the masked leaves."""
    loss = _scalar(goal, loss_fn)

    @jax.jit
    def add(total: Weights, weights: Weights, direction: Weights, leaves: list[Any], batch: Any) -> Weights:
        along = [d.astype(w.dtype) for d, w in zip(direction, weights, strict=True)]
        _, product = jax.jvp(lambda w: jax.grad(loss)(w, leaves, batch), (weights,), (along,))
        return [t + p.astype(t.dtype) for t, p in zip(total, product, strict=True)]

    def at(weights: Weights, direction: Weights) -> Weights:
        total = [jnp.zeros_like(wide(w)) for w in weights]
        for batch in batches:
            total = add(total, weights, direction, goal.leaves, batch)
        return total

    return at


def _scalar(goal: Goal, loss_fn: LossFn) -> Callable[[Weights, list[Any], Any], jax.Array]:
    if not callable(loss_fn):
        raise ValueError(f"loss_fn={loss_fn!r} is not accepted; expected a function (params, batch) -> scalar.")

    def loss(weights: Weights, leaves: list[Any], batch: Any) -> jax.Array:
        value = loss_fn(goal.params(leaves, weights), batch)
        if jax.tree_util.all_leaves([value]):
            if jnp.shape(value) == () and jnp.issubdtype(jnp.result_type(value), jnp.floating):
                return jnp.asarray(value)
            got = f"an array of shape {jnp.shape(value)} and dtype {jnp.result_type(value)}"
        else:
            got = f"a {type(value).__name__}"
        raise ValueError(
            f"loss_fn returned {got}; expected one real number. Return the mean over the batch, and nothing beside it."
        )

    return loss


def _check_finite(value: jax.Array, i: int) -> None:
    if not is_traced(value) and not np.isfinite(float(value)):
        raise ValueError(
            f"the loss of batch {i} is {float(value)}; expected a finite number. Look for such values in the batch and "
            "in the parameters."
        )
