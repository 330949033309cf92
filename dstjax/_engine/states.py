"""The state of ``sparsify``, and the lists of masked leaves that a call works on."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import StoredMask
from dstjax._arrays.leaves import MaskedLeaves, named_masks, united
from dstjax._arrays.trees import Tree, is_absent, is_array, or_absent, or_none, places
from dstjax.checks import check_choice
from dstjax.rules import Memory

TRACKABLE = ("exploration", "survival", "error")


def names_of(track: Any) -> tuple[str, ...]:
    """What ``track=`` names.

    Raises:
      ValueError: it names what is not tracked, or is no name at all.
    """
    if not isinstance(track, Iterable):
        raise ValueError(f"track={track!r} is not accepted; expected some of {', '.join(TRACKABLE)}, or () for none.")
    names = (track,) if isinstance(track, str) else tuple(track)
    for name in names:
        check_choice("track", name, TRACKABLE)
    return names


class Tracked(NamedTuple):
    """What the metrics need from the last mask update; a field is ``()`` unless ``track=`` asked for it."""

    ever: Tree = ()  # stored masks: weights that have been active at least once
    grown: Tree = ()  # stored masks: weights that the last update grew
    n_grown: Any = ()  # int32[leaves]: weights that the update before the last grew
    n_survived: Any = ()  # int32[leaves]: those of them that the drop of the last update left
    error: Any = ()  # float32[]: mask-incurred error of the last update


class SparseState(NamedTuple):
    """State of :func:`dstjax.sparsify`. Its tree, shapes and dtypes never change after init.

    It has leaves for masked leaves alone, and no None: a tree in it is like the parameters, with an
    ``optax.MaskedNode()`` in the place of each dense leaf, and what a method does not need is ``()``.
    """

    step: jax.Array  # int32[]: calls of update so far, saturating
    masks: Tree  # stored masks, one bit per weight
    counters: Tree  # unsigned integers, saturating: mask rounds in which each weight was active
    targets: Any  # int32[masked layers]: active weights when all is done, in the order of the tree
    key: jax.Array  # uint32[2]: data of the threefry key that all random choices derive from
    tracked: Any  # Tracked
    memory: Any  # Memory: what the method remembers besides
    promise: Any  # keys without leaves: the method and what it promises, to tell a state of another one
    view: Any  # of dstjax.views, where dense weights stand behind the masks
    inner_state: Any  # the last field, where those look who look for it by place

    @property
    def hyperparams(self) -> dict[str, Any]:
        """Those of the inner optimiser, where ``optax.inject_hyperparams`` made it.

        Raises:
          AttributeError: it has none.
        """
        found = getattr(self.inner_state, "hyperparams", None)
        if found is None:
            raise AttributeError(
                f"the inner state, a {type(self.inner_state).__name__}, has no hyperparams; expected "
                "dstjax.sparsify(optax.inject_hyperparams(...)(...), method)."
            )
        return found


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


class SplitOff(NamedTuple):
    """Stands for the masks of a state that ``split_state`` has split; no leaves."""


def is_split(state: SparseState) -> bool:
    """Whether ``split_state`` has taken the masks out of a state."""
    return isinstance(state.masks, SplitOff)


def whole(state: SparseState) -> SparseState:
    """The state itself.

    Raises:
      ValueError: its masks were split off.
    """
    if is_split(state):
        raise ValueError("the state was split; call dstjax.merge_state first.")
    return state


def is_state(node: Any) -> bool:
    """Whether a node of a tree is a state of ``sparsify``."""
    return isinstance(node, SparseState)


def find(opt_state: Tree) -> SparseState:
    """The one sparse state inside any chained, wrapped or partitioned optimiser state.

    Raises:
      ValueError: there is none, or more than one.
    """
    found = _placed(opt_state)
    if len(found) > 1:
        raise ValueError(_too_many(found, "expected one"))
    return found[0][1]


def every(opt_state: Tree) -> list[SparseState]:
    """All whole sparse states inside an optimiser state, as one partitioned over several ``sparsify`` has them.

    Raises:
      ValueError: there is none, one was split, or two mask the same leaf, or leaves of different trees.
    """
    found = _placed(opt_state)
    states = [whole(state) for _, state in found]
    times = collections.Counter(name for state in states for name in named_masks(state.masks))
    if twice := sorted(name for name, n in times.items() if n > 1):
        raise ValueError(_too_many(found, f"both of which mask {', '.join(twice)}"))
    try:
        united([state.masks for state in states])
    except ValueError as error:
        raise ValueError(_too_many(found, f"and {error}")) from None
    return states


def batch_axes(state: SparseState) -> int:
    """How many leading axes ``vmap``, or a copy for each device, has added to a whole state."""
    return jnp.ndim(state.key) - 1


def refuse_several(opt_state: Tree, what: str) -> None:
    """Refuses a state that ``vmap`` has given leading axes; ``what`` to do with one network at a time.

    Raises:
      ValueError: it has some.
    """
    states = (x for x in jax.tree_util.tree_leaves(opt_state, is_leaf=is_state) if is_state(x))
    for axes in (batch_axes(state) for state in map(whole, states) if not is_absent(state.targets)):
        if axes:
            raise ValueError(
                f"the state has {axes} leading axes, as of several networks; {what} one at a time, as "
                "jax.tree.map(lambda x: x[0], ...) gives the first, of the state and of the parameters."
            )


def _placed(opt_state: Tree) -> list[tuple[str, SparseState]]:
    flat = jax.tree_util.tree_flatten_with_path(opt_state, is_leaf=is_state)[0]
    found = [(jax.tree_util.keystr(path), x) for path, x in flat if is_state(x)]
    if not found:
        raise ValueError(
            "found 0 states of dstjax.sparsify in the optimiser state, expected one; was it made by tx.init(params) "
            "with a dstjax.sparsify in tx, and a checkpoint restored into a target, as jax.eval_shape gives one?"
        )
    return found


def _too_many(found: list[tuple[str, SparseState]], why: str) -> str:
    return (
        f"found {len(found)} states of dstjax.sparsify in the optimiser state, {why}; pass the one of interest: "
        + " or ".join(f"opt_state{path}" for path, _ in found)
        + "."
    )


def holds_state(tree: Tree) -> bool:
    """Whether a tree holds a state of ``sparsify``."""
    return any(is_state(x) for x in jax.tree_util.tree_leaves(tree, is_leaf=is_state))


def masks_of(opt_state_or_masks: Tree) -> Tree:
    """The stored masks of all states in a tree, or the boolean masks that it is.

    Raises:
      ValueError: it is neither.
    """
    if holds_state(opt_state_or_masks):
        return united([state.masks for state in every(opt_state_or_masks)])
    found = named_masks(opt_state_or_masks)
    for name, mask in found.items():  # bytes of ones and zeros could not be told from the bits that a state packs
        if not is_array(mask) or mask.dtype != jnp.bool_:
            kind = f"of {mask.dtype}" if is_array(mask) else f"a {type(mask).__name__}"
            raise ValueError(
                f"what is there for {name!r} is {kind}; expected an optimiser state of dstjax.sparsify, or a tree of "
                "boolean masks, as arrays: mask.astype(bool)."
            )
    if not found and not any(place.is_hole and place.path for place in places(opt_state_or_masks)[0]):
        raise ValueError(
            "there are no masks, and no state of dstjax.sparsify; expected its optimiser state, or a tree of boolean "
            "masks with None at dense leaves."
        )
    return opt_state_or_masks


def masks_in(opt_state_or_masks: Tree) -> Tree:
    """The stored masks of all states in a tree, or the masks that it is; it may have none.

    Raises:
      ValueError: it has arrays that are no masks.
    """
    some = holds_state(opt_state_or_masks) or named_masks(opt_state_or_masks)
    return masks_of(opt_state_or_masks) if some else opt_state_or_masks


def replaced(opt_state: Tree, new: SparseState) -> Tree:
    """An optimiser state with another sparse state in the place of its one."""
    return jax.tree_util.tree_map(lambda x: new if is_state(x) else x, opt_state, is_leaf=is_state)


def topology_of(state: SparseState) -> Topology:
    """The part of a state that mask updates change, as lists."""
    tracked = Tracked() if is_absent(state.tracked) else state.tracked
    memory = Memory() if is_absent(state.memory) else state.memory

    def read(tree: Tree) -> Any:
        return None if is_absent(tree) else jax.tree_util.tree_leaves(tree)

    return Topology(
        masks=jax.tree_util.tree_leaves(state.masks),
        counters=read(state.counters),
        ever=read(tracked.ever),
        grown=read(tracked.grown),
        n_grown=or_none(tracked.n_grown),
        n_survived=or_none(tracked.n_survived),
        error=or_none(tracked.error),
        second_mask=read(memory.second_mask),
        shared=or_none(memory.shared),
        measured=or_none(memory.measured),
    )


def with_topology(
    state: SparseState, leaves: MaskedLeaves, new: Topology, remembered: Sequence[Any] | None
) -> SparseState:
    """The state with another topology, and what the method remembers of each leaf; None: nothing."""

    def tree(masked: Sequence[Any] | None) -> Tree:
        return () if masked is None else leaves.tree(masked)

    tracked, memory = state.tracked, state.memory
    if not is_absent(tracked):
        numbers = map(or_absent, (new.n_grown, new.n_survived, new.error))
        tracked = Tracked(tree(new.ever), tree(new.grown), *numbers)
    if not is_absent(memory):
        memory = Memory(
            _by_part(leaves, remembered), tree(new.second_mask), or_absent(new.shared), or_absent(new.measured)
        )
    return state._replace(masks=tree(new.masks), counters=tree(new.counters), tracked=tracked, memory=memory)


def remembered_of(state: SparseState, leaves: MaskedLeaves) -> list[Any] | None:
    """What the method remembers of each masked leaf, None if nothing."""
    memory = state.memory
    if is_absent(memory) or is_absent(memory.leaves):
        return None
    like: Any = leaves.treedef
    is_part = lambda x: jax.tree_util.tree_structure(x) == like  # noqa: E731
    parts = jax.tree_util.tree_leaves(memory.leaves, is_leaf=is_part)
    whole: Any = jax.tree_util.tree_structure(memory.leaves, is_leaf=is_part)
    return [whole.unflatten(entry) for entry in zip(*map(leaves.read, parts), strict=True)]


def _by_part(leaves: MaskedLeaves, remembered: Sequence[Any] | None) -> Tree:
    """What is remembered as trees like the masks: of NamedTuples a tree for each part, so that a box holds an array."""
    if remembered is None:
        return ()
    if not remembered:
        return leaves.tree([])
    whole: Any = jax.tree_util.tree_structure(remembered[0])
    parts = zip(*map(jax.tree_util.tree_leaves, remembered), strict=True)
    return whole.unflatten([leaves.tree(part) for part in parts])
