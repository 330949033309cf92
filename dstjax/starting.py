"""The parameters and the optimiser's state before the first step, and of another method in the middle of training."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dstjax._arrays.shards import mesh_of
from dstjax._arrays.trees import Path, Tree, is_array, places
from dstjax._engine.adopt import adopted
from dstjax._engine.states import every, find, holds_state, names_of, replaced, whole
from dstjax.method import Method
from dstjax.state import apply_masks

_Leaves = list[Any]  # of a tree in order, () for one that is no array
_Shardings = dict[Path, tuple[int, Any]]  # axes and sharding of the leaf at a path


def start(tx: Any, params: Tree) -> tuple[Tree, Tree]:
    """Returns sparse parameters and the optimiser's state: ``tx.init`` and the first masks in one compiled call.

    Parameters lie where they lay, and what the state holds of them lies alike. Where the method keeps dense weights
    behind its masks they come back as they are. Leaves that are no arrays are passed on.

    Args:
      tx: an optimiser with a ``sparsify`` in it, chained or wrapped.
      params: the parameters.

    Raises:
      ValueError: there is no ``sparsify`` in ``tx``, or two mask the same leaf; or ``tx.init`` refuses the parameters.

    >>> import dstjax, optax
    >>> method = dstjax.methods.rigl(sparsity=0.5, update_period=2, end_step=10)
    >>> tx = optax.chain(optax.clip(1.0), dstjax.sparsify(optax.adam(0.1), method))
    >>> params, opt_state = dstjax.start(tx, {"w": jnp.ones((4, 4)), "b": jnp.ones(4)})
    >>> int((params["w"] != 0).sum()), dstjax.check_sparse(params, opt_state)
    (8, True)
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise ValueError(f"tx={tx!r} is not accepted; expected an optimiser, such as dstjax.sparsify(inner, method).")
    arrays, joined = _split(params)
    arrays = [jax.device_put(x) if isinstance(x, np.ndarray | np.generic) else x for x in arrays]
    joined_state: Callable[[_Leaves], Tree] = joined  # that of the state, once it is traced

    def begin(arrays: _Leaves) -> tuple[_Leaves, _Leaves]:
        nonlocal joined_state
        # Copies, else a state that holds parameters would hold the caller's own, to be donated twice.
        dense = joined([jnp.copy(x) if is_array(x) else x for x in arrays])
        with mesh_of(arrays):
            opt_state = tx.init(dense)
        every(opt_state)
        pairs = zip(_split(apply_masks(dense, opt_state))[0], _split(dense)[0], strict=True)
        of_state, joined_state = _split(opt_state)
        return of_state, [() if new is old else new for new, old in pairs]

    where = None
    if known := _shardings(joined(arrays)):
        of_state, sparse = jax.eval_shape(begin, arrays)
        alike = [
            _like(place.path, place.leaf, known) for place in places(joined_state(of_state))[0] if not place.is_hole
        ]
        where = (
            [() if x == () else s for x, s in zip(of_state, alike, strict=True)],
            [() if x == () else _committed(a) for x, a in zip(sparse, arrays, strict=True)],
        )
    # Unused arrays too: they tell jax the devices of a mesh of Explicit axes that no context names.
    of_state, sparse = jax.jit(begin, out_shardings=where, keep_unused=True)(arrays)
    params = joined([a if isinstance(s, tuple) else s for a, s in zip(arrays, sparse, strict=True)])
    return params, joined_state(of_state)


def adopt(
    opt_state: Tree, params: Tree, method: Method, *, layout: Any = None, track: Iterable[str] | None = None
) -> tuple[Tree, Tree]:
    """Returns sparse parameters and the optimiser's state for another method, or for another sparsity of the same one.

    The step, the key and the state of the inner optimiser go on, so make the new optimiser with the same inner one:
    ``tx = dstjax.sparsify(inner, method)``. Masks stay where the method may have them: of too many weights in a layer
    the largest are kept, and where there are too few random ones join, at 0. A method that starts denser than it ends
    goes on from what there is, if that lies between. Moments of inactive weights become zero, counters and what was
    tracked go on, and a method of the same name keeps what it remembers.

    Args:
      opt_state: with a state of ``sparsify`` in it, chained or wrapped. The new one shares arrays with it.
      params: the parameters, as the old method left them.
      method: the new one, from :mod:`dstjax.methods`.
      layout: as given to :func:`dstjax.sparsify`.
      track: as given to :func:`dstjax.sparsify`; by default what the state tracks.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one; the parameters are others, or more than the part
        that a wrapper such as ``optax.masked`` gives to ``sparsify``; the masks that there are cannot lead to what the
        method promises; or it is called inside a trace.

    >>> import dstjax, optax
    >>> rigl = dstjax.methods.rigl(sparsity=0.5, update_period=2, end_step=10)
    >>> params, opt_state = dstjax.start(dstjax.sparsify(optax.adam(0.1), rigl), {"w": jnp.ones((4, 4))})
    >>> static = dstjax.methods.static(sparsity=0.75)
    >>> params, opt_state = dstjax.adopt(opt_state, params, static)
    >>> tx = dstjax.sparsify(optax.adam(0.1), static)
    >>> int((params["w"] != 0).sum())
    4
    """
    if not isinstance(method, Method):
        raise ValueError(f"method={method!r} is not accepted; expected one from dstjax.methods, such as rigl(...).")
    if layout is not None:
        method = method.but(layout=layout)
    kept = None if track is None else names_of(track)
    new = adopted(whole(find(opt_state)), method, params, kept, of_a_part=_is_of_a_part(opt_state))
    return apply_masks(params, new), replaced(opt_state, new)


def _is_of_a_part(opt_state: Tree) -> bool:
    """Whether a wrapper gives ``sparsify`` some of the parameters alone."""
    is_part = lambda node: isinstance(node, optax.MaskedState)  # noqa: E731
    return any(is_part(x) and holds_state(x) for x in jax.tree_util.tree_leaves(opt_state, is_leaf=is_part))


def _split(tree: Tree) -> tuple[_Leaves, Callable[[_Leaves], Tree]]:
    """Returns the arrays of a tree, and a function that makes the tree of others with what is no array in its place."""
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    is_kept = [not isinstance(x, jax.Array | np.ndarray | np.generic) for x in leaves]
    arrays = [() if kept else x for x, kept in zip(leaves, is_kept, strict=True)]
    unchanged = [x if kept else () for x, kept in zip(leaves, is_kept, strict=True)]  # a tracer must not stay behind

    def joined(others: _Leaves) -> Tree:
        return treedef.unflatten([x if kept else o for x, o, kept in zip(unchanged, others, is_kept, strict=True)])

    return arrays, joined


def _shardings(params: Tree) -> _Shardings:
    """Returns the shardings over several devices that the compiler does not see: types tell those of Explicit axes."""
    found = ((place.path, place.leaf) for place in places(params)[0] if not place.is_hole)
    committed = ((path, np.ndim(leaf), _committed(leaf)) for path, leaf in found if isinstance(leaf, jax.Array))
    return {path: (ndim, sharding) for path, ndim, sharding in committed if sharding is not None}


def _committed(leaf: Any) -> Any:
    """Returns the sharding of an array that lies on several devices by Auto axes, None of another."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer) or not leaf.committed:
        return None
    mesh = getattr(leaf.sharding, "mesh", None)
    is_auto = mesh is not None and not mesh.explicit_axes and len(leaf.sharding.device_set) > 1
    return leaf.sharding if is_auto else None


def _like(path: Path, leaf: Any, known: _Shardings) -> Any:
    """Returns the sharding for a leaf of the state: that of the parameter that it belongs to, None to let it be."""
    for ending in (path[i:] for i in range(len(path) + 1)):
        ndim, sharding = known.get(ending, (-1, None))
        if ndim == np.ndim(leaf):
            try:
                sharding.shard_shape(tuple(leaf.shape))
            except ValueError:  # fewer bytes of mask than devices
                return None
            return sharding
    return None
