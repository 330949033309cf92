"""Parameters, updates and the state of one call of ``update`` as lists, and back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import masks
from dstjax._arrays.trees import Tree, is_hole, path_difference, path_name
from dstjax._engine.moments import Shapes
from dstjax._engine.rewire import Topology
from dstjax.rules import Memory
from dstjax.state import SparseState, Tracked


class Flat(NamedTuple):
    """Parameters, updates and topology of one call as lists."""

    treedef: Any
    all_names: list[str]  # of all leaves
    names: list[str]  # of the masked leaves
    at: list[int]  # their places among all leaves
    params: list[Any]  # all leaves
    updates: list[Any]  # all leaves
    topology: Topology  # masked leaves
    memory: list[Any]  # masked leaves; what the method remembers of each, or None

    @staticmethod
    def of(updates: Tree, state: SparseState, params: Tree) -> "Flat":
        """Flattens one call, and refuses trees and shapes that are not those of init."""
        if state.masks is None:
            raise ValueError("the masks of this state were set aside; call dstjax.put_back before tx.update.")
        treedef: Any
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        stored = flatten_like(treedef, state.masks, "parameters", state.masks, params)
        gradients = flatten_like(treedef, updates, "updates", params, updates)
        at = [i for i, m in enumerate(stored) if not is_hole(m)]
        all_names = [path_name(path) for path, _ in flat]
        names = [all_names[i] for i in at]
        leaves = [leaf for _, leaf in flat]

        def masked(tree: Tree | None) -> Any:
            return None if tree is None else [x for x in treedef.flatten_up_to(tree) if not is_hole(x)]

        tracked = state.tracked or Tracked(None, None, None, None, None)
        memory = state.memory or Memory()
        topology = Topology(
            masked(state.masks),
            masked(state.counters),
            masked(tracked.ever),
            masked(tracked.grown),
            tracked.n_grown,
            tracked.n_survived,
            tracked.error,
            masked(memory.sets),
            memory.shared,
        )
        remembered = masked(memory.leaves) or [None] * len(at)
        made = Flat(treedef, all_names, names, at, leaves, gradients, topology, remembered)
        made.check_shapes("parameter", leaves)
        made.check_shapes("update", gradients)
        return made

    def check_shapes(self, label: str, leaves: list[Any]) -> None:
        """Refuses masked leaves of another shape than their masks."""
        for name, x, mask in zip(self.names, self.masked(leaves), self.topology.masks, strict=True):
            if jnp.shape(x) != masks.shape(mask):
                raise ValueError(
                    f"the {label} {name!r} has shape {jnp.shape(x)}; expected {masks.shape(mask)} as at init."
                )

    def masked(self, leaves: list[Any]) -> list[Any]:
        """The masked ones of all leaves."""
        return [leaves[i] for i in self.at]

    @property
    def shapes(self) -> Shapes:
        """The shapes of the masked leaves by path, None for the others."""
        found: Shapes = dict.fromkeys(self.all_names)
        return found | {n: masks.shape(m) for n, m in zip(self.names, self.topology.masks, strict=True)}

    def tree(self, dense: list[Any], masked: list[Any]) -> Tree:
        """A tree with ``masked`` at the masked leaves and ``dense`` elsewhere."""
        leaves = list(dense)
        for i, x in zip(self.at, masked, strict=True):
            leaves[i] = x
        return self.treedef.unflatten(leaves)

    def stored(self, state: SparseState, topology: Topology, remembered: list[Any]) -> SparseState:
        """The state with another topology, and what the method remembers of each leaf."""
        holes = [None] * len(self.params)

        def tree(leaves: list[Any] | None) -> Tree | None:
            return None if leaves is None else self.tree(holes, leaves)

        tracked = None
        if state.tracked is not None:
            tracked = Tracked(tree(topology.ever), tree(topology.grown), *topology[4:7])
        memory = state.memory
        if memory is not None:
            leaves = None if memory.leaves is None else tree(remembered)
            memory = Memory(leaves, tree(topology.sets), topology.shared)
        return state._replace(
            masks=tree(topology.masks), counters=tree(topology.counters), tracked=tracked, memory=memory
        )


def flatten_like(treedef: Any, tree: Tree, wrong: str, expected: Tree, found: Tree) -> list[Any]:
    """The leaves of a tree at the places of the parameters; a ValueError that says which tree differs, and where."""
    try:
        return treedef.flatten_up_to(tree)
    except ValueError:
        known = jax.tree_util.tree_map(lambda _: 0, expected, is_leaf=is_hole)
        difference = path_difference(known, jax.tree_util.tree_map(lambda _: 0, found, is_leaf=is_hole))
        raise ValueError(f"the tree of the {wrong} is not the one at init; {difference}.") from None
