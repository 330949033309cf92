"""Helpers for the state of ``sparsify``, wherever it is chained or wrapped: read, replace and check its masks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import masks as masks_lib
from dstjax._arrays.bits import pack_like, unpack
from dstjax._arrays.leaves import MaskedLeaves, named_masks, shown
from dstjax._arrays.trees import Tree, is_absent
from dstjax._engine.moments import map_moments, shapes_of
from dstjax._engine.states import SparseState as SparseState
from dstjax._engine.states import Tracked as Tracked
from dstjax._engine.states import (
    find,
    holds_state,
    masks_of,
    remembered_of,
    replaced,
    topology_of,
    whole,
    with_topology,
)
from dstjax.views import straight_through


def get_masks(opt_state: Tree) -> Tree:
    """The masks: a tree like the parameters, of boolean arrays, ``None`` at dense leaves.

    Args:
      opt_state: the state of ``sparsify``, wherever it is chained or wrapped.

    Raises:
      ValueError: there is no state of ``sparsify``, or more than one.
    """
    return shown(whole(find(opt_state)).masks, unpack)


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
    return masks_lib.apply(params, masks_of(opt_state_or_masks))


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
    if is_absent(state.view):
        return params
    leaves = MaskedLeaves.of(whole(state).masks)
    stored = leaves.read(state.masks)

    def viewed(i: int, weight: jax.Array) -> jax.Array:
        return _viewed(state.view, weight, stored[i], i, training)

    return leaves.map(viewed, params, "parameters", [masks_lib.shape(mask) for mask in stored])


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

    Counters start again from the new mask, moments of inactive weights become zero, and what was active before still
    counts as explored. The parameters are not touched: call :func:`apply_masks` after.

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

    Something that rescales, adds to or bypasses the updates after ``sparsify`` breaks this; see its docstring. Of a
    method that keeps dense weights behind its masks the view for evaluation is checked.

    Returns:
      True, so that it can stand in an ``assert``.

    Raises:
      ValueError: an inactive weight is not zero; names the leaves and how many.
    """
    if _has_view(opt_state_or_masks):
        params = forward_params(params, opt_state_or_masks, training=False)
    masks = masks_of(opt_state_or_masks)
    leaves = MaskedLeaves.of(masks)
    weights = leaves.find(params, "parameters")
    strays = [_strays(weight, mask) for weight, mask in zip(weights, leaves.read(masks), strict=True)]
    found = zip(leaves.masked, jax.device_get(strays), weights, strict=True)
    bad = [f"{name}: {int(n)} of {np.size(weight)}" for name, n, weight in found if n]
    if bad:
        raise ValueError(
            "inactive weights are not zero: " + "; ".join(bad) + ". Apply the masks before the first step "
            "(dstjax.apply_masks), and let nothing change the updates after dstjax.sparsify."
        )
    return True


def _has_view(opt_state_or_masks: Tree) -> bool:
    return holds_state(opt_state_or_masks) and not is_absent(find(opt_state_or_masks).view)


# Compiled, so that no constant goes from the host to the device: jax_transfer_guard would refuse it.


@functools.partial(jax.jit, static_argnums=(3, 4))
def _viewed(view: Any, weight: jax.Array, mask: jax.Array, index: int, training: bool) -> jax.Array:
    return straight_through(view.of(weight, unpack(mask), index, training), weight)


@jax.jit
def _false() -> jax.Array:
    return jnp.zeros((), bool)


@jax.jit
def _packed(mask: jax.Array, like: jax.Array) -> jax.Array:
    return pack_like(jnp.array(mask), like.dtype)  # a copy: the state must not be donated with a caller's array


@jax.jit
def _counted(mask: jax.Array, counter: jax.Array) -> jax.Array:
    return mask.astype(counter.dtype)


@jax.jit
def _united(mask: jax.Array, ever: jax.Array) -> jax.Array:
    return pack_like(mask | unpack(ever), ever.dtype)


@jax.jit
def _strays(weight: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum((weight != 0) & ~unpack(mask), dtype=jnp.uint32)
