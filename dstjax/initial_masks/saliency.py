"""Makes masks from one look at the weights, or at the weights and the loss."""

from collections.abc import Iterable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from dstjax._arrays.trees import Tree
from dstjax.initial_masks._goal import Goal, Where, goal_of
from dstjax.initial_masks._loss import LossFn, read, summed_gradient, summed_hessian_product, wide


def magnitude(params: Tree, *, sparsity: float | None, normalize: bool = False, **where: Unpack[Where]) -> Tree:
    """Keeps the weights of largest abs(w), at initialisation or after dense training (one-shot pruning).

    Initialisers that scale by the fan-in make ``scope='global'`` favour leaves of small fan-in; ``normalize`` divides
    each leaf by its norm.

    Args:
      params: tree of arrays.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      normalize: with ``scope='global'``, rank abs(w) / (norm + 1e-8), with the Euclidean norm of the leaf.
      **where: ``distribution``, ``scope`` and ``maskable``, see :mod:`dstjax.initial_masks`.

    Returns:
      Masks: a tree like ``params`` of boolean arrays, None at dense leaves.

    Raises:
      ValueError: a hyper-parameter is out of range or contradictory, a leaf cannot be masked, a weight is not finite,
        or a layer is all zero.

    Reference: Han et al., "Learning both weights and connections for efficient neural networks", 2015. The normalised
    ranking is that of jaxpruner (Lee et al., 2023).

    >>> masks = magnitude({"w": jnp.array([[0.9, -0.1], [0.2, -0.5]])}, sparsity=0.5)
    >>> masks["w"].tolist()
    [[True, False], [False, True]]
    """
    scope = where.setdefault("scope", "layer")
    if not isinstance(normalize, bool) or (normalize and scope == "layer"):
        raise ValueError(
            f"normalize={normalize!r} is not accepted with scope={scope!r}; expected False, or True with "
            "scope='global'."
        )
    goal = goal_of("magnitude", params, sparsity, **where)
    scores = [jnp.abs(w) for w in goal.weights]
    if normalize:
        scores = [wide(s) / (jnp.sqrt(jnp.sum(jnp.square(wide(s)))) + 1e-8) for s in scores]
    return _chosen("magnitude", goal, scores)


def snip(
    loss_fn: LossFn, params: Tree, batches: Iterable[Any], *, sparsity: float | None, **where: Unpack[Where]
) -> Tree:
    """Keeps the weights of largest abs(w * g): those whose removal changes the loss most, to first order.

    w * g is the derivative of the loss with respect to a factor at the weight. The score is taken of the sum of the
    gradients of all batches; the authors use one batch of 100 to 128 samples. They prune biases too, and train from
    other weights than those that they score. Here, as in later implementations, kernels alone are masked by default and
    the masks belong to ``params``.

    Args:
      loss_fn: ``(params, batch) -> scalar``, in evaluation form.
      params: tree of arrays.
      batches: a finite iterable of batches, each any tree that ``loss_fn`` takes; all of them are held at once.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      **where: ``distribution``, ``scope`` and ``maskable``, see :mod:`dstjax.initial_masks`.

    Returns:
      Masks: a tree like ``params`` of boolean arrays, None at dense leaves.

    Raises:
      ValueError: no batches, a loss that is no scalar or not finite, a hyper-parameter out of range or contradictory,
        a score that is not finite, or a layer whose scores are all zero.

    Reference: Lee, Ajanthan and Torr, "SNIP: single-shot network pruning based on connection sensitivity", 2019.
    """
    goal = goal_of("snip", params, sparsity, **where)
    gradients = summed_gradient(goal, loss_fn, read(batches))(goal.weights)
    return _chosen("snip", goal, [jnp.abs(wide(w) * g) for w, g in zip(goal.weights, gradients, strict=True)])


def grasp(
    loss_fn: LossFn, params: Tree, batches: Iterable[Any], *, sparsity: float | None, **where: Unpack[Where]
) -> Tree:
    """Keeps the weights of largest w * Hg, those that gradient flow needs: GraSP.

    g is the gradient and H the Hessian of the loss over the masked leaves, both summed over the batches. The paper
    removes the largest -w * Hg, which is the same. The number removed is exact.

    The authors divide the logits by a temperature of 200, which belongs in ``loss_fn``, and take two batches that
    together hold 10 samples of each class. With such a temperature the scores are tiny; their order alone matters.

    Args:
      loss_fn: ``(params, batch) -> scalar``, twice differentiable.
      params: tree of arrays.
      batches: a finite iterable of batches, each any tree that ``loss_fn`` takes; all of them are held at once.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      **where: ``distribution``, ``scope`` and ``maskable``, see :mod:`dstjax.initial_masks`.

    Returns:
      Masks: a tree like ``params`` of boolean arrays, None at dense leaves.

    Raises:
      ValueError: no batches, a loss that is no scalar or not finite, a hyper-parameter out of range or contradictory,
        a score that is not finite, or a layer whose scores are all zero.

    Reference: Wang, Zhang and Grosse, "Picking winning tickets before training by preserving gradient flow", 2020.
    """
    goal = goal_of("grasp", params, sparsity, **where)
    data = read(batches)
    gradients = summed_gradient(goal, loss_fn, data)(goal.weights)
    products = summed_hessian_product(goal, loss_fn, data)(goal.weights, gradients)
    return _chosen("grasp", goal, [wide(w) * p for w, p in zip(goal.weights, products, strict=True)])


def _chosen(rule: str, goal: Goal, scores: list[jax.Array]) -> Tree:
    """Returns the masks of the highest scores, which must say something about every layer."""
    goal.check_informed(rule, goal.informed(scores))
    return goal.tree(goal.choose(scores))
