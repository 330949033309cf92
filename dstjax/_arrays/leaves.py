"""Turns the masked leaves of a tree into a list, and back."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.trees import Tree, is_hole, is_traced, path_difference, path_name


@dataclasses.dataclass(frozen=True)
class MaskedLeaves:
    """Says which leaves of a tree are masked. Lists of masked leaves are in the order of the tree."""

    treedef: Any
    names: tuple[str, ...]  # paths of all leaves
    at: tuple[int, ...]  # places of the masked ones among them

    @staticmethod
    def of(masks: Tree) -> "MaskedLeaves":
        """Finds them in a tree of masks: all that is no hole."""
        flat, treedef = jax.tree_util.tree_flatten_with_path(masks, is_leaf=is_hole)
        at = tuple(i for i, (_, mask) in enumerate(flat) if not is_hole(mask))
        return MaskedLeaves(treedef, tuple(path_name(path) for path, _ in flat), at)

    @staticmethod
    def chosen(params: Tree, masked: Collection[str]) -> "MaskedLeaves":
        """Finds them in a tree of parameters by their paths."""
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        names = tuple(path_name(path) for path, _ in flat)
        return MaskedLeaves(treedef, names, tuple(i for i, name in enumerate(names) if name in masked))

    @staticmethod
    def like(params: Tree, masks: Tree) -> "MaskedLeaves":
        """Finds them in a tree of parameters by the masks that were made for it.

        Raises:
          ValueError: it is another tree.
        """
        every = MaskedLeaves.chosen(params, ())
        stored = every.flatten(masks, "parameters", expected=masks, found=params)
        return dataclasses.replace(every, at=tuple(i for i, mask in enumerate(stored) if not is_hole(mask)))

    @property
    def masked(self) -> list[str]:
        """Returns the paths of the masked leaves."""
        return [self.names[i] for i in self.at]

    def pick(self, leaves: Sequence[Any]) -> list[Any]:
        """Returns the masked ones of all leaves."""
        return [leaves[i] for i in self.at]

    def read(self, tree: Tree) -> list[Any]:
        """Returns the masked leaves of a tree that :meth:`tree` made."""
        return self.pick(self.treedef.flatten_up_to(tree))

    def flatten(self, tree: Tree, what: str, *, expected: Tree, found: Tree) -> list[Any]:
        """Returns all leaves of a tree.

        Raises:
          ValueError: it is another tree. ``what`` names it, ``expected`` and ``found`` name the paths.
        """
        try:
            return self.treedef.flatten_up_to(tree)
        except ValueError:
            difference = path_difference(_skeleton(expected), _skeleton(found))
            raise ValueError(f"the tree of the {what} is not the one at init; {difference}.") from None

    def find(self, tree: Tree, what: str, shapes: Sequence[tuple[int, ...]] | None = None) -> list[Any]:
        """Returns the masked leaves of a tree of any containers, by path; ignores holes and other leaves.

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
        place = {name: i for i, name in enumerate(self.masked)}

        def one(path: tuple[Any, ...], leaf: Any) -> Any:
            i = place.get(path_name(path))
            return leaf if i is None else change(i, leaf)

        return jax.tree_util.tree_map_with_path(one, tree)

    def tree(self, masked: Sequence[Any], dense: Sequence[Any] | None = None) -> Tree:
        """Returns the tree with ``masked`` at the masked leaves, and elsewhere what ``dense`` has there, or None."""
        leaves: list[Any] = [None] * len(self.names) if dense is None else list(dense)
        for i, x in zip(self.at, masked, strict=True):
            leaves[i] = x
        return self.treedef.unflatten(leaves)

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
                "each leaf that the method masks, None elsewhere."
            )
        for name, shape in zip(self.masked, shapes, strict=True):
            mask = found[name]
            if jnp.result_type(mask) != jnp.bool_ or jnp.shape(mask) != shape:
                raise ValueError(
                    f"leaf {name!r} of the {what} has shape {jnp.shape(mask)} and dtype {jnp.result_type(mask)}; "
                    f"expected {shape} and bool."
                )
            if not is_traced(mask) and not np.any(np.asarray(mask)):
                raise ValueError(f"leaf {name!r} of the {what} has no active weight; expected at least one.")
        return [found[name] for name in self.masked]


def named(tree: Tree) -> dict[str, Any]:
    """Returns the leaves of a tree by path, without holes."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_hole)[0]
    return {path_name(path): leaf for path, leaf in flat if not is_hole(leaf)}


def matched(trees: Sequence[Tree]) -> dict[str, list[Any]]:
    """Returns the masks of each path that some trees of masks mask, in the order of the paths.

    Raises:
      ValueError: they mask different leaves, or none.
    """
    found = [named(tree) for tree in trees]
    check_alike(found)
    return {name: [masks[name] for masks in found] for name in sorted(found[0])}


def check_alike(names: Sequence[Collection[str]]) -> None:
    """Refuses trees of masks of different leaves, or without any."""
    every = set().union(*names)
    if lost := sorted(name for name in every if any(name not in n for n in names)):
        raise ValueError(f"the trees mask different leaves: {', '.join(lost)}; expected the same.")
    if not every:
        raise ValueError("the trees have no masked leaf in common.")


def _skeleton(tree: Tree) -> Tree:
    return jax.tree_util.tree_map(lambda _: 0, tree, is_leaf=is_hole)
