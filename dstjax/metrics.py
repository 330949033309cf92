"""Tells what happened to the topology, from the state of ``sparsify`` and from trees of masks.

A tree of masks holds boolean arrays, as :func:`dstjax.get_masks` returns it, or stored masks; None at dense leaves.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import layouts
from dstjax import masks as masks_lib
from dstjax._arrays import compiled
from dstjax._arrays.layout import Layout, assumed
from dstjax._arrays.leaves import MaskedLeaves, matched, named, named_masks, shown
from dstjax._arrays.trees import Tree, is_absent, is_weight
from dstjax._engine.rewire import error
from dstjax._engine.states import SparseState, Tracked, batch_axes, every, find, holds_state, masks_in, masks_of, whole
from dstjax.checks import check_number
from dstjax.masks import iou as iou
from dstjax.masks import jaccard as jaccard
from dstjax.masks import overlap as overlap


class DeadNeurons(NamedTuple):
    """Counts the units of one layer that the mask cuts off, int32 scalars; see :func:`dead_neurons`."""

    inputs: jax.Array  # units without an active weight that leads on from them
    outputs: jax.Array  # units without an active weight that leads to them


class GradientNorms(NamedTuple):
    """Holds running means of squared gradient norms; see :func:`gradient_norms`."""

    updates: jax.Array  # int32[]: gradients so far
    complete: jax.Array  # float32[]: mean of ||g||^2
    masked: jax.Array  # float32[]: mean of ||g * M||^2


def exploration_rate(opt_state: Tree) -> jax.Array:
    """Returns R, the share of maskable weights that have ever been active, float32 scalar.

    Needs the counters of the method, or ``track=['exploration']``. 1 where nothing is masked.

    Raises:
      ValueError: neither is there.

    Reference: Liu et al., 2021 (ITOP rate R_s); DST-EE, Figure 3.
    """
    return compiled.share(list(_ever(opt_state).values()))


def exploration_rate_per_leaf(opt_state: Tree) -> dict[str, jax.Array]:
    """Returns R of each masked leaf by path, float32 scalars; see :func:`exploration_rate`."""
    return {name: compiled.share([ever]) for name, ever in _ever(opt_state).items()}


def exploration_bound(density: float, drop_fractions: Sequence[float]) -> float:
    """Returns the largest R that updates with these drop fractions can reach: min(1, d (1 + sum of the fractions)).

    They reach it if all that they grow is new.

    Raises:
      ValueError: the density or a fraction is outside [0, 1].
    """
    for name, x in [("density", density), *(("drop_fraction", f) for f in drop_fractions)]:
        check_number(name, x, "a number in [0, 1]", lambda x: 0 <= x <= 1)
    return min(1.0, density * (1 + math.fsum(drop_fractions)))


def survival_rate(opt_state: Tree) -> jax.Array:
    """Returns the share of what the update before the last grew that the last one did not drop, float32 scalar.

    What is dropped and grown again does not count as surviving. NaN until two updates have been made. Needs
    ``track=['survival']``.

    Raises:
      ValueError: it was not tracked.

    Reference: IEE, Figure 5b.
    """
    tracked = [_tracked(state) for state in every(opt_state)]
    if any(is_absent(of_state.grown) for of_state in tracked):
        raise ValueError("the survival rate needs dstjax.sparsify(..., track=['survival']).")
    survived, grown = ([getattr(t, name) for t in tracked] for name in ("n_survived", "n_grown"))
    return compiled.ratio_of_sums(survived, grown)


def last_mask_error(opt_state: Tree) -> jax.Array:
    """Returns the mask-incurred error of the last mask update, float32 scalar; needs ``track=['error']``.

    Raises:
      ValueError: it was not tracked.
    """
    last: Any = _tracked(find(opt_state)).error
    if is_absent(last):
        raise ValueError("the mask-incurred error needs dstjax.sparsify(..., track=['error']).")
    return last


def mask_error(params: Tree, opt_state_or_masks: Tree) -> jax.Array:
    """Returns tau squared: ||W * M - W||^2 / ||W||^2 over the masked leaves, float32 scalar.

    Weights that are sparse already lose nothing to the mask in force. A method that keeps dense weights (IEE, DPF,
    SR-STE) has an error at every step: that of its dense weights under the mask in force.

    Args:
      params: the weights just before the new mask is applied; or dense weights.
      opt_state_or_masks: the new masks, or the state that holds them; or the mask in force.

    Raises:
      ValueError: a masked leaf is missing.

    Reference: DST-EE, Assumption 3.
    """
    leaves, flags = _masked(opt_state_or_masks)
    weights = leaves.find(params, "parameters", [f.shape for f in flags])
    return _error(weights, flags)


def exploitation_degree(loss: Callable[[Tree], Any], params: Tree, grown: Tree) -> jax.Array:
    """Returns how much the grown weights lower the loss: L(W without them) - L(W).

    A weight is worth nothing while it is still 0, so measure after at least one more step. One index in ``grown`` gives
    Eq. 2, a set of indices Eq. 3.

    Args:
      loss: parameters -> scalar loss on an evaluation batch.
      params: the weights with the grown ones trained.
      grown: tree of boolean arrays that mark the grown weights, None elsewhere.

    Reference: DST-EE, Eq. 2 and 3.
    """
    kept = shown(masks_in(grown), lambda mask: ~masks_lib.unpack(mask))
    return jnp.asarray(loss(masks_lib.apply(params, kept))) - jnp.asarray(loss(params))


def survival(before: Tree, after: Tree, next_drop: Tree) -> jax.Array:
    """Returns the share of what an update grew that the next one does not drop, over all layers, float32 scalar.

    NaN where nothing was grown. :func:`survival_rate` reads the same from a state.

    Args:
      before: masks before the update.
      after: masks after it.
      next_drop: masks when the next update has dropped and has not grown yet.

    Raises:
      ValueError: the trees mask different leaves.

    Reference: IEE, Figure 5b.
    """
    return compiled.survived(_together(before, after, next_drop))


def churn(before: Tree, after: Tree) -> jax.Array:
    """Returns the share of the active weights that moved between two trees of masks, over all layers, float32 scalar.

    It is |A xor B| / (|A| + |B|), which is |A xor B| / (2 a) where both have a active weights: 0 for equal masks, 1 for
    disjoint ones. NaN where nothing is active.

    Raises:
      ValueError: the trees mask different leaves.
    """
    return compiled.moved(_together(before, after))


def unanimity(trees: Sequence[Tree]) -> tuple[jax.Array, jax.Array]:
    """Returns the shares of active and of inactive weights that several trees of masks agree on, float32 scalars.

    Divides the number active in all of them by the mean number of active ones, and the same for inactive ones; NaN
    where there are none. Compares the masks that criteria make of the same network.

    Raises:
      ValueError: no tree, or the trees mask different leaves.

    Reference: Nowak et al., "Fantastic weights and how to find them", 2023; the mean in the denominator is ours, for
    masks whose counts differ.
    """
    if not isinstance(trees, list | tuple) or not trees:
        raise ValueError(f"trees is {trees if not trees else type(trees).__name__}; expected a list of trees of masks.")
    return compiled.agreed(_together(*trees))


def dead_neurons(masks: Tree, *, layout: Any = None) -> dict[str, DeadNeurons]:
    """Counts units without any active weight, for each masked leaf of two or more dimensions by path.

    A unit is an input or an output of the layer, of all axes that its layout calls so; it counts as cut off if nothing
    is active over all the other axes. Where neither ``layout`` nor the name tells, a kernel is (window..., in, out).
    :func:`dstjax.program.connections` knows the network besides: units that lead nowhere, and groups of a convolution.

    Args:
      masks: tree of masks, or an optimiser state with them, which ``vmap`` may have given leading axes.
      layout: as given to :func:`dstjax.sparsify`.

    Returns:
      Two numbers for each leaf; arrays of the shape of the stack where it holds several layers, behind those of
      ``vmap``.
    """
    several = [(s.masks, batch_axes(s)) for s in every(masks)] if holds_state(masks) else [(masks_in(masks), 0)]
    return {name: found for tree, axes in several for name, found in _dead_in(tree, axes, layout).items()}


def _dead_in(masks: Tree, axes: int, layout: Any) -> dict[str, DeadNeurons]:
    """The units of masks that have some leading axes of ``vmap``."""
    kernels = {n: flags for n, m in named_masks(masks).items() if (flags := masks_lib.unpack(m)).ndim >= 2 + axes}
    single = {n: jax.ShapeDtypeStruct(m.shape[axes:], m.dtype) for n, m in kernels.items()}
    known = layouts.read(layout, single)
    of_leaf = {n: one if isinstance(one := known[n], Layout) else assumed(m.ndim) for n, m in single.items()}
    return {n: _dead(m, of_leaf[n], axes) for n, m in kernels.items()}


def effective_weights(layers: Sequence[Any]) -> jax.Array:
    """Counts the active weights on a path from an input to an output of a chain of layers, int32[layers].

    An active weight that starts at a dead unit, or leads to one, has no effect. A bias of a unit without inputs does
    not count as an input. For plain chains; :func:`dstjax.program.connections` is for any network.

    Args:
      layers: masks of the kernels from the first layer to the last, their last two axes being inputs and outputs. A
        layer may have a multiple of the outputs before it as inputs, as where channels-last images are flattened.

    Raises:
      ValueError: no layer, a mask of less than two dimensions, or layers that do not fit together.
    """
    kernels = [masks_lib.unpack(_array(mask)) for mask in layers]
    if not kernels or any(k.ndim < 2 for k in kernels):
        raise ValueError(
            f"layers have shapes {[k.shape for k in kernels]}; expected at least one, each (..., in, out)."
        )
    for before, after in itertools.pairwise(kernels):
        if after.shape[-2] % before.shape[-1]:
            raise ValueError(
                f"a layer of shape {after.shape} does not fit one of shape {before.shape} before it; expected a "
                f"multiple of {before.shape[-1]} inputs."
            )
    return compiled.effective(kernels)


def gradient_norms(gradients: Tree, opt_state_or_masks: Tree, before: GradientNorms | None = None) -> GradientNorms:
    """Returns running means of the squared norms of the complete gradient and of its masked part.

    DST-EE's convergence result has the averaged gradient norm. To measure it, take the gradient of a large fixed batch
    at the sparse weights, right after each mask update, and give back what the last call returned. Leaves without a
    mask count in both.

    Args:
      gradients: of the loss with respect to the sparse weights, inactive ones included.
      opt_state_or_masks: the new masks, or the state that holds them.
      before: what the call at the update before returned; None at the first.

    Raises:
      ValueError: a masked leaf is missing.

    Reference: DST-EE, the proposition on the convergence rate, whose left side is ``complete``.
    """
    leaves, flags = _masked(opt_state_or_masks)
    leaves.find(gradients, "gradients", [f.shape for f in flags])
    found = {n: g for n, g in named(gradients).items() if is_weight(g)}
    return _norms(found, dict(zip(leaves.masked, flags, strict=True)), before)


def _masked(opt_state_or_masks: Tree) -> tuple[MaskedLeaves, list[jax.Array]]:
    """Returns which leaves a state or a tree of masks masks, and the boolean masks."""
    stored = masks_of(opt_state_or_masks)
    leaves = MaskedLeaves.of(stored)
    return leaves, [masks_lib.unpack(mask) for mask in leaves.read(stored)]


def _together(*trees: Tree) -> list[tuple[jax.Array, ...]]:
    """Returns the boolean masks of each leaf, of several trees that mask the same leaves."""
    leaves = []
    for name, masks in matched(tuple(map(masks_in, trees))).items():
        flags = tuple(masks_lib.unpack(_array(mask)) for mask in masks)
        if len({f.shape for f in flags}) > 1:
            raise ValueError(f"the masks of {name!r} have shapes {[f.shape for f in flags]}; expected the same.")
        leaves.append(flags)
    return leaves


def _ever(opt_state: Tree) -> dict[str, jax.Array]:
    """Marks the weights of each masked leaf that were active at least once, by path."""
    return {name: ever for state in every(opt_state) for name, ever in _ever_in(state).items()}


def _ever_in(state: SparseState) -> dict[str, jax.Array]:
    if not is_absent(state.counters):
        return {n: compiled.positive(c) for n, c in named(state.counters).items()}
    ever = _tracked(state).ever
    if is_absent(ever):
        raise ValueError(
            "the exploration rate needs counters (dst_ee has them) or dstjax.sparsify(..., track=['exploration'])."
        )
    return {n: masks_lib.unpack(e) for n, e in named(ever).items()}


def _tracked(state: SparseState) -> Tracked:
    return Tracked() if is_absent(whole(state).tracked) else state.tracked


def _array(x: Any) -> jax.Array:
    return x if isinstance(x, jax.Array) else jax.device_put(x)


# Compiled, like those of dstjax._arrays.compiled.


_error = jax.jit(error)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _dead(masks: jax.Array, layout: Layout, axes: int) -> DeadNeurons:
    def of_one(mask: jax.Array) -> DeadNeurons:
        inputs, outputs = layout.inputs, layout.outputs
        return DeadNeurons(counted(mask, inputs, outputs), counted(mask, outputs, inputs))

    def counted(mask: jax.Array, units: tuple[int, ...], others: tuple[int, ...]) -> jax.Array:
        alive = jnp.any(mask, axis=layout.windows + others, keepdims=True)
        dead = jnp.sum(~alive, axis=units, dtype=jnp.int32, keepdims=True)
        return dead.reshape([mask.shape[a] for a in layout.stack])

    for _ in range(axes):
        of_one = jax.vmap(of_one)
    return of_one(masks)


@jax.jit
def _norms(
    gradients: dict[str, jax.Array], masked: dict[str, jax.Array], before: GradientNorms | None
) -> GradientNorms:
    squares = {n: jnp.square(g.astype(jnp.float32)) for n, g in gradients.items()}
    complete = sum(jnp.sum(s) for s in squares.values())
    active = sum(jnp.sum(jnp.where(masked[n], s, 0.0) if n in masked else s) for n, s in squares.items())
    if before is None:
        before = GradientNorms(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
    updates = before.updates + 1
    means = (x + (new - x) / updates for x, new in ((before.complete, complete), (before.masked, active)))
    return GradientNorms(updates, *means)
