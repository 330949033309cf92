"""Finds the units of a program that can be removed, and what of the parameters goes with each."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dstjax._arrays.leaves import named
from dstjax._arrays.trees import Tree, places
from dstjax.checks import check_integer
from dstjax.program.channel_reader import read
from dstjax.program.layers import layers
from dstjax.program.tracing import trace


class Member(NamedTuple):
    """Says what of a leaf belongs to a group."""

    path: str
    axis: int
    indices: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Channels:
    """Holds the groups of indices that can only be removed together, numbered from 0."""

    of: Mapping[str, tuple[np.ndarray, ...]]  # path -> for each axis the group of each index, -1 where it stays
    fixed: Mapping[str, tuple[str, ...]]  # leaves with an axis that no group has: by reason, where it may surprise
    n_groups: int
    _params: Tree
    _multiplied: Callable[[], frozenset[str]] = frozenset

    def multiplied(self) -> frozenset[str]:
        """Returns the leaves that the program multiplies by, of which a table of costs has an entry."""
        return self._multiplied()

    def members(self, group: int) -> tuple[Member, ...]:
        """Returns what belongs to a group."""
        check_integer("group", group, 0)
        found = []
        for path, axes in self.of.items():
            for k, groups in enumerate(axes):
                if (at := np.flatnonzero(groups == group)).size:
                    found.append(Member(path, k, tuple(at.tolist())))
        return tuple(found)

    def masks(self, removed: Iterable[int]) -> Tree:
        """Returns masks of all leaves, without what belongs to some groups; for :func:`dstjax.compact`.

        Raises:
          ValueError: an axis would become empty.
        """
        gone = np.asarray(list(removed), np.int64)
        found, treedef = places(self._params)
        nodes = []
        for place in found:
            if place.is_hole:
                nodes.append(place.node)
                continue
            axes = self.of[place.name]
            mask = np.ones([len(a) for a in axes], bool)
            for k, groups in enumerate(axes):
                stays = ~np.isin(groups, gone)
                if not stays.any():
                    raise ValueError(f"axis {k} of {place.name!r} would become empty; expected a group of it to stay.")
                mask &= stays.reshape([-1 if i == k else 1 for i in range(len(axes))])
            nodes.append(place.holding(jnp.asarray(mask)))
        return treedef.unflatten(nodes)

    def __repr__(self) -> str:
        """Returns a line for each leaf."""
        width = max((len(path) for path in self.of), default=0)
        lines = [f"Channels of {len(self.of)} leaves in {self.n_groups} groups"]
        for path, axes in self.of.items():
            said = " x ".join(
                f"{len(a)} in {len(np.unique(a[a >= 0]))}" if (a >= 0).any() else f"{len(a)}" for a in axes
            )
            lines.append(f"  {path:{width}}  {said}")
        lines += [f"  an axis {why}: {', '.join(paths)}" for why, paths in self.fixed.items()]
        return "\n".join(lines)


def channels(function: Callable[..., Any], params: Tree, *args: Any) -> Channels:
    """Finds which indices of the axes of which leaves can only be removed together.

    A hidden unit is a group: its column of one matrix, its bias, its row of the next. So is a channel that a sum of
    residual blocks joins, a head, a channel of all layers that a loop scans over. Inputs and results stay as they are,
    as does what meets them index by index. What a primitive does that cannot be looked into is not known: its operands
    stay, and ``fixed`` says so.

    Args:
      function: any function that JAX can trace: ``function(params, *args)``.
      params: tree of arrays or ``jax.ShapeDtypeStruct``; values are not read.
      *args: the other arguments, likewise.

    Raises:
      ValueError: the program branches on values.

    >>> params = {"a": jnp.zeros((4, 3)), "b": jnp.zeros(3), "c": jnp.zeros((3, 2))}
    >>> found = channels(lambda p, x: jnp.tanh(x @ p["a"] + p["b"]) @ p["c"], params, jnp.zeros((1, 4)))
    >>> found
    Channels of 3 leaves in 3 groups
      a  4 x 3 in 3
      b  3 in 3
      c  3 in 3 x 2
    >>> [(member.path, member.axis) for member in found.members(0)]
    [('a', 1), ('b', 0), ('c', 0)]
    """
    shapes = {path: tuple(np.shape(x)) for path, x in named(params).items()}
    closed, _ = trace(function, params, args)
    record = read(closed, shapes, free_inputs=False)
    roots = {path: [record.labels.roots(a.labels) for a in axes] for path, axes in record.leaves.items()}
    every = np.unique(np.concatenate([np.zeros(1, np.int64), *(r for axes in roots.values() for r in axes)]))
    number = np.full(int(every[-1]) + 1, -1)
    number[every] = np.arange(-1, len(every) - 1)  # the fixed one is the first
    of = {path: tuple(number[r] for r in axes) for path, axes in roots.items()}
    fixed = {why: tuple(sorted(found)) for why, found in record.kept.items()}

    def multiplied() -> frozenset[str]:
        return frozenset(product.leaf for product in layers(function, params, *args))

    return Channels(of, fixed, len(every) - 1, params, multiplied)
