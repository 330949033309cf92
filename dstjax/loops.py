"""Loops of a host that decides: states in two parts, and many runs in one program."""

from typing import Any, NamedTuple

import jax

from dstjax._arrays.trees import Tree, is_absent
from dstjax._engine.states import SparseState, SplitOff, find, is_split, is_state, replaced


class Still(NamedTuple):
    """The part of a sparse state that nothing but a mask update changes."""

    masks: Tree
    counters: Tree
    targets: Any
    key: jax.Array
    tracked: Any  # dstjax.state.Tracked
    second_mask: Tree


_FIELDS = ("masks", "counters", "targets", "key", "tracked")  # of SparseState; the second mask is in its memory


def split_state(opt_state: Tree, before: Still | None = None) -> tuple[Tree, Still]:
    """Splits an optimiser state into what moves at every step and what stands still between mask updates.

    For a host that decides which steps are mask updates. A compiled step pays for every array that it takes and, more,
    for every one that it returns. Between mask updates a step need not return masks, counters and what is tracked, and
    does not even take what it does not read. With the ResNet-50 on a CPU that saves one to four per cent of an
    optimiser's step.

    Args:
      opt_state: a state of :func:`dstjax.sparsify`, wherever it is chained or wrapped.
      before: what :func:`merge_state` gave to this step; it is an error if the step has changed any of it. Leave it out
        where a wrapper with a branch of its own (MultiSteps, apply_if_finite) hides that nothing was changed.

    Returns:
      The moving part, a state that ``tx.update`` refuses until it is merged, and the part that stands still.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one; it was split before; or something was changed
        that must not be.

    >>> import dstjax, optax, jax.numpy as jnp
    >>> method = dstjax.methods.rigl(sparsity=0.5, update_period=5, end_step=50)
    >>> tx = dstjax.sparsify(optax.sgd(0.1), method)
    >>> params = {"w": jnp.ones((8, 8))}
    >>> moving, still = dstjax.split_state(tx.init(params))
    >>> @jax.jit
    ... def plain_step(params, moving, still, grads):
    ...     opt_state = dstjax.merge_state(moving, still)
    ...     updates, opt_state = tx.update(grads, opt_state, params, rewire=False)
    ...     moving, _ = dstjax.split_state(opt_state, still)
    ...     return optax.apply_updates(params, updates), moving
    >>> params, moving = plain_step(params, moving, still, params)
    >>> int(moving.step), moving.masks
    (1, SplitOff())
    """
    state = find(opt_state)
    if is_split(state):
        raise ValueError("this state was split before; expected a whole one, as dstjax.merge_state returns it.")
    memory = state.memory
    second = () if is_absent(memory) else memory.second_mask
    still = Still(state.masks, state.counters, state.targets, state.key, state.tracked, second)
    if before is not None:
        leaves, others = jax.tree_util.tree_leaves(still), jax.tree_util.tree_leaves(before)
        if len(leaves) != len(others) or any(x is not y for x, y in zip(leaves, others, strict=True)):
            raise ValueError(
                "the step changed masks or counters that were to stand still; expected a step between mask updates: "
                "tx.update(..., rewire=False)."
            )
    nothing: dict[str, Any] = dict.fromkeys(_FIELDS, ()) | {"masks": SplitOff()}
    moving = state._replace(memory=memory if is_absent(memory) else memory._replace(second_mask=()), **nothing)
    return replaced(opt_state, moving), still


def merge_state(opt_state: Tree, still: Still) -> Tree:
    """Undoes :func:`split_state`.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one, or it is whole already; or ``still`` is no part.
    """
    state = find(opt_state)
    if not is_split(state):
        raise ValueError("this state is whole; expected the moving part that dstjax.split_state returned.")
    if not isinstance(still, Still):
        raise ValueError(f"still={still!r} is not accepted; expected the second part that dstjax.split_state returned.")
    memory = state.memory if is_absent(state.memory) else state.memory._replace(second_mask=still.second_mask)
    whole = state._replace(memory=memory, **{name: getattr(still, name) for name in _FIELDS})
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
            inner = jax.tree_util.tree_map(axes, node.inner_state, is_leaf=is_state)
            return jax.tree_util.tree_map(lambda _: 0, node._replace(inner_state=()))._replace(
                step=None, inner_state=inner
            )
        return 0

    return jax.tree_util.tree_map(axes, tree, is_leaf=is_state)
