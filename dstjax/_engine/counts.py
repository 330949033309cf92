"""Which leaves a method masks, and how many of their weights are active."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dstjax import distributions
from dstjax._arrays.trees import is_array, is_weight
from dstjax.method import Masking, Start


def masked_leaves(masking: Masking, leaves: Mapping[str, Any]) -> list[str]:
    """The paths of the leaves that a method masks, in the order of the tree.

    The rule is asked about arrays of real floating numbers; about others only where it chooses none of those, to say
    what is wrong. A map of densities may name others by mistake too.

    Raises:
      ValueError: no leaf is maskable, or one that should be masked is no real tensor, or empty.
    """
    rule = masking.maskable or _default_maskable
    chosen = [name for name, leaf in leaves.items() if is_weight(leaf) and rule(name, leaf)]
    if not chosen:
        chosen = [name for name, leaf in leaves.items() if is_array(leaf) and not is_weight(leaf) and rule(name, leaf)]
    if isinstance(masking.distribution, Mapping):
        arrays = [name for name, leaf in leaves.items() if is_array(leaf)]
        chosen = distributions.masked_by_map(masking.distribution, arrays, chosen)
    for name in chosen:
        if not is_weight(leaves[name]):
            raise ValueError(
                f"leaf {name!r} has dtype {leaves[name].dtype}; only real floating leaves can be masked. "
                "Exclude it with maskable=lambda path, leaf: ... or from the map of densities."
            )
        if 0 in leaves[name].shape:
            raise ValueError(
                f"leaf {name!r} of shape {leaves[name].shape} has no weights to mask. "
                "Exclude it with maskable=lambda path, leaf: ..."
            )
    if not chosen:
        raise ValueError(
            f"dstjax finds nothing to mask among {list(leaves)}; by default real floating leaves of two or more "
            "dimensions are masked, maskable= chooses others of those."
        )
    return chosen


def active_counts(masking: Masking | None, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Which leaves a method masks, and how many active weights each of them has.

    Args:
      masking: what is masked; None: nothing.
      leaves: path -> array, or its shape and dtype.

    Raises:
      ValueError: no leaf is maskable, one that should be masked is no real tensor, or one is too small.
    """
    if masking is None:
        return {}
    shapes = {name: tuple(leaves[name].shape) for name in masked_leaves(masking, leaves)}
    counts = distributions.active_counts(masking.distribution, shapes, masking.sparsity)
    return masking.structure.counts(shapes, counts)


def initial_counts(masking: Masking | None, start: Start, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Active weights of each masked leaf before the first step."""
    if masking is None or start.sparsity is None:
        return active_counts(masking, leaves)
    if starts_dense(start):
        return {name: math.prod(leaves[name].shape) for name in masked_leaves(masking, leaves)}
    return active_counts(dataclasses.replace(masking, sparsity=start.sparsity), leaves)


def starts_dense(start: Start) -> bool:
    """Whether all weights are active at first."""
    return isinstance(start.sparsity, int | float) and start.sparsity == 0


def _default_maskable(path: str, leaf: Any) -> bool:
    del path
    return len(leaf.shape) >= 2
