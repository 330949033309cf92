"""Makes masks from the flow through a network, without data."""

import math
import numbers
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jax.typing import ArrayLike

from dstjax._arrays.trees import Tree, is_traced, is_weight
from dstjax.checks import check_integer
from dstjax.initial_masks._goal import Told, Where, goal_of
from dstjax.initial_masks._loss import Weights


def synflow(
    forward_fn: Callable[[Tree, jax.Array], Any],
    params: Tree,
    example: Any,
    *,
    sparsity: float | None,
    rounds: int = 100,
    **where: Unpack[Where],
) -> Tree:
    """Keeps the weights through which most flows when all parameters are positive and the input is ones: SynFlow.

    With |p| for every floating parameter p, biases and scales included, R is the sum of the outputs for an input of
    ones, and each round scores the weights that are left by |w| * dR/d|w|. After round r of T the density is
    d ** (r / T), where d is the final density, which is exact. What was removed stays removed. ``params`` themselves do
    not change.

    R sums products of as many weights as the network has layers, which float32 cannot hold for a deep one. So
    everything is computed in float64: ``forward_fn`` gets float64 parameters and input, and must not cast them down.

    Args:
      forward_fn: ``(params, x) -> outputs`` (one array or a tree of them) in evaluation form, with logits as outputs
        and activations like ReLU. Batch statistics it closes over should be those of a new network: mean 0, variance 1.
      params: tree of arrays.
      example: the shape of one sample without the batch axis, or one sample, of which shape and dtype alone count;
        ``forward_fn`` gets ones with a batch axis of length 1. Integers stay integers.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      rounds: T; 100 in the paper.
      **where: ``distribution``, ``scope`` and ``maskable``, see :mod:`dstjax.initial_masks`.

    Returns:
      Masks: a tree like ``params`` of boolean arrays, None at dense leaves.

    Raises:
      ValueError: the flow is zero or not finite, in all or in a layer, ``forward_fn`` casts down, ``example`` is no
        shape, a call under a trace
        (which has its precision already), or a hyper-parameter out of range or contradictory.

    Reference: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020,
    Algorithm 1.

    >>> two_layers = lambda p, x: x @ p["a"] @ p["b"]
    >>> params = {"a": jnp.array([[1.0, 0.5], [-2.0, 1.0]]), "b": jnp.array([[3.0], [-1.0]])}
    >>> masks = synflow(two_layers, params, (2,), sparsity=0.5)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([[True, False], [True, False]], [[True], [False]])
    """
    check_integer("rounds", rounds, 1)
    if not callable(forward_fn):
        raise ValueError(f"forward_fn={forward_fn!r} is not accepted; expected a function (params, x) -> outputs.")
    goal = goal_of("synflow", params, sparsity, **where)
    if any(is_traced(leaf) for leaf in goal.leaves):
        raise ValueError("the parameters are traced; synflow switches to float64, so call it outside jit and vmap.")

    @jax.jit
    def prune(
        leaves: list[Any], masks: Weights, x: jax.Array, counts: list[ArrayLike]
    ) -> tuple[Weights, jax.Array, jax.Array, Told]:
        positive = [_absolute(leaf) for leaf in leaves]
        dense = goal.masked.pick(positive)
        weights = [jnp.where(m, w, jnp.zeros((), w.dtype)) for m, w in zip(masks, dense, strict=True)]
        total, back = jax.vjp(lambda w: _total(forward_fn(goal.params(positive, w), x)), weights)
        _check_wide(back)
        (slopes,) = back(jnp.ones_like(total))
        scores = [jnp.abs(w * s) for w, s in zip(weights, slopes, strict=True)]
        finite = jnp.stack([jnp.all(jnp.isfinite(s)) for s in scores])
        sound = jnp.all(finite) & (jnp.abs(total) >= jnp.finfo(jnp.float64).tiny)
        return goal.choose(scores, counts, masks), total, sound, goal.informed(scores, masks)

    with jax.enable_x64(True):
        masks = [jnp.ones_like(w, bool) for w in goal.weights]
        ones = _ones(example)
        for r, counts in enumerate(goal.schedule(rounds), 1):
            masks, total, sound, informed = prune(goal.leaves, masks, ones, counts)
            if not bool(sound):
                raise ValueError(
                    f"in round {r} of {rounds} the outputs of forward_fn sum to {float(total)}: no sound flow to rank "
                    "weights by. It must return logits. If it does: a sum of 0 wants more rounds or a lower sparsity, "
                    "an infinite one smaller weights."
                )
            goal.check_informed(f"synflow, in round {r} of {rounds},", informed)
    return goal.tree(masks)


def _absolute(leaf: Any) -> Any:
    return jnp.abs(leaf).astype(jnp.float64) if is_weight(leaf) else leaf


def _check_wide(back: Callable[[jax.Array], Any]) -> None:
    """Refuses a network that casts down anywhere between weights and outputs; its backward pass does so there too."""
    found = _coarsest(jax.make_jaxpr(back)(jnp.float64(1)).jaxpr)
    if found > jnp.finfo(jnp.float64).eps:
        raise ValueError(
            f"forward_fn computes in numbers whose next after 1 is 1 + {found:.2g}, coarser than the float64 of its "
            "arguments, so that small flows are lost or alike; expected that it casts nothing down: leave out a dtype "
            "such as Flax's dtype=jnp.bfloat16, and astype, in the model that synflow sees."
        )


def _coarsest(jaxpr: Any) -> float:
    """Returns the largest distance from 1 to the next number among the dtypes that a jaxpr computes in."""
    found = [0.0]
    for eqn in jaxpr.eqns:
        dtypes = (getattr(v.aval, "dtype", None) for v in eqn.outvars)
        found += [float(jnp.finfo(d).eps) for d in dtypes if d is not None and jnp.issubdtype(d, jnp.inexact)]
        found += [_coarsest(inner) for inner in jaxprs_in_params(eqn.params)]
    return max(found)


def _total(outputs: Any) -> jax.Array:
    """Returns the sum of all outputs."""
    parts = jax.tree_util.tree_leaves(outputs)
    if not parts or not all(jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in parts):
        raise ValueError(
            f"forward_fn returned outputs of the dtypes {[str(jnp.result_type(x)) for x in parts]}; expected real "
            "floating ones."
        )
    return jnp.sum(jnp.stack([jnp.sum(x.astype(jnp.float64)) for x in parts]))


def _ones(example: Any) -> jax.Array:
    """Returns the input: ones of the shape of one sample, with a batch axis of length 1."""
    if isinstance(example, tuple | list) and all(isinstance(n, numbers.Integral) for n in example):
        shape, dtype = tuple(int(n) for n in example), jnp.dtype(jnp.float64)
    elif hasattr(example, "shape") and hasattr(example, "dtype"):
        shape, dtype = tuple(example.shape), jnp.dtype(example.dtype)
        dtype = jnp.dtype(jnp.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype
    else:
        shape, dtype = (0,), jnp.dtype(jnp.float64)
    if any(n < 0 for n in shape) or math.prod(shape) == 0:
        raise ValueError(
            f"example={example!r} is not accepted; expected the shape of one sample without the batch axis, such as "
            "(32, 32, 3), or one sample."
        )
    return jnp.ones((1, *shape), dtype)
