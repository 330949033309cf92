"""Helpers for the state of ``sparsify``, wherever it is chained or wrapped: read, replace and check its masks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import masks as masks_lib
from dstjax._arrays.bits import pack_like, unpack
from dstjax._arrays.leaves import MaskedLeaves, named_masks, shown, united
from dstjax._arrays.trees import Tree, is_absent
from dstjax._arrays.wide import Wide, counted
from dstjax._engine.moments import map_moments, shapes_of
from dstjax._engine.states import SparseState as SparseState
from dstjax._engine.states import Tracked as Tracked
from dstjax._engine.states import (
    batch_axes,
    every,
    find,
    holds_state,
    masks_of,
    remembered_of,
    replaced,
    topology_of,
    whole,
    with_topology,
)
from dstjax.views import Masked, straight_through


def get_masks(opt_state: Tree) -> Tree:
    """The masks: a tree like the parameters, of boolean arrays, ``None`` at dense leaves.

    Args:
      opt_state: the state of ``sparsify``, wherever it is chained or wrapped. Where the parameters are partitioned over
        several ``sparsify`` these are the masks of all of them. The masks of a replicated or vmapped state have its
        leading axes.

    Raises:
      ValueError: there is no state of ``sparsify``, or two mask the same leaf.
    """
    return shown(united([state.masks for state in every(opt_state)]), unpack)


def apply_masks(params: Tree, opt_state_or_masks: Tree) -> Tree:
    """Sets the inactive weights to exactly zero: the start of sparse training.

    Args:
      params: the parameters.
      opt_state_or_masks: an optimiser state, with one ``sparsify`` in it or several, or a tree of masks as
        :func:`get_masks` returns it. With the state of a method that keeps dense weights behind its masks the
        parameters are returned as they are, since it needs them: ``forward_params(..., training=False)`` is the sparse
        view, of an average of the parameters too.

    Raises:
      ValueError: a mask does not fit its weight.
    """
    if not holds_state(opt_state_or_masks):
        return masks_lib.apply(params, masks_of(opt_state_or_masks))
    for state in every(opt_state_or_masks):
        params = masks_lib.apply(params, state.masks) if is_absent(state.view) else params
    return params


def forward_params(params: Tree, opt_state: Tree, *, training: bool = True) -> Tree:
    """What the forward pass must see.

    The parameters themselves where the method keeps them sparse. Where dense weights stand behind the masks (IEE, DPF,
    Top-KAST, SR-STE, STR, ...) the sparse view of them. Its derivative is the identity, so it may be called inside the
    function that is differentiated or before: either way ``update`` gets the gradient with respect to what the forward
    pass saw, and applies the rule of the method.

    Args:
      params: the parameters.
      opt_state: the state of ``sparsify``, wherever it is chained or wrapped; or of several, with or without views,
        over which the parameters are partitioned. A replicated or vmapped state goes with parameters that are.
      training: False for evaluation and deployment: always exactly sparse, where a training step may see more (the
        explore phase of IEE sees all weights), and whatever the parameters are: an average of them over mask updates,
        which is denser than the masks, comes out sparse with every method.

    Raises:
      ValueError: there is no state of ``sparsify``, or two mask the same leaf; or, where something is done to the
        parameters (there is a view, or ``training=False``), they do not fit it.
    """
    for state in every(opt_state):
        if not is_absent(state.view):
            params = _view_of(params, state, state.view, training)
        elif not training:
            params = _view_of(params, state, Masked(), training)
    return params


def is_exploring(opt_state: Tree) -> jax.Array:
    """Whether the next step sees weights that are not active, bool[]: the explore phase of IEE, False elsewhere.

    Running statistics of the forward pass should not be updated in such a step.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one.
    """
    view: Any = find(opt_state).view
    return view.exploring if hasattr(view, "exploring") else _false()


def set_masks(opt_state: Tree, masks: Tree) -> Tree:
    """Replaces the masks, for a transplant or a mask of one's own.

    Counters start again, at 1 where a weight is or was active, so that this still counts as explored, and moments of
    inactive weights become zero. The parameters are not touched: call :func:`apply_masks` after. The state does not
    know the structure of its method: masks that are to keep one are checked by ``sparsify(..., initial_masks=masks)``.

    Args:
      opt_state: the state to change, wherever it is chained or wrapped.
      masks: tree of boolean arrays at the same leaves as :func:`get_masks`, ``None`` elsewhere.

    Raises:
      ValueError: another tree, shape or dtype, or a mask without an active weight.
    """
    old = whole(find(opt_state))
    leaves = MaskedLeaves.of(old.masks)
    stored = leaves.read(old.masks)
    found = leaves.check_masks(named_masks(masks), "masks", [masks_lib.shape(m) for m in stored])
    flags = [jax.device_put(mask) if isinstance(mask, np.ndarray) else mask for mask in found]
    topology = topology_of(old)
    topology = topology._replace(masks=[_packed(f, like=m) for f, m in zip(flags, stored, strict=True)])
    if topology.counters is not None:
        counters = [_counted(f, c) for f, c in zip(flags, topology.counters, strict=True)]
        topology = topology._replace(counters=counters)
    if topology.ever is not None:
        ever = [_united(f, e) for f, e in zip(flags, topology.ever, strict=True)]
        topology = topology._replace(ever=ever)
    new = with_topology(old, leaves, topology, remembered_of(old, leaves))
    if is_absent(old.view):
        by_path = leaves.by_path(topology.masks)
        inner = map_moments(lambda p, x: masks_lib.apply(x, by_path[p]), shapes_of(old.masks), old.inner_state)
        new = new._replace(inner_state=inner)
    return replaced(opt_state, new)


def check_sparse(params: Tree, opt_state_or_masks: Tree) -> bool:
    """Finds out whether every inactive weight is exactly zero.

    Something that rescales, adds to or bypasses the updates after ``sparsify`` breaks this; see its docstring.

    Of a method that keeps dense weights behind its masks (IEE, DPF, Top-KAST, SR-STE, STR, ...) the parameters are
    dense and stay so: what is checked is ``forward_params(params, opt_state, training=False)``, which is sparse
    whatever the loop does. Whether the loop took its gradients there, or at ``params``, which trains a dense network,
    cannot be seen from parameters and state; ``init`` logs a warning that says where they must be taken.

    Returns:
      True, so that it can stand in an ``assert``.

    Raises:
      ValueError: an inactive weight is not zero, or not finite, which is counted apart; names the leaves.
    """
    for state in every(opt_state_or_masks) if holds_state(opt_state_or_masks) else ():
        params = params if is_absent(state.view) else _view_of(params, state, state.view, training=False)
    masks = masks_of(opt_state_or_masks)
    leaves = MaskedLeaves.of(masks)
    weights = leaves.find(params, "parameters", [masks_lib.shape(mask) for mask in leaves.read(masks)])
    strays = [_strays(weight, mask) for weight, mask in zip(weights, leaves.read(masks), strict=True)]
    found = list(zip(leaves.masked, jax.device_get(strays), weights, strict=True))
    lost = [f"{name}: {int(n.lost)} of {np.size(weight)}" for name, n, weight in found if int(n.lost)]
    if lost:
        raise ValueError(
            f"inactive weights are not finite: {'; '.join(lost)}, beside {sum(int(n.active) for _, n, _ in found)} "
            f"active ones that are not and {sum(int(n.nonzero) for _, n, _ in found)} inactive ones that are finite "
            "and not zero. No update brings them back to 0: dstjax.apply_masks(params, opt_state) does, and "
            "dstjax.sparsify(..., on_nonfinite='skip') keeps gradients that are not finite out."
        )
    bad = [f"{name}: {int(n.nonzero)} of {np.size(weight)}" for name, n, weight in found if int(n.nonzero)]
    if bad:
        raise ValueError(
            "inactive weights are not zero: " + "; ".join(bad) + ". Apply the masks before the first step "
            "(dstjax.apply_masks), and let nothing change the updates after dstjax.sparsify. An average of the "
            "parameters over mask updates is denser than the masks; dstjax.forward_params(average, opt_state, "
            "training=False) is the sparse one."
        )
    return True


def _view_of(params: Tree, state: SparseState, view: Any, training: bool) -> Tree:
    """The parameters with a view of the leaves that a whole state masks."""
    leaves = MaskedLeaves.of(state.masks)
    stored, axes = leaves.read(state.masks), batch_axes(state)

    def viewed(i: int, weight: jax.Array) -> jax.Array:
        return _viewed(view, weight, stored[i], i, training, axes)

    return leaves.map(viewed, params, "parameters", [masks_lib.shape(mask) for mask in stored])


# Compiled, so that no constant goes from the host to the device: jax_transfer_guard would refuse it.


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _viewed(view: Any, weight: jax.Array, mask: jax.Array, index: int, training: bool, axes: int) -> jax.Array:
    def of_one(view: Any, weight: jax.Array, mask: jax.Array) -> jax.Array:
        return straight_through(view.of(weight, unpack(mask), index, training), weight)

    for _ in range(axes):
        of_one = jax.vmap(of_one)
    return of_one(view, weight, mask)


@jax.jit
def _false() -> jax.Array:
    return jnp.zeros((), bool)


@jax.jit
def _packed(mask: jax.Array, like: jax.Array) -> jax.Array:
    return pack_like(jnp.array(mask), like.dtype)  # a copy: the state must not be donated with a caller's array


@jax.jit
def _counted(mask: jax.Array, counter: jax.Array) -> jax.Array:
    return (mask | (counter > 0)).astype(counter.dtype)


@jax.jit
def _united(mask: jax.Array, ever: jax.Array) -> jax.Array:
    return pack_like(mask | unpack(ever), ever.dtype)


class _Strays(NamedTuple):
    """Counts weights of a leaf that are not what they should be."""

    nonzero: Wide  # inactive, finite and not zero
    lost: Wide  # inactive and not finite
    active: Wide  # active and not finite


@jax.jit
def _strays(weight: jax.Array, mask: jax.Array) -> _Strays:
    finite, active = jnp.isfinite(weight), unpack(mask)
    kinds = (finite & (weight != 0) & ~active, ~finite & ~active, ~finite & active)
    return _Strays(*map(counted, kinds))
