"""Boolean masks: stored one bit per weight, applied, counted, compared."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.bits import StoredMask, pack, pack_like, shape, unpack, zero_outside
from dstjax._arrays.trees import Tree, is_hole, path_name

__all__ = [
    "StoredMask",
    "apply",
    "by_name",
    "count_active",
    "iou",
    "jaccard",
    "overlap",
    "pack",
    "pack_like",
    "shape",
    "unpack",
    "zero_outside",
]


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
    by_path = by_name(masks)
    used = set()

    def one(path: tuple[Any, ...], weight: Any) -> Any:
        name = path_name(path)
        mask = by_path.get(name)
        if mask is None:
            return weight
        used.add(name)
        flags = unpack(mask)
        if flags.shape != jnp.shape(weight):
            raise ValueError(f"the mask of {name!r} has shape {flags.shape}, its weight {jnp.shape(weight)}.")
        return jnp.where(flags, weight, jnp.zeros((), jnp.result_type(weight)))

    masked = jax.tree_util.tree_map_with_path(one, params)
    lost = {name for name, mask in by_path.items() if mask is not None} - used
    if lost:
        raise ValueError(f"no weight has the path of these masks: {', '.join(sorted(lost))}.")
    return masked


def by_name(masks: Tree) -> dict[str, StoredMask | None]:
    """The leaves of a tree of masks by path name; ``None`` at dense leaves."""
    flat = jax.tree_util.tree_flatten_with_path(masks, is_leaf=is_hole)[0]
    return {path_name(path): None if is_hole(mask) else mask for path, mask in flat}


def count_active(masks: Tree) -> dict[str, int]:
    """Active weights of each masked leaf by path, as Python integers."""
    return {
        name: int(jnp.sum(unpack(mask), dtype=jnp.uint32)) for name, mask in by_name(masks).items() if mask is not None
    }


def overlap(a: Tree, b: Tree) -> dict[str, jax.Array]:
    """Jaccard index |A and B| / |A or B| of two trees of masks, for each leaf that both mask; 1 where both are empty.

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
    left, right = by_name(a), by_name(b)
    if left.keys() != right.keys():
        raise ValueError(f"the two trees mask different leaves: {sorted(left.keys() ^ right.keys())}.")
    result = {}
    for name, x in left.items():
        y = right[name]
        if x is not None and y is not None:
            p, q = unpack(x), unpack(y)
            both = jnp.sum(p & q, dtype=jnp.uint32)
            result[name] = of(both, jnp.sum(p | q, dtype=jnp.uint32))
    if not result:
        raise ValueError("the two trees have no masked leaf in common.")
    return result
