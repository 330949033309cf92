"""The moments of weights in the state of any optimiser, found by structure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.trees import Tree, path_name

Shapes = dict[str, tuple[int, ...] | None]  # by path, None where a leaf is left out


def map_moments(change: Callable[[str, Any], Any], shapes: Shapes, inner_state: Tree) -> Tree:
    """Maps ``change(name, moment)`` over the moments of some leaves in the state of any optimiser.

    A moment is found by structure: an array of real or complex numbers whose path ends with the path of a leaf and that
    has its shape. Leaves whose moments stay as they are have None for a shape: one of them may have a path that ends
    with the path of another leaf. Momentum, second moments, accumulated gradients and copies of the parameters are all
    such; factored moments and step counts are not.
    """
    longest_first = sorted(shapes, key=len, reverse=True)
    endings = {name: name.split("/") if name else [] for name in longest_first}

    def one(path: tuple[Any, ...], x: Any) -> Any:
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        parts = path_name(path).split("/")
        for name in longest_first:
            ending = endings[name]
            if not ending or parts[-len(ending) :] == ending:
                if shapes[name] is None:
                    return x
                if x.shape == shapes[name]:
                    return change(name, x)
        return x

    return jax.tree_util.tree_map_with_path(one, inner_state)


def map_both(change: Callable[[str, Any, Any], Any], shapes: Shapes, inner_state: Tree, other: Tree) -> Tree:
    """Maps ``change(name, moment, moment of the other)`` over the moments of two states of one optimiser."""
    others: list[Any] = []
    map_moments(lambda _, x: others.append(x), shapes, other)
    rest = iter(others)
    return map_moments(lambda name, x: change(name, x, next(rest)), shapes, inner_state)


def owners(shapes: Shapes, inner_state: Tree) -> list[str | None]:
    """For each leaf of an optimiser's state the path of the weight that it is a moment of, None if it is none."""
    named = map_moments(lambda name, _: _Name(name), shapes, inner_state)
    return [str(x) if isinstance(x, _Name) else None for x in jax.tree_util.tree_leaves(named)]


class _Name(str):
    """The path of a weight in place of its moment."""
