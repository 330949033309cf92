"""The moments of weights in the state of any optimiser, found by structure."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dstjax._arrays.bits import shape
from dstjax._arrays.trees import Path, Tree, is_array, places

KEY_SHAPES = ((2,), (4,))  # of the data of a random key, uint32

Shapes = dict[Path, tuple[int, ...] | None]  # None where a leaf is left out


def shapes_of(masks: Tree) -> Shapes:
    """The shapes of the masked leaves of a tree of stored masks, None for the others."""
    return {p.path: None if p.is_hole else shape(p.leaf) for p in places(masks)[0]}


def map_moments(change: Callable[[Path, Any], Any], shapes: Shapes, inner_state: Tree) -> Tree:
    """Maps ``change(path, moment)`` over the moments of some leaves in the state of any optimiser.

    A moment is found by structure: an array of real or complex numbers whose path ends with the path of a leaf and that
    has its shape. Leaves whose moments stay as they are have None for a shape: one of them may have a path that ends
    with the path of another leaf. Momentum, second moments, accumulated gradients and copies of the parameters are all
    such; factored moments and step counts are not.
    """
    found, treedef = places(inner_state)
    nodes = []
    for place in found:
        owner = None if place.is_hole else _owner(place.path, place.leaf, shapes)
        nodes.append(place.node if owner is None else place.holding(change(owner, place.leaf)))
    return treedef.unflatten(nodes)


def _owner(path: Path, leaf: Any, shapes: Shapes) -> Path | None:
    """The path of the leaf that an array is a moment of, the longest one."""
    if not is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return None
    for ending in (path[i:] for i in range(len(path) + 1)):
        if ending in shapes:
            if shapes[ending] is None:
                return None
            if tuple(leaf.shape) == shapes[ending]:
                return ending
    return None


def map_both(change: Callable[[Path, Any, Any], Any], shapes: Shapes, inner_state: Tree, other: Tree) -> Tree:
    """Maps ``change(path, moment, moment of the other)`` over the moments that two states of one optimiser have.

    A moment that has another shape in the other state is none of theirs.
    """
    others = {(p.name, np.shape(p.leaf)): p.leaf for p in places(other)[0] if not p.is_hole}
    found, treedef = places(inner_state)
    nodes = []
    for place in found:
        at = (place.name, () if place.is_hole else np.shape(place.leaf))
        owner = None if place.is_hole or at not in others else _owner(place.path, place.leaf, shapes)
        nodes.append(place.node if owner is None else place.holding(change(owner, place.leaf, others[at])))
    return treedef.unflatten(nodes)


def aligned(values: Sequence[Any], old: Tree, new: Tree, other: Any) -> list[Any]:
    """What belongs to the leaves of an optimiser's old state, for each leaf of its new one.

    An optimiser may add to its state at its first update, as ``optax.monitor`` does, or lengthen a history. What is
    new, or of another shape than before, gets ``other``.
    """
    flat = jax.tree_util.tree_flatten_with_path
    by_path = {keys: (np.shape(leaf), x) for (keys, leaf), x in zip(flat(old)[0], values, strict=True)}
    found = [(by_path.get(keys), np.shape(leaf)) for keys, leaf in flat(new)[0]]
    return [known[1] if known is not None and known[0] == shape else other for known, shape in found]


def owners(shapes: Shapes, inner_state: Tree) -> list[Path | None]:
    """For each leaf of an optimiser's state the path of the weight that it is a moment of, None if it is none."""
    found = (place for place in places(inner_state)[0] if not place.is_hole)
    return [_owner(place.path, place.leaf, shapes) for place in found]


def standing(shapes: Shapes, inner_state: Tree) -> list[bool]:
    """For each leaf of an optimiser's state whether it stays as it is in a step that is none.

    Moments stay, of all parameters whose shapes are given, and whatever else is an array. Scalars (counts, bias
    corrections, rates) and random keys go on; but all of ``MultiSteps`` stays, whose count says how many gradients it
    has added up, so that its window is one call longer.
    """
    found = [place for place in places(inner_state)[0] if not place.is_hole]
    whole = _of_windows(inner_state)
    return [
        of_window or _owner(p.path, p.leaf, shapes) is not None or _is_moment(p.leaf)
        for p, of_window in zip(found, whole, strict=True)
    ]


def _of_windows(inner_state: Tree) -> list[bool]:
    """For each leaf of an optimiser's state whether it is of one that adds up several gradients before a step."""
    is_window = lambda node: isinstance(node, optax.MultiStepsState)  # noqa: E731
    nodes = jax.tree_util.tree_leaves(inner_state, is_leaf=is_window)
    return [window for node in nodes for window in [is_window(node)] * len(jax.tree_util.tree_leaves(node))]


def _is_moment(leaf: Any) -> bool:
    if not is_array(leaf) or not leaf.ndim:
        return False
    return not (leaf.dtype == jnp.uint32 and leaf.shape in KEY_SHAPES)


def held(shapes: Shapes, guards: bool, now: Any, old: Tree, new: Tree) -> Tree:
    """The new state of an optimiser, but what stands is the old one where ``now``; see :func:`chosen_of`."""
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree_util.tree_flatten(new)
    before = aligned([(x,) for x in jax.tree_util.tree_leaves(old)], old, new, ())
    chosen = zip(standing(shapes, new), before, leaves, strict=True)
    return treedef.unflatten([chosen_of(guards, now, last[0], x) if stay and last else x for stay, last, x in chosen])


def chosen_of(guards: bool, now: Any, old: Any, new: Any) -> Any:
    """The old array where ``now``, and with ``guards`` where the new one is no finite number; else the new one."""
    if guards and now is not True and jnp.issubdtype(new.dtype, jnp.inexact):
        return jnp.where(jnp.isfinite(new) & ~jnp.asarray(now), new, old)
    return new if now is False else old if now is True else jnp.where(now, old, new)
