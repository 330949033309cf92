"""Boolean masks: stored one bit per weight, applied, counted, compared."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import StoredMask as StoredMask
from dstjax._arrays.bits import pack as pack
from dstjax._arrays.bits import pack_like as pack_like
from dstjax._arrays.bits import shape as shape
from dstjax._arrays.bits import unpack as unpack
from dstjax._arrays.bits import zero_outside as zero_outside
from dstjax._arrays.leaves import MaskedLeaves, check_alike, named
from dstjax._arrays.trees import Tree


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
    flags = [unpack(mask) for mask in leaves.read(masks)]

    def masked(i: int, weight: jax.Array) -> jax.Array:
        return jnp.where(flags[i], weight, jnp.zeros((), jnp.result_type(weight)))

    return leaves.map(masked, params, "parameters", [f.shape for f in flags])


def by_name(masks: Tree) -> dict[str, StoredMask | None]:
    """The leaves of a tree by path name; ``None`` at dense leaves of a tree of masks."""
    leaves, found = MaskedLeaves.of(masks), named(masks)
    return {name: found.get(name) for name in leaves.names}


def count_active(masks: Tree) -> dict[str, int]:
    """Active weights of each masked leaf by path, as Python integers."""
    return {name: int(jnp.sum(unpack(mask), dtype=jnp.uint32)) for name, mask in named(masks).items()}


def overlap(a: Tree, b: Tree) -> dict[str, jax.Array]:
    """Jaccard index |A and B| / |A or B| of two trees of masks, for each leaf that both mask; 1 where both are empty.

    Raises:
      ValueError: the trees have different leaves, or none that both mask.

    Reference: Nowak et al., "Fantastic weights and how to find them", 2023, Figure 6; the mask IoU of IEE is the same.
    """
    return _pairwise(a, b, lambda both, either: jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1)))


def jaccard(a: Tree, b: Tree) -> jax.Array:
    """The Jaccard index of two trees of masks averaged over the layers, float32 scalar."""
    return jnp.mean(jnp.stack(list(overlap(a, b).values())))


def iou(a: Tree, b: Tree) -> jax.Array:
    """Intersection over union of two trees of masks, all layers pooled, float32 scalar."""
    counts = list(_pairwise(a, b, lambda both, either: jnp.stack([both, either])).values())
    both, either = jnp.sum(jnp.stack(counts).astype(jnp.float32), axis=0)
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))


def _pairwise(a: Tree, b: Tree, of: Callable[[jax.Array, jax.Array], jax.Array]) -> dict[str, jax.Array]:
    left, right = MaskedLeaves.of(a), MaskedLeaves.of(b)
    if {*left.names} != {*right.names}:
        check_alike([left.names, right.names])
    found = named(b)
    result = {}
    for name, mask in named(a).items():
        if name in found:
            p, q = unpack(mask), unpack(found[name])
            result[name] = of(jnp.sum(p & q, dtype=jnp.uint32), jnp.sum(p | q, dtype=jnp.uint32))
    if not result:
        check_alike([])
    return result
