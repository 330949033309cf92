"""The state of ``sparsify``: found in any optimiser state, read, replaced, checked, summarised."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import masks as masks_lib
from dstjax._arrays.trees import Tree, is_hole, path_name
from dstjax._engine.moments import map_moments
from dstjax.rules import Memory
from dstjax.views import straight_through


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


def find(opt_state: Tree) -> SparseState:
    """The one sparse state inside any chained, wrapped or partitioned optimiser state.

    Raises:
      ValueError: there is none, or more than one.
    """
    leaves = jax.tree_util.tree_leaves(opt_state, is_leaf=lambda x: isinstance(x, SparseState))
    states = [x for x in leaves if isinstance(x, SparseState)]
    if len(states) != 1:
        raise ValueError(
            f"found {len(states)} states of dstjax.sparsify in the optimiser state, expected one; "
            + ("pass the one of interest." if states else "was tx.init(params) made by dstjax.sparsify?")
        )
    return states[0]


def replaced(opt_state: Tree, new: SparseState) -> Tree:
    """An optimiser state with another sparse state in the place of its one."""
    is_state = lambda x: isinstance(x, SparseState)  # noqa: E731
    return jax.tree_util.tree_map(lambda x: new if is_state(x) else x, opt_state, is_leaf=is_state)


def get_masks(opt_state: Tree) -> Tree:
    """The masks: a tree like the parameters, of boolean arrays, ``None`` at dense leaves.

    Args:
      opt_state: the state of ``sparsify``, wherever it is chained or wrapped.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one.
    """
    return _unpacked(find(opt_state).masks)


def apply_masks(params: Tree, opt_state_or_masks: Tree) -> Tree:
    """Sets the inactive weights to exactly zero: the start of sparse training.

    Args:
      params: the parameters.
      opt_state_or_masks: an optimiser state, or a tree of masks as :func:`get_masks` returns it. With the state of a
        method that keeps dense weights behind its masks the parameters are returned as they are, since it needs them:
        :func:`forward_params` is the sparse view.

    Raises:
      ValueError: a mask does not fit its weight.
    """
    if _has_view(opt_state_or_masks):
        return params
    return masks_lib.apply(params, _masks_of(opt_state_or_masks))


def forward_params(params: Tree, opt_state: Tree, *, training: bool = True) -> Tree:
    """What the forward pass must see.

    The parameters themselves where the method keeps them sparse. Where dense weights stand behind the masks (IEE, DPF,
    Top-KAST, SR-STE, STR, ...) the sparse view of them. Its derivative is the identity, so it may be called inside the
    function that is differentiated or before: either way ``update`` gets the gradient with respect to what the forward
    pass saw, and applies the rule of the method.

    Args:
      params: the parameters.
      opt_state: the state of ``sparsify``, wherever it is chained or wrapped.
      training: False for evaluation and deployment: always exactly sparse, where a training step may see more (the
        explore phase of IEE sees all weights).

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one, or the parameters do not fit it.
    """
    state = find(opt_state)
    if state.view is None:
        return params
    order = [n for n, m in masks_lib.by_name(state.masks).items() if m is not None]
    found = masks_lib.by_name(state.masks)
    seen = set()

    def one(path: tuple[Any, ...], weight: Any) -> Any:
        name = path_name(path)
        stored = found.get(name)
        if stored is None:
            return weight
        seen.add(name)
        mask = masks_lib.unpack(stored)
        if mask.shape != jnp.shape(weight):
            raise ValueError(f"the parameter {name!r} has shape {jnp.shape(weight)}; expected {mask.shape} as at init.")
        return straight_through(state.view.of(weight, mask, order.index(name), training), weight)

    viewed = jax.tree_util.tree_map_with_path(one, params)
    if lost := sorted({*order} - seen):
        raise ValueError(f"no parameter has the path of these masks: {', '.join(lost)}.")
    return viewed


def is_exploring(opt_state: Tree) -> jax.Array:
    """Whether the next step sees weights that are not active, bool[]: the explore phase of IEE, False elsewhere.

    Running statistics of the forward pass should not be updated in such a step.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one.
    """
    view = find(opt_state).view
    return jnp.asarray(getattr(view, "exploring", False))


def set_masks(opt_state: Tree, masks: Tree) -> Tree:
    """Replaces the masks, for a transplant or a mask of one's own.

    Counters start again from the new mask, moments of inactive weights become zero, and what was active before still
    counts as explored. The parameters are not touched: call :func:`apply_masks` after.

    Args:
      opt_state: the state to change, wherever it is chained or wrapped.
      masks: tree of boolean arrays with ``None`` at the same leaves as :func:`get_masks`.

    Raises:
      ValueError: another tree, shape or dtype, or a mask without an active weight.
    """
    old = find(opt_state)
    treedef: Any
    flat, treedef = jax.tree_util.tree_flatten_with_path(old.masks, is_leaf=is_hole)
    new = masks_lib.by_name(masks)
    names = [path_name(path) for path, _ in flat]
    masked = {n for n, (_, m) in zip(names, flat, strict=True) if not is_hole(m)}
    given = {n for n, m in new.items() if m is not None}
    if masked != given:
        raise ValueError(
            f"masks for {sorted(given - masked)} are unexpected and for {sorted(masked - given)} missing; expected the "
            "leaves that get_masks returns, None elsewhere."
        )
    flags = {n: _checked(n, new[n], m) for n, (_, m) in zip(names, flat, strict=True) if n in masked}

    def rebuild(tree: Tree, convert: Any) -> Tree:
        leaves = jax.tree_util.tree_leaves(tree, is_leaf=is_hole)
        return treedef.unflatten(
            [x if is_hole(x) else convert(flags[n], x) for n, x in zip(names, leaves, strict=True)]
        )

    stored = rebuild(old.masks, lambda f, m: masks_lib.pack_like(f, m.dtype))
    counters = None if old.counters is None else rebuild(old.counters, lambda f, c: f.astype(c.dtype))
    tracked = old.tracked
    if tracked is not None and tracked.ever is not None:
        ever = rebuild(tracked.ever, lambda f, e: masks_lib.pack_like(f | masks_lib.unpack(e), e.dtype))
        tracked = tracked._replace(ever=ever)
    shapes = {n: flags[n].shape if n in flags else None for n in names}
    inner = old.inner_state
    if old.view is None:
        inner = map_moments(lambda n, x: jnp.where(flags[n], x, jnp.zeros((), x.dtype)), shapes, inner)
    return replaced(opt_state, old._replace(masks=stored, counters=counters, tracked=tracked, inner_state=inner))


def check_sparse(params: Tree, opt_state_or_masks: Tree) -> bool:
    """Finds out whether every inactive weight is exactly zero.

    Something that rescales, adds to or bypasses the updates after ``sparsify`` breaks this; see its docstring. Of a
    method that keeps dense weights behind its masks the view for evaluation is checked.

    Returns:
      True, so that it can stand in an ``assert``.

    Raises:
      ValueError: an inactive weight is not zero; names the leaves and how many.
    """
    if _has_view(opt_state_or_masks):
        params = forward_params(params, opt_state_or_masks, training=False)
    masks = masks_lib.by_name(_masks_of(opt_state_or_masks))
    bad, total = [], 0
    seen = set()
    for path, weight in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = path_name(path)
        mask = masks.get(name)
        if mask is None:
            continue
        seen.add(name)
        total += np.size(weight)
        wrong = int(jnp.sum((weight != 0) & ~masks_lib.unpack(mask), dtype=jnp.uint32))
        if wrong:
            bad.append(f"{name}: {wrong} of {np.size(weight)}")
    lost = {n for n, m in masks.items() if m is not None} - seen
    if lost:
        raise ValueError(f"no weight has the path of these masks: {', '.join(sorted(lost))}.")
    if bad:
        raise ValueError(
            "inactive weights are not zero: " + "; ".join(bad) + ". Apply the masks before the first step "
            "(dstjax.apply_masks), and let nothing change the updates after dstjax.sparsify."
        )
    return True


def _has_view(opt_state_or_masks: Tree) -> bool:
    leaves = jax.tree_util.tree_leaves(opt_state_or_masks, is_leaf=lambda x: isinstance(x, SparseState))
    return any(isinstance(x, SparseState) and x.view is not None for x in leaves)


def _masks_of(opt_state_or_masks: Tree) -> Tree:
    leaves = jax.tree_util.tree_leaves(opt_state_or_masks, is_leaf=lambda x: isinstance(x, SparseState))
    if any(isinstance(x, SparseState) for x in leaves):
        return find(opt_state_or_masks).masks
    flat = jax.tree_util.tree_leaves(opt_state_or_masks, is_leaf=is_hole)
    if any(not is_hole(m) and jnp.result_type(m) != jnp.bool_ for m in flat):
        raise ValueError("expected an optimiser state of dstjax.sparsify, or a tree of boolean masks.")
    return opt_state_or_masks


def _unpacked(masks: Tree) -> Tree:
    return jax.tree_util.tree_map(lambda m: None if is_hole(m) else masks_lib.unpack(m), masks, is_leaf=is_hole)


def _checked(name: str, new: Any, stored: Any) -> jax.Array:
    flags = jnp.asarray(new)
    shape = masks_lib.shape(stored)
    if jnp.result_type(flags) != jnp.bool_ or jnp.shape(flags) != shape:
        raise ValueError(
            f"the mask for {name!r} has shape {jnp.shape(flags)} and dtype {jnp.result_type(flags)}; expected {shape} "
            "and bool."
        )
    if not isinstance(flags, jax.core.Tracer) and not np.any(np.asarray(flags)):
        raise ValueError(f"the mask for {name!r} has no active weight; expected at least one.")
    return jnp.array(flags)
