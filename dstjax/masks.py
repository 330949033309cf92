"""Boolean masks: stored one bit per weight, applied, counted, compared."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import StoredMask as StoredMask
from dstjax._arrays.bits import pack as pack
from dstjax._arrays.bits import pack_like as pack_like
from dstjax._arrays.bits import shape as shape
from dstjax._arrays.bits import unpack as unpack
from dstjax._arrays.bits import zero_outside as zero_outside
from dstjax._arrays.leaves import MaskedLeaves, check_alike, named_masks
from dstjax._arrays.trees import Tree, places


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
    """Active weights of each masked leaf by path, as Python integers."""
    return {name: int(n) for name, n in jax.device_get(_counts(named_masks(masks))).items()}


def overlap(a: Tree, b: Tree) -> dict[str, jax.Array]:
    """Jaccard index |A and B| / |A or B| of two trees of masks, for each leaf that both mask; 1 where both are empty.

    Raises:
      ValueError: the trees have different leaves, or none that both mask.

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
    left, right = by_name(a), by_name(b)
    if left.keys() != right.keys():
        check_alike([left, right])
    mine, others = named_masks(a), named_masks(b)
    result = {n: of(*_meeting(mask, others[n])) for n, mask in mine.items() if n in others}
    if not result:
        check_alike([])
    return result


# Compiled, so that no constant goes from the host to the device: jax_transfer_guard would refuse it.


@jax.jit
def _zeroed(weight: jax.Array, mask: StoredMask) -> jax.Array:
    return jnp.where(unpack(mask), weight, jnp.zeros((), weight.dtype))


@jax.jit
def _counts(masks: dict[str, StoredMask]) -> dict[str, jax.Array]:
    return {name: jnp.sum(unpack(mask), dtype=jnp.uint32) for name, mask in masks.items()}


@jax.jit
def _meeting(a: StoredMask, b: StoredMask) -> tuple[jax.Array, jax.Array]:
    p, q = unpack(a), unpack(b)
    return jnp.sum(p & q, dtype=jnp.uint32), jnp.sum(p | q, dtype=jnp.uint32)


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
