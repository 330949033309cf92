"""Makes masks from SNIP's score in several rounds of falling density."""

from collections.abc import Iterable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dstjax._arrays.trees import Tree
from dstjax.checks import check_integer
from dstjax.initial_masks._goal import Goal, Told, Where, goal_of
from dstjax.initial_masks._loss import LossFn, Weights, read, summed_gradient, wide
from dstjax.masks import zero_outside


def iterative_snip(
    loss_fn: LossFn,
    params: Tree,
    batches: Iterable[Any],
    *,
    sparsity: float | None,
    rounds: int = 10,
    **where: Unpack[Where],
) -> Tree:
    """Scores abs(w * g) at the sparse network in rounds, and removes some of the weights that are left: iterative SNIP.

    After round r of T the density is d ** (r / T), where d is the final density, which is exact. What was removed stays
    removed. The authors' code takes 10 rounds by default; the paper takes more, about 60 to 300 (from general
    knowledge; the paper was not at hand).

    Args:
      loss_fn: ``(params, batch) -> scalar``, in evaluation form.
      params: tree of arrays.
      batches: a finite iterable of batches, each any tree that ``loss_fn`` takes; all of them are held at once, and
        every round sums the gradients of all.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      rounds: T.
      **where: ``distribution``, ``scope`` and ``maskable``, see :mod:`dstjax.initial_masks`.

    Returns:
      Masks: a tree like ``params`` of boolean arrays, None at dense leaves.

    Raises:
      ValueError: no batches, a loss that is no scalar or not finite, a hyper-parameter out of range or contradictory,
        a score that is not finite in some round, or a layer whose scores are all zero.

    Reference: de Jorge et al., "Progressive skeletonization: trimming more fat from a network at initialization", 2021.
    """
    goal = goal_of("iterative_snip", params, sparsity, **where)
    return _in_rounds("iterative_snip", goal, loss_fn, batches, rounds, returning=False)


def force(
    loss_fn: LossFn,
    params: Tree,
    batches: Iterable[Any],
    *,
    sparsity: float | None,
    rounds: int = 10,
    **where: Unpack[Where],
) -> Tree:
    """Prunes as :func:`iterative_snip` does, but a removed weight can come back: FORCE.

    Each round takes the gradient at the sparse network and ranks all weights anew by abs(w * g), a removed one by the
    value that it would return with.

    Args:
      loss_fn: ``(params, batch) -> scalar``, in evaluation form.
      params: tree of arrays.
      batches: a finite iterable of batches, each any tree that ``loss_fn`` takes; all of them are held at once, and
        every round sums the gradients of all.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      rounds: T.
      **where: ``distribution``, ``scope`` and ``maskable``, see :mod:`dstjax.initial_masks`.

    Returns:
      Masks: a tree like ``params`` of boolean arrays, None at dense leaves.

    Raises:
      ValueError: no batches, a loss that is no scalar or not finite, a hyper-parameter out of range or contradictory,
        a score that is not finite in some round, or a layer whose scores are all zero.

    Reference: de Jorge et al., "Progressive skeletonization: trimming more fat from a network at initialization", 2021.
    """
    goal = goal_of("force", params, sparsity, **where)
    return _in_rounds("force", goal, loss_fn, batches, rounds, returning=True)


def _in_rounds(name: str, goal: Goal, loss_fn: LossFn, batches: Iterable[Any], rounds: int, *, returning: bool) -> Tree:
    check_integer("rounds", rounds, 1)
    gradient = summed_gradient(goal, loss_fn, read(batches))

    @jax.jit
    def choose(weights: Weights, gradients: Weights, masks: Weights, counts: list[ArrayLike]) -> tuple[Weights, Told]:
        scores, where = [jnp.abs(wide(w) * g) for w, g in zip(weights, gradients, strict=True)], None
        if not returning:
            where = masks
        return goal.choose(scores, counts, where), goal.informed(scores, where)

    masks = [jnp.ones_like(w, bool) for w in goal.weights]
    for r, counts in enumerate(goal.schedule(rounds), 1):
        sparse = [zero_outside(w, m) for w, m in zip(goal.weights, masks, strict=True)]
        masks, informed = choose(goal.weights, gradient(sparse), masks, counts)
        goal.check_informed(f"{name}, in round {r} of {rounds},", informed)
    return goal.tree(masks)
