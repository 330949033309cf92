"""Cuts parameters, and whatever is like them, to a smaller network; and puts them back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import masks as masks_lib
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import MaskedLeaves, named
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import Path, Tree, is_absent, is_array, is_traced, places
from dstjax._engine.states import SparseState, is_state, refuse_several, whole

_BY_THRESHOLD = "method=str"  # the one that starts dense and prunes to no number
Keep = tuple[np.ndarray, ...]  # of a leaf: which indices of each axis stay, bool


@dataclasses.dataclass(frozen=True, eq=False)
class Cuts:
    """Says what of each leaf stays, and which constants were added to it."""

    keep: Mapping[Path, Keep]
    added: Mapping[Path, np.ndarray]
    prefix: int  # how many keys of a path the masks and the optimiser do not have
    layouts: Mapping[Path, Layout | None]

    def cut(self, params: Tree) -> Tree:
        """Returns the smaller parameters: without what is removed, and with its constants added to biases."""

        def one(path: Path, x: Any) -> Any:
            if path in self.added:
                x = jnp.asarray(x) + jnp.asarray(self.added[path], x.dtype)
            return _cut(x, self.keep[path])

        return self._map(one, params, "parameters", smaller=False)

    def expand(self, params: Tree, like: Tree) -> Tree:
        """Undoes :meth:`cut`: what was removed comes from ``like``, and its constants are subtracted again."""
        before = {p.path: p.leaf for p in places(like)[0] if not p.is_hole}

        def one(path: Path, x: Any) -> Any:
            if path in self.added:
                x = x - _cut(jnp.asarray(self.added[path], x.dtype), self.keep[path])
            return _put(before[path], x, self.keep[path])

        self._map(lambda path, x: x, like, "full parameters", smaller=False)
        return self._map(one, params, "parameters", smaller=True)

    def cut_state(self, state: Tree) -> Tree:
        """Returns masks, gradients or the state of an optimiser as they are in the smaller network.

        Arrays are found by structure: those whose path ends with the path of a leaf and that have its shape, or that
        but for axes of length one; stored masks too. All else stays, but the numbers of weights that ``sparsify`` keeps
        active: they are less by those that were removed.

        Raises:
          ValueError: an array that has an axis of a leaf in another way, as the sums of rows that adafactor keeps; or
            a method that prunes has more active weights than it ends with, whose ramp is that of the full network.
        """
        refuse_several(state, "cut")
        _refuse_unfinished(state)
        shapes = self._named(lambda keep: tuple(len(k) for k in keep))
        keeps = self._named(lambda keep: keep)
        lost = {path: {len(k) for k in keep if not k.all()} for path, keep in keeps.items()}

        def one(path: Path, x: Any) -> Any:
            of = owner(path, x, shapes, spans=True)
            if of is None:
                refuse_other(path, x, shapes, lost)
                return x
            return changed(x, shapes[of], lambda y: _cut(y, _along(keeps[of], y)))

        return _with_targets(mapped(one, state), state, self)

    def expand_state(self, state: Tree, like: Tree) -> Tree:
        """Undoes :meth:`cut_state`: what was removed comes from ``like``, the state or masks of the full network."""
        refuse_several(state, "cut")
        shapes = self._named(lambda keep: tuple(int(k.sum()) for k in keep))
        full, keeps = self._named(lambda keep: tuple(len(k) for k in keep)), self._named(lambda keep: keep)
        before = {p.path: p.leaf for p in places(like)[0] if not p.is_hole}

        def one(path: Path, x: Any) -> Any:
            of = owner(path, x, shapes, spans=True)
            old = before.get(path)
            if of is None or old is None or owner(path, old, full, spans=True) != of:
                return x
            flags = x if _spans(x, shapes[of]) else masks_lib.unpack(x)
            return changed(old, full[of], lambda y: _put(y, flags, _along(keeps[of], y)))

        return _with_targets(mapped(one, state), state, self)

    def _named(self, of: Callable[[Keep], Any]) -> dict[Path, Any]:
        """Returns something by path, and by what an optimiser sees of the path."""
        found = {path: of(keep) for path, keep in self.keep.items()}
        return found | {path[self.prefix :]: x for path, x in found.items() if self.prefix}

    def _map(self, change: Callable[[Path, Any], Any], params: Tree, what: str, *, smaller: bool) -> Tree:
        found, treedef = places(params)
        nodes = []
        for place in found:
            if place.is_hole:
                nodes.append(place.node)
                continue
            if place.path not in self.keep:
                raise ValueError(f"the {what} have a leaf {place.name!r}, which the network did not have.")
            shape = tuple(int(k.sum()) if smaller else len(k) for k in self.keep[place.path])
            if np.shape(place.leaf) != shape:
                raise ValueError(
                    f"leaf {place.name!r} of the {what} has shape {np.shape(place.leaf)}; expected {shape}."
                )
            nodes.append(place.holding(change(place.path, place.leaf)))
        return treedef.unflatten(nodes)


def owner(path: Path, leaf: Any, shapes: Mapping[Path, tuple[int, ...]], *, spans: bool = False) -> Path | None:
    """Returns the path of the leaf that an array is like, the longest one that is the end of its own path.

    With ``spans`` axes of the array may be of length one.
    """
    if not is_array(leaf):
        return None
    for ending in (path[i:] for i in range(len(path) + 1)):
        shape = shapes.get(ending)
        if shape and (shape in (tuple(leaf.shape), _stored(leaf)) or (spans and _spans(leaf, shape))):
            return ending
    return None


def _spans(leaf: Any, shape: tuple[int, ...]) -> bool:
    """Whether an array has a shape, or that but for axes of length one, as what is kept of each channel."""
    same = leaf.ndim == len(shape) and all(n in (1, m) for n, m in zip(leaf.shape, shape, strict=True))
    return same and (tuple(leaf.shape) == shape or _stored(leaf) is None)


def _along(keep: Keep, x: Any) -> Keep:
    """Returns which indices of an array stay that has the axes of a leaf, or axes of length one in their place."""
    return tuple(some if n == len(some) else np.ones(n, bool) for some, n in zip(keep, x.shape, strict=True))


def refuse_other(path: Path, x: Any, shapes: Mapping[Path, tuple[int, ...]], lost: Mapping[Path, set[int]]) -> None:
    """Refuses an array that is of a leaf and has an axis of a length that the leaf loses, but not its shape."""
    if not is_array(x):
        return
    lengths = range(len(path), 0, -1)
    parts = (path[i : i + n] for n in lengths for i in range(len(path) - n + 1))
    of = next((part for part in parts if part in shapes), None)
    if of is not None and lost[of] & {*x.shape}:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(
            f"the state has an array {name!r} of shape {tuple(x.shape)}, which is of a leaf of shape {shapes[of]} in a "
            "way that is not known, as the sums of rows and columns of adafactor; expected an optimiser whose arrays "
            "have the shapes of the parameters, or a new state of the smaller network."
        )


def _stored(leaf: Any) -> tuple[int, ...] | None:
    return masks_lib.shape(leaf) if leaf.dtype in (jnp.uint8, jnp.int8) and leaf.ndim else None


def changed(x: Any, shape: tuple[int, ...], change: Callable[[Any], Any]) -> Any:
    """Changes an array of this shape, or but for axes of length one, or the mask of this shape that it stores."""
    return change(x) if _spans(x, shape) else masks_lib.pack(change(masks_lib.unpack(x)))


def mapped(change: Callable[[Path, Any], Any], tree: Tree) -> Tree:
    """Changes the leaves of a tree, boxes and holes left as they are."""
    found, treedef = places(tree)
    return treedef.unflatten([p.node if p.is_hole else p.holding(change(p.path, p.leaf)) for p in found])


def _cut(x: Any, keep: Keep) -> Any:
    for axis, some in enumerate(keep):
        if not some.all():
            x = jnp.take(jnp.asarray(x), np.flatnonzero(some), axis=axis)
    return x


def _put(x: Any, part: Any, keep: Keep) -> jax.Array:
    """Returns an array with a part of it replaced."""
    at = np.ix_(*(np.flatnonzero(some) for some in keep))
    return jnp.asarray(x).at[at].set(part) if keep else jnp.asarray(part)


def _refuse_unfinished(state: Tree) -> None:
    """Refuses a method amid its ramp: what it has still to prune would all be taken from what is left."""
    states = (x for x in jax.tree_util.tree_leaves(state, is_leaf=is_state) if is_state(x))
    for one in states:
        ramps = any(fact.startswith("initial_sparsity=") for fact in one.promise) and _BY_THRESHOLD not in one.promise
        if not ramps or is_absent(one.targets) or is_traced(one.targets):
            continue
        active = sum(masks_lib.count_active(one).values())
        if active > (asked := int(np.sum(np.asarray(one.targets), dtype=np.int64))):
            raise ValueError(
                f"the method has {active:,} active weights and prunes to {asked:,}: its schedule counts in those of "
                "the full network. Make the network smaller after its last mask update."
            )


def _with_targets(new: Tree, old: Tree, cuts: Cuts) -> Tree:
    """Corrects the numbers of weights that are to be active by those that were removed, or that came back."""
    before = [x for x in jax.tree_util.tree_leaves(old, is_leaf=is_state) if is_state(x)]
    states = iter(before)

    def one(state: Any) -> Any:
        if not is_state(state):
            return state
        was: SparseState = whole(next(states))
        if is_absent(was.targets):  # masks nothing
            return state
        difference = _active(state, cuts) - _active(was, cuts)
        return state._replace(targets=was.targets + difference)

    return jax.tree_util.tree_map(one, new, is_leaf=is_state)


def _active(state: SparseState, cuts: Cuts) -> jax.Array:
    """Counts the active weights of each layer of a state."""
    leaves = MaskedLeaves.of(state.masks)
    layouts = {path[cuts.prefix :]: layout for path, layout in cuts.layouts.items()}
    found = tuple(layouts.get(path) for path in leaves.pick(leaves.paths))
    counted = count_true(leaves.read(state.masks), found)
    if counted.shape == state.targets.shape:
        return counted
    return count_true(leaves.read(state.masks))


def prefix_of(masks: Tree, params: Tree) -> int:
    """Returns how many keys the leaves of the parameters have before those of their masks.

    The variables of Flax hold the parameters, which alone are masked, beside running statistics.

    Raises:
      ValueError: the masks have a leaf that the parameters do not have.
    """
    have = [p.path for p in places(params)[0] if not p.is_hole]
    want = MaskedLeaves.of(masks)
    paths = want.pick(want.paths)
    lengths = (
        sorted({len(h) - len(paths[0]) for h in have if h[len(h) - len(paths[0]) :] == paths[0]}) if paths else [0]
    )
    for length in lengths:
        heads = {h[:length] for h in have if len(h) > length}
        if any(all((*head, *p) in have for p in paths) for head in heads or {()}):
            return max(0, length)
    lost = [n for n, p in zip(want.masked, paths, strict=True) if not any(h[len(h) - len(p) :] == p for h in have)]
    raise ValueError(
        f"the masks have {', '.join(lost or want.masked)}, which the parameters do not have: "
        f"{', '.join(named(params))}. Expected the masks, or the optimiser state, of this network."
    )
