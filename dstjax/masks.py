"""Boolean masks: stored one bit per weight, applied, counted, compared, read from parameters."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import layouts
from dstjax._arrays import wide
from dstjax._arrays.bits import StoredMask as StoredMask
from dstjax._arrays.bits import pack as pack
from dstjax._arrays.bits import pack_like as pack_like
from dstjax._arrays.bits import shape as shape
from dstjax._arrays.bits import unpack as unpack
from dstjax._arrays.bits import zero_outside as zero_outside
from dstjax._arrays.keys import check_seed, of_seed
from dstjax._arrays.layout import Layout, layer_names
from dstjax._arrays.leaves import MaskedLeaves, check_alike, named, named_masks
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import Tree, is_array, is_traced, is_weight, places
from dstjax._engine.counts import active_counts, masked_leaves, prunes
from dstjax._engine.draw import filled_masks
from dstjax._engine.states import masks_in, masks_of
from dstjax.checks import check_integer
from dstjax.method import Maskable, Masking, Method
from dstjax.rules import Value, value


def apply(params: Tree, masks: Tree) -> Tree:
    """Sets the inactive weights of a tree to exactly zero.

    Args:
      params: tree of weights.
      masks: tree with the same paths; boolean tensors or stored masks, ``None`` at dense leaves. Leaves of ``params``
        that have no path in ``masks`` stay as they are.

    Returns:
      The tree of weights, dtypes kept.

    Raises:
      ValueError: a mask has another shape than its weight, or no weight at all.
    """
    leaves = MaskedLeaves.of(masks)
    stored = leaves.read(masks)
    return leaves.map(lambda i, w: _zeroed(w, stored[i]), params, "parameters", [shape(mask) for mask in stored])


def by_name(masks: Tree) -> dict[str, StoredMask | None]:
    """The leaves of a tree by path name; ``None`` at dense leaves of a tree of masks."""
    return {place.name: None if place.is_hole else place.leaf for place in places(masks)[0]}


def count_active(masks: Tree) -> dict[str, int]:
    """Active weights of each masked leaf by path, as Python integers; of masks, or an optimiser state with them."""
    return {name: int(n) for name, n in jax.device_get(_counts(named_masks(masks_in(masks)))).items()}


@value
class Named(Value):
    """Tells the leaves of some masks by their paths; what :func:`maskable` returns."""

    paths: tuple[str, ...]

    def __call__(self, path: str, leaf: Any) -> bool:
        """Whether a leaf is masked."""
        del leaf
        return path in self.paths


def maskable(opt_state_or_masks: Tree) -> Named:
    """``maskable=`` of a method that masks the same leaves as some masks, and no others.

    >>> maskable({"a": jnp.ones((2, 2), bool), "b": None})
    Named(paths=('a',))
    """
    return Named(tuple(MaskedLeaves.of(masks_of(opt_state_or_masks)).masked))


def sparsity(opt_state_or_masks: Tree) -> float:
    """The share of inactive weights over all masked leaves, in [0, 1).

    It is the number that a method takes to accept these masks: ``methods.static(sparsity=sparsity(masks))`` expects
    their count exactly, in ``sparsify(..., initial_masks=masks)``.

    Raises:
      ValueError: nothing is masked, or nothing is active.

    >>> sparsity({"a": jnp.arange(10).reshape(2, 5) < 3, "b": None})
    0.7
    """
    masks = masks_of(opt_state_or_masks)
    size = sum(math.prod(shape(mask)) for mask in named_masks(masks).values())
    active = sum(count_active(opt_state_or_masks).values())
    if not active:
        raise ValueError(f"the masks have {active} active weights of {size}; expected one at least.")
    return (size - active) / size


def from_params(
    params: Tree,
    *,
    like: Tree | None = None,
    method: Method | None = None,
    maskable: Maskable | None = None,
    layout: Any = None,
    seed: int = 0,
) -> Tree:
    """The masks of parameters that are sparse already: active is what is not zero.

    A weight that was grown and has not moved since is 0 as well, and nobody can tell it from an inactive one: it reads
    as inactive. So these masks may have a few active weights less than those that the parameters were trained with.
    :func:`sparsity` tells how many a method must expect; ``method=`` fills them up to its own count. Where the
    optimiser state is at hand, use its masks (:func:`dstjax.get_masks`).

    Args:
      params: the parameters, outside a trace.
      like: masks, or an optimiser state, that say which leaves are masked.
      method: masks the leaves of this method, and switches on as many zeros as it has more active weights in a layer,
        drawn at random by ``seed`` within its structure.
      maskable: ``(path, leaf) -> bool``, which leaves are masked.
      layout: what the axes of the leaves mean; see :func:`dstjax.sparsify`.
      seed: of the random choice.

    Returns:
      A tree like the parameters of boolean arrays, None at dense leaves. Without ``like``, ``method`` and ``maskable``
      those leaves are masked that a method masks by default, the weights by layout or name, and that hold a zero; a
      weight matrix without any is left dense. A method masks these alone with ``maskable=masks.maskable(found)``.

    Raises:
      ValueError: no leaf holds a zero, or a layer nothing else; a layer has more active weights than ``method``, which
        starts with as many as it ends with; more than one of ``like``, ``method`` and ``maskable``; traced parameters.

    >>> found = from_params({"w": jnp.array([[0.5, 0.0], [0.0, -1.0]]), "b": jnp.zeros(2)})
    >>> found["w"].tolist(), found["b"], sparsity(found)
    ([[True, False], [False, True]], None, 0.5)
    """
    given = [n for n, x in (("like", like), ("method", method), ("maskable", maskable)) if x is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are not accepted together, since each says what is masked; give one.")
    check_integer("seed", seed, 0)
    check_seed(seed)
    if method is not None and not isinstance(method, Method):
        raise ValueError(f"method={method!r} is not accepted; expected one from dstjax.methods, such as static(...).")
    weights = named(params)
    known = _masked_by(weights, like, method, maskable, layout)
    for name in known:
        if is_traced(weights[name]) or isinstance(weights[name], jax.ShapeDtypeStruct):
            raise ValueError(f"leaf {name!r} has no values to read; expected the parameters themselves, outside jit.")
    masks = [_nonzero(jnp.asarray(weights[name])) for name in known]
    if not given:
        dense = {n for n, mask in zip(known, masks, strict=True) if bool(jnp.all(mask))}
        masks = [mask for n, mask in zip(known, masks, strict=True) if n not in dense]
        known = {n: one for n, one in known.items() if n not in dense}
        if not known:
            raise ValueError(
                f"no weight of {sorted(dense)} is zero: the parameters are dense. Make masks of them with "
                "dstjax.initial_masks.magnitude(params, sparsity=...)."
            )
    if method is not None:
        masks = _filled_up(method, weights, known, masks, layout, seed)
    by_layer = [n for p, one in known.items() for n in layer_names(p, one, tuple(weights[p].shape))]
    active = np.asarray(jax.device_get(count_true(masks, tuple(known.values()))))
    if empty := [name for name, n in zip(by_layer, active, strict=True) if not n]:
        raise ValueError(
            f"layers {empty} of the parameters are zero throughout, so that no mask can be read from them; leave them "
            "dense with maskable=, or give method=, whose count is drawn."
        )
    return MaskedLeaves.chosen(params, known).masks(masks)


def _masked_by(
    weights: dict[str, Any], like: Tree | None, method: Method | None, maskable: Maskable | None, layout: Any
) -> dict[str, Layout | None]:
    """What the axes of the masked leaves mean, by path and in the order of the tree."""
    if like is None:
        masking = Masking(0.0, "uniform", maskable) if method is None else method.masking
        if masking is None:
            raise ValueError("method 'dense' is not accepted, which masks nothing; expected another one.")
        return masked_leaves(_with_layout(masking, layout), weights)
    stored = masks_in(like)
    leaves = MaskedLeaves.of(stored)
    if not leaves.masked:
        raise ValueError(
            f"like={like!r} masks nothing; expected masks of some leaves, or an optimiser state with them."
        )
    found = dict(zip(leaves.masked, leaves.find(weights, "parameters"), strict=True))
    leaves.check_shapes(list(found.values()), "parameters", [shape(m) for m in named_masks(stored).values()])
    read = layouts.read(layout, {n: x for n, x in weights.items() if is_array(x)})
    return {
        n: one if isinstance(one := read[n], Layout) else None for n in weights if n in found and is_weight(found[n])
    }


def _with_layout(masking: Masking, layout: Any) -> Masking:
    return masking if layout is None else dataclasses.replace(masking, layout=layout)


def _filled_up(
    method: Method,
    weights: dict[str, Any],
    known: dict[str, Layout | None],
    masks: list[jax.Array],
    layout: Any,
    seed: int,
) -> list[jax.Array]:
    """Masks with at least as many active weights in each layer as the method ends with."""
    assert method.masking is not None
    masking = _with_layout(method.masking, layout)
    wanted, of_leaf = active_counts(masking, weights), tuple(known.values())
    active = [int(n) for n in jax.device_get(count_true(masks, of_leaf))]
    pairs = dict(zip(wanted, zip(active, wanted.values(), strict=True), strict=True))
    more = {name: pair for name, pair in pairs.items() if pair[0] > pair[1]}
    if more and not prunes(method):
        told = ", ".join(f"{name!r} has {have} of {want}" for name, (have, want) in more.items())
        raise ValueError(
            f"the parameters have more weights that are not zero than method {method.name!r} has active ones: "
            f"{told}. Expected sparsity=dstjax.masks.sparsity(masks), or a method that prunes, such as gmp."
        )
    missing = [max(want - have, 0) for have, want in pairs.values()]
    if not any(missing):
        return masks
    return filled_masks(of_seed(seed), masks, missing, masking.structure, of_leaf)


def overlap(a: Tree, b: Tree) -> dict[str, jax.Array]:
    """Jaccard index |A and B| / |A or B| of two trees of masks, for each leaf that both mask; 1 where both are empty.

    Raises:
      ValueError: the trees have different leaves, or other shapes, or none that both mask.

    Reference: Nowak et al., "Fantastic weights and how to find them", 2023, Figure 6; the mask IoU of IEE is the same.
    """
    return _pairwise(a, b, _ratio)


def jaccard(a: Tree, b: Tree) -> jax.Array:
    """The Jaccard index of two trees of masks averaged over the layers, float32 scalar."""
    return _mean(list(overlap(a, b).values()))


def iou(a: Tree, b: Tree) -> jax.Array:
    """Intersection over union of two trees of masks, all layers pooled, float32 scalar."""
    return _pooled(list(_pairwise(a, b, lambda both, either: (both, either)).values()))


def _pairwise(a: Tree, b: Tree, of: Callable[[jax.Array, jax.Array], Any]) -> dict[str, Any]:
    a, b = masks_in(a), masks_in(b)
    left, right = by_name(a), by_name(b)
    if left.keys() != right.keys():
        check_alike([left, right])
    mine, others = named_masks(a), named_masks(b)
    for name in mine.keys() & others.keys():
        if (shapes := [shape(mine[name]), shape(others[name])])[0] != shapes[1]:
            raise ValueError(f"the masks of {name!r} have shapes {shapes}; expected the same.")
    result = {n: of(*_meeting(mask, others[n])) for n, mask in mine.items() if n in others}
    if not result:
        check_alike([])
    return result


# Compiled, so that no constant goes from the host to the device: jax_transfer_guard would refuse it.


@jax.jit
def _zeroed(weight: jax.Array, mask: StoredMask) -> jax.Array:
    return jnp.where(unpack(mask), weight, jnp.zeros((), weight.dtype))


@jax.jit
def _nonzero(weight: jax.Array) -> jax.Array:
    # By its bits too: the smallest numbers count as 0 where a device compares them.
    bits = jax.lax.bitcast_convert_type(weight, jnp.dtype(f"int{jnp.finfo(weight.dtype).bits}"))
    return (weight != 0) | (bits << 1 != 0)


@jax.jit
def _counts(masks: dict[str, StoredMask]) -> dict[str, wide.Wide]:
    return {name: wide.counted(unpack(mask)) for name, mask in masks.items()}


@jax.jit
def _meeting(a: StoredMask, b: StoredMask) -> tuple[jax.Array, jax.Array]:
    p, q = unpack(a), unpack(b)
    return wide.counted(p & q).to_float(), wide.counted(p | q).to_float()


@jax.jit
def _ratio(both: jax.Array, either: jax.Array) -> jax.Array:
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))


@jax.jit
def _mean(numbers: list[jax.Array]) -> jax.Array:
    return jnp.mean(jnp.stack(numbers))


@jax.jit
def _pooled(counts: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    both, either = jnp.sum(jnp.stack([jnp.stack(pair) for pair in counts]).astype(jnp.float32), axis=0)
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))
