"""Which leaves a method masks, and how many of their weights are active."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dstjax import distributions
from dstjax.method import Method


def masked_leaves(method: Method, leaves: Mapping[str, Any]) -> list[str]:
    """The paths of the leaves that a method masks, in the order of the tree.

    Raises:
      ValueError: no leaf is maskable, or one that should be masked is no real tensor, or empty.
    """
    rule = method.maskable or _default_maskable
    chosen = [name for name, leaf in leaves.items() if rule(name, leaf)]
    if isinstance(method.distribution, Mapping):
        chosen = distributions.masked_by_map(method.distribution, list(leaves), chosen)
    for name in chosen:
        if not jnp.issubdtype(leaves[name].dtype, jnp.floating):
            raise ValueError(
                f"leaf {name!r} has dtype {leaves[name].dtype}; only real floating leaves can be masked. "
                "Exclude it with maskable=lambda path, leaf: ..."
            )
        if 0 in leaves[name].shape:
            raise ValueError(
                f"leaf {name!r} of shape {leaves[name].shape} has no weights to mask. "
                "Exclude it with maskable=lambda path, leaf: ..."
            )
    if not chosen:
        raise ValueError(
            f"method {method.name!r} finds nothing to mask among {list(leaves)}; by default leaves of two or more "
            "dimensions are masked, maskable= chooses others."
        )
    return chosen


def active_counts(method: Method, leaves: Mapping[str, Any]) -> dict[str, int]:
    """Which leaves a method masks, and how many active weights each of them has.

    Args:
      method: the method.
      leaves: path -> array, or its shape and dtype.

    Raises:
      ValueError: no leaf is maskable, one that should be masked is no real tensor, or one is too small.
    """
    if not method.masked:
        return {}
    shapes = {name: tuple(leaves[name].shape) for name in masked_leaves(method, leaves)}
    return distributions.active_counts(method.distribution, shapes, method.sparsity)


def _default_maskable(path: str, leaf: Any) -> bool:
    del path
    return len(leaf.shape) >= 2


def counts_of(method: Method, leaves: Mapping[str, Any], sparsity: Any) -> dict[str, Any]:
    """Active weights of each masked leaf at a sparsity, as the structure of the method can have them."""
    counts: dict[str, Any] = active_counts(dataclasses.replace(method, sparsity=sparsity), leaves)
    return method.structure.counts({name: tuple(leaves[name].shape) for name in counts}, counts)


def initial_counts(method: Method, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Active weights of each masked leaf before the first step."""
    if method.initial_sparsity is None:
        return counts_of(method, leaves, method.sparsity)
    if starts_dense(method):
        return {name: int(np.prod(leaves[name].shape)) for name in active_counts(method, leaves)}
    return counts_of(method, leaves, method.initial_sparsity)


def starts_dense(method: Method) -> bool:
    return isinstance(method.initial_sparsity, int | float) and method.initial_sparsity == 0
