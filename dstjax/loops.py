"""Leaving out of a step between mask updates what such a step only reads, or does not need at all."""

from typing import Any, NamedTuple

import jax

from dstjax._arrays.trees import Tree
from dstjax.rules import Memory
from dstjax.state import SparseState, Tracked, find, replaced


class Aside(NamedTuple):
    """The part of a sparse state that nothing but a mask update changes."""

    masks: Tree
    counters: Tree | None
    targets: jax.Array
    key: jax.Array
    tracked: Tracked | None
    sets: Any


_FIELDS = ("masks", "counters", "targets", "key", "tracked")  # of SparseState; the sets are in its memory


def set_aside(opt_state: Tree, before: Aside | None = None) -> tuple[Tree, Aside]:
    """Takes out of an optimiser state what only a mask update changes: masks, counters, what is tracked.

    For a host that decides which steps are mask updates. A compiled step pays for every array that it takes and, more,
    for every one that it returns; those of a step between mask updates need not be returned, and what it does not read
    is not even passed. With the ResNet-50 on a CPU that is one to four per cent of an optimiser's step.

    Args:
      opt_state: a state of :func:`dstjax.sparsify`, wherever it is chained or wrapped.
      before: what :func:`put_back` gave to this step; it is an error if the step has changed any of it. To leave out
        where a wrapper with a branch of its own (MultiSteps, apply_if_finite) hides that nothing was changed.

    Returns:
      The state without that part, of which ``tx.update`` makes nothing, and the part.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one; it was taken apart before; or something was
        changed that must not be.

    >>> import dstjax, optax, jax.numpy as jnp
    >>> method = dstjax.methods.rigl(sparsity=0.5, update_period=5, end_step=50)
    >>> tx = dstjax.sparsify(optax.sgd(0.1), method)
    >>> params = {"w": jnp.ones((8, 8))}
    >>> moving, aside = dstjax.set_aside(tx.init(params))
    >>> @jax.jit
    ... def plain_step(params, moving, aside, grads):
    ...     opt_state = dstjax.put_back(moving, aside)
    ...     updates, opt_state = tx.update(grads, opt_state, params, rewire=False)
    ...     moving, _ = dstjax.set_aside(opt_state, aside)
    ...     return optax.apply_updates(params, updates), moving
    >>> params, moving = plain_step(params, moving, aside, params)
    >>> int(moving.step), moving.masks
    (1, None)
    """
    state = find(opt_state)
    if state.masks is None:
        raise ValueError("the masks of this state were set aside before; expected a whole one, as put_back returns it.")
    memory = state.memory
    sets = None if memory is None else memory.sets
    aside = Aside(state.masks, state.counters, state.targets, state.key, state.tracked, sets)
    if before is not None:
        leaves, others = jax.tree_util.tree_leaves(aside), jax.tree_util.tree_leaves(before)
        if len(leaves) != len(others) or any(x is not y for x, y in zip(leaves, others, strict=True)):
            raise ValueError(
                "the step changed masks or counters that were set aside; expected a step between mask updates: "
                "tx.update(..., rewire=False)."
            )
    if memory is not None:
        memory = Memory(memory.leaves, None, memory.shared)
    nothing: dict[str, Any] = dict.fromkeys(_FIELDS)
    moving = state._replace(memory=memory, **nothing)
    return replaced(opt_state, moving), aside


def put_back(opt_state: Tree, aside: Aside) -> Tree:
    """Undoes :func:`set_aside`.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one, or nothing was taken out of it.
    """
    state = find(opt_state)
    if state.masks is not None:
        raise ValueError("nothing was set aside of this state; expected one that dstjax.set_aside returned.")
    memory = None if state.memory is None else state.memory._replace(sets=aside.sets)
    whole = state._replace(memory=memory, **{name: getattr(aside, name) for name in _FIELDS})
    return replaced(opt_state, whole)


def vmap_axes(tree: Tree) -> Any:
    """``in_axes`` and ``out_axes`` for an optimiser state, or any tree that holds one: 0, but None for the step.

    All runs of a population are at the same step. While ``vmap`` knows that, the branch of ``rewire=None`` stays a
    branch; a batched step would turn it into a selection that computes a mask update at every step.

    Args:
      tree: a state of ``sparsify``, chained or wrapped, or its shapes (``jax.eval_shape``), beside anything else.

    Returns:
      A tree prefix of 0 and None.

    >>> import dstjax, optax, jax.numpy as jnp
    >>> params = {"w": jnp.ones((8, 8))}
    >>> method = dstjax.methods.rigl(sparsity=0.5, update_period=5, end_step=50)
    >>> init = lambda seed: dstjax.sparsify(optax.sgd(0.1), method, seed=seed).init(params)
    >>> axes = vmap_axes(jax.eval_shape(init, 0))
    >>> states = jax.vmap(init, out_axes=axes)(jnp.arange(3))
    >>> states.step.shape, states.masks["w"].shape
    ((), (3, 1, 8))
    """

    def axes(node: Any) -> Any:
        if isinstance(node, SparseState):
            inner = jax.tree_util.tree_map(axes, node.inner_state, is_leaf=_is_state)
            return jax.tree_util.tree_map(lambda _: 0, node._replace(inner_state=None))._replace(
                step=None, inner_state=inner
            )
        return 0

    return jax.tree_util.tree_map(axes, tree, is_leaf=_is_state)


def _is_state(node: Any) -> bool:
    return isinstance(node, SparseState)
