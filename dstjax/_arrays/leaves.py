"""Turns the masked leaves of a tree into a list, and back."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dstjax._arrays.shards import on_host
from dstjax._arrays.trees import (
    Path,
    Tree,
    is_array,
    is_box,
    is_hole,
    is_traced,
    path_difference,
    places,
)


@dataclasses.dataclass(frozen=True)
class MaskedLeaves:
    """Says which leaves of a tree are masked. Lists of masked leaves are in the order of the tree."""

    treedef: Any
    names: tuple[str, ...]  # of all leaves
    paths: tuple[Path, ...]  # of all leaves
    at: tuple[int, ...]  # places of the masked ones among them

    @staticmethod
    def of(masks: Tree) -> "MaskedLeaves":
        """Finds them in a tree of masks, which has holes elsewhere: all leaves but functions, text and the like."""
        found = [place for place in places(masks)[0] if not place.is_hole]
        names, paths = tuple(p.name for p in found), tuple(p.path for p in found)
        at = tuple(i for i, place in enumerate(found) if _is_number(place.leaf))
        return MaskedLeaves(jax.tree_util.tree_structure(masks), names, paths, at)

    @staticmethod
    def chosen(params: Tree, masked: Collection[str]) -> "MaskedLeaves":
        """Finds them in a tree of parameters by their names."""
        every = MaskedLeaves.of(params)
        return dataclasses.replace(every, at=tuple(i for i, name in enumerate(every.names) if name in masked))

    @staticmethod
    def like(tree: Tree, masks: Tree, what: str) -> "MaskedLeaves":
        """Finds them in a tree of parameters or gradients by the masks that were made for it.

        It may lack leaves that are not masked, and have leaves where there were holes.

        Raises:
          ValueError: it is another tree, or lacks a masked leaf. ``what`` names it.
        """
        known, treedef = places(masks)
        try:
            nodes = treedef.flatten_up_to(tree)
        except ValueError:
            nodes = []
        fits = len(nodes) == len(known) and all(map(_is_place, nodes))
        sizes = [len(jax.tree_util.tree_leaves(node)) for node in nodes]
        if not fits or any(not n and not place.is_hole for place, n in zip(known, sizes, strict=True)):
            raise ValueError(f"the tree of the {what} is not the one at init; {path_difference(masks, tree)}.")
        found = [place for place, n in zip(known, sizes, strict=True) if n]
        return MaskedLeaves(
            jax.tree_util.tree_structure(tree),
            tuple(p.name for p in found),
            tuple(p.path for p in found),
            tuple(i for i, p in enumerate(found) if not p.is_hole),
        )

    @property
    def masked(self) -> list[str]:
        """Returns the names of the masked leaves."""
        return [self.names[i] for i in self.at]

    def by_path(self, masked: Sequence[Any]) -> dict[Path, Any]:
        """Returns a list of the masked leaves by their paths."""
        return dict(zip(self.pick(self.paths), masked, strict=True))

    def pick(self, leaves: Sequence[Any]) -> list[Any]:
        """Returns the masked ones of all leaves."""
        return [leaves[i] for i in self.at]

    def put(self, masked: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
        """Returns all leaves, with others at the masked ones."""
        every = list(leaves)
        for i, x in zip(self.at, masked, strict=True):
            every[i] = x
        return every

    def read(self, tree: Tree) -> list[Any]:
        """Returns the masked leaves of a tree that :meth:`tree` made."""
        return self.pick(self.treedef.flatten_up_to(tree))

    def tree(self, masked: Sequence[Any], leaves: Sequence[Any] | None = None) -> Tree:
        """Returns the tree of all leaves with others at the masked ones; without ``leaves`` all are masked."""
        return self.treedef.unflatten(masked if leaves is None else self.put(masked, leaves))

    def masks(self, masked: Sequence[Any]) -> Tree:
        """Returns the tree of masks for people to read: None at dense leaves."""
        index = {name: i for i, name in enumerate(self.masked)}
        return shown(hollow(self.treedef.unflatten(self.names), index), lambda name: masked[index[name]])

    def find(self, tree: Tree, what: str, shapes: Sequence[tuple[int, ...]] | None = None) -> list[Any]:
        """Returns the masked leaves of a tree of any containers, by name; ignores holes and other leaves.

        Raises:
          ValueError: one is missing, or has not the shape that is expected.
        """
        found = named(tree)
        self.check_paths(found, what)
        leaves = [found[name] for name in self.masked]
        if shapes is not None:
            self.check_shapes(leaves, what, shapes)
        return leaves

    def map(self, change: Callable[[int, Any], Any], tree: Tree, what: str, shapes: Sequence[Any]) -> Tree:
        """Returns a tree of any containers with ``change(i, leaf)`` at its masked leaves, the i-th of the list.

        Raises:
          ValueError: as in :meth:`find`.
        """
        self.find(tree, what, shapes)
        index = {name: i for i, name in enumerate(self.masked)}
        found, treedef = places(tree)
        return treedef.unflatten(
            [p.holding(change(index[p.name], p.leaf)) if p.name in index else p.node for p in found]
        )

    def check_paths(self, found: Collection[str], what: str) -> None:
        """Refuses a tree that lacks a masked leaf."""
        if lost := [name for name in self.masked if name not in found]:
            raise ValueError(f"no leaf of the {what} has the path of these masks: {', '.join(lost)}.")

    def check_shapes(self, leaves: Sequence[Any], what: str, shapes: Sequence[tuple[int, ...]]) -> None:
        """Refuses masked leaves of another shape than their masks."""
        for name, x, shape in zip(self.masked, leaves, shapes, strict=True):
            if jnp.shape(x) != shape:
                raise ValueError(
                    f"leaf {name!r} of the {what} has shape {jnp.shape(x)}; expected {shape}, that of its mask."
                )

    def check_masks(self, found: Mapping[str, Any], what: str, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
        """Returns a caller's masks in order.

        Raises:
          ValueError: other leaves are masked, or a mask has another shape or dtype, or no active weight.
        """
        missing, unexpected = sorted({*self.masked} - {*found}), sorted({*found} - {*self.masked})
        if missing or unexpected:
            raise ValueError(
                f"the {what} are missing for {missing} and unexpected for {unexpected}; expected a boolean array for "
                "each leaf that the method masks, None elsewhere; with maskable=dstjax.masks.maskable(masks) a method "
                "masks those of some masks."
            )
        for name, shape in zip(self.masked, shapes, strict=True):
            mask = found[name]
            if jnp.result_type(mask) != jnp.bool_ or jnp.shape(mask) != shape:
                raise ValueError(
                    f"leaf {name!r} of the {what} has shape {jnp.shape(mask)} and dtype {jnp.result_type(mask)}; "
                    f"expected {shape} and bool."
                )
            if not is_traced(mask) and not np.any(on_host(mask)):
                raise ValueError(f"leaf {name!r} of the {what} has no active weight; expected at least one.")
        return [found[name] for name in self.masked]


def named(tree: Tree) -> dict[str, Any]:
    """Returns the leaves of a tree by name, without holes."""
    return {place.name: place.leaf for place in places(tree)[0] if not place.is_hole}


def named_masks(tree: Tree) -> dict[str, Any]:
    """Returns the masks of a caller's tree by name, and whatever else it has of numbers; no functions, no text."""
    return {name: leaf for name, leaf in named(tree).items() if _is_number(leaf)}


def holds_masks(tree: Tree) -> bool:
    """Whether a tree has boolean arrays: it is masks then, even if its class can be called."""
    return any(is_array(x) and x.dtype == jnp.bool_ for x in jax.tree_util.tree_leaves(tree))


def hollow(tree: Tree, kept: Collection[str]) -> Tree:
    """Returns the tree without the leaves that are not kept, by name: a place without leaves stands for them.

    It takes the place of the whole box, since nobody expects a variable without a value.
    """
    found, treedef = places(tree)
    return treedef.unflatten([p.node if p.name in kept or p.node is None else optax.MaskedNode() for p in found])


def shown(masks: Tree, change: Callable[[Any], Any]) -> Tree:
    """Returns a tree of masks, each changed, for people to read: None where a leaf is dense."""
    found, treedef = places(masks)
    return treedef.unflatten([None if p.is_hole else p.holding(change(p.leaf)) for p in found])


def united(trees: Sequence[Tree]) -> Tree:
    """Returns one tree of the leaves of several trees alike, of which each has holes where others have leaves.

    Raises:
      ValueError: they are of different containers, or two have the same leaf.
    """
    return functools.reduce(_united, trees)


def _united(a: Tree, b: Tree) -> Tree:
    if b is a or is_hole(b):
        return a
    if is_hole(a):
        return b
    mine: list[Any]
    others: list[Any]
    treedef: Any
    other: Any
    mine, treedef = jax.tree_util.tree_flatten(a, is_leaf=lambda node: node is not a)
    others, other = jax.tree_util.tree_flatten(b, is_leaf=lambda node: node is not b)
    if treedef != other:
        raise ValueError("they are of different trees")
    if jax.tree_util.all_leaves([a]):
        if _is_number(a):
            raise ValueError("two mask the same leaf")
        return a
    return treedef.unflatten([_united(x, y) for x, y in zip(mine, others, strict=True)])


def matched(trees: Sequence[Tree]) -> dict[str, list[Any]]:
    """Returns the masks of each path that some trees of masks mask, in the order of the paths.

    Raises:
      ValueError: they mask different leaves, or none.
    """
    found = [named_masks(tree) for tree in trees]
    check_alike(found)
    return {name: [masks[name] for masks in found] for name in sorted(found[0])}


def check_alike(names: Sequence[Collection[str]]) -> None:
    """Refuses trees of masks of different leaves, or without any."""
    every = set().union(*names)
    if lost := sorted(name for name in every if any(name not in n for n in names)):
        raise ValueError(f"the trees mask different leaves: {', '.join(lost)}; expected the same.")
    if not every:
        raise ValueError("the trees have no masked leaf in common.")


def _is_number(leaf: Any) -> bool:
    return is_array(leaf) or isinstance(leaf, bool | int | float | complex)


def _is_place(node: Any) -> bool:
    return is_hole(node) or is_box(node) or jax.tree_util.all_leaves([node])
