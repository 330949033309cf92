"""The state of ``sparsify``, and the lists of masked leaves that a call works on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import StoredMask
from dstjax._arrays.leaves import MaskedLeaves, named
from dstjax._arrays.trees import Tree
from dstjax.rules import Memory


class Tracked(NamedTuple):
    """What the metrics need from the last mask update; a field is None unless it was asked for with ``track=``."""

    ever: Tree | None  # stored masks: weights that have been active at least once
    grown: Tree | None  # stored masks: weights that the last update grew
    n_grown: jax.Array | None  # int32[leaves]: weights that the update before the last grew
    n_survived: jax.Array | None  # int32[leaves]: those of them that the drop of the last update left
    error: jax.Array | None  # float32[]: mask-incurred error of the last update


class SparseState(NamedTuple):
    """State of :func:`dstjax.sparsify`. Its tree, shapes and dtypes never change after init."""

    step: jax.Array  # int32[]: calls of update so far, saturating
    masks: Tree  # stored masks, one bit per weight; None at dense leaves
    counters: Tree | None  # unsigned integers, saturating: mask rounds in which each weight was active
    targets: jax.Array  # int32[masked leaves]: active weights at init, in the order of the tree
    key: jax.Array  # uint32[2]: data of the threefry key that all random choices derive from
    tracked: Tracked | None
    memory: Memory | None  # what the method remembers besides
    view: Any  # of dstjax.views where dense weights stand behind the masks, else None
    inner_state: Any


class Topology(NamedTuple):
    """Everything that a mask update changes, for the masked leaves in order. Never weights, never moments."""

    masks: list[StoredMask]
    counters: list[jax.Array] | None
    ever: list[StoredMask] | None
    grown: list[StoredMask] | None
    n_grown: jax.Array | None
    n_survived: jax.Array | None
    error: jax.Array | None
    second_mask: list[StoredMask] | None
    shared: Any  # small arrays that the method remembers
    measured: Any


def is_state(node: Any) -> bool:
    """Whether a node of a tree is a state of ``sparsify``."""
    return isinstance(node, SparseState)


def find(opt_state: Tree) -> SparseState:
    """The one sparse state inside any chained, wrapped or partitioned optimiser state.

    Raises:
      ValueError: there is none, or more than one.
    """
    states = [x for x in jax.tree_util.tree_leaves(opt_state, is_leaf=is_state) if is_state(x)]
    if len(states) != 1:
        raise ValueError(
            f"found {len(states)} states of dstjax.sparsify in the optimiser state, expected one; "
            + ("pass the one of interest." if states else "was tx.init(params) made by dstjax.sparsify?")
        )
    return states[0]


def holds_state(tree: Tree) -> bool:
    """Whether a tree holds a state of ``sparsify``."""
    return any(is_state(x) for x in jax.tree_util.tree_leaves(tree, is_leaf=is_state))


def masks_of(opt_state_or_masks: Tree, *, packed: bool = False) -> Tree:
    """The stored masks of a state, or the tree of boolean masks itself, which may be ``packed`` as in a state.

    Raises:
      ValueError: it is neither.
    """
    if holds_state(opt_state_or_masks):
        return find(opt_state_or_masks).masks
    accepted = (jnp.bool_, jnp.uint8, jnp.int8) if packed else (jnp.bool_,)
    if any(jnp.result_type(mask) not in accepted for mask in named(opt_state_or_masks).values()):
        raise ValueError("expected an optimiser state of dstjax.sparsify, or a tree of boolean masks.")
    return opt_state_or_masks


def replaced(opt_state: Tree, new: SparseState) -> Tree:
    """An optimiser state with another sparse state in the place of its one."""
    return jax.tree_util.tree_map(lambda x: new if is_state(x) else x, opt_state, is_leaf=is_state)


def topology_of(state: SparseState, leaves: MaskedLeaves) -> Topology:
    """The part of a state that mask updates change, as lists."""
    tracked = state.tracked or Tracked(None, None, None, None, None)
    memory = state.memory or Memory()

    def read(tree: Tree | None) -> Any:
        return None if tree is None else leaves.read(tree)

    return Topology(
        masks=leaves.read(state.masks),
        counters=read(state.counters),
        ever=read(tracked.ever),
        grown=read(tracked.grown),
        n_grown=tracked.n_grown,
        n_survived=tracked.n_survived,
        error=tracked.error,
        second_mask=read(memory.second_mask),
        shared=memory.shared,
        measured=memory.measured,
    )


def with_topology(state: SparseState, leaves: MaskedLeaves, new: Topology, remembered: Sequence[Any]) -> SparseState:
    """The state with another topology, and what the method remembers of each leaf."""

    def tree(masked: Sequence[Any] | None) -> Tree | None:
        return None if masked is None else leaves.tree(masked)

    tracked, memory = state.tracked, state.memory
    if tracked is not None:
        tracked = Tracked(tree(new.ever), tree(new.grown), new.n_grown, new.n_survived, new.error)
    if memory is not None:
        kept = None if memory.leaves is None else leaves.tree(remembered)
        memory = Memory(kept, tree(new.second_mask), new.shared, new.measured)
    return state._replace(masks=tree(new.masks), counters=tree(new.counters), tracked=tracked, memory=memory)
