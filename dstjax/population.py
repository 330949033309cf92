"""Many runs in one program: ``vmap`` over seeds and over hyper-parameters."""

from typing import Any

import jax

from dstjax._arrays.trees import Tree
from dstjax.state import SparseState


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
