"""SET's drop: the weights of each sign that are closest to zero."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from dstjax._arrays.shares import part_of
from dstjax.rules import Leaf, choosing
from dstjax.selection import count_true, top_k_masks


def _zeros_first(leaves: Sequence[Leaf], marks: list[jax.Array]) -> list[jax.Array]:
    """Scores zeros lowest, then what has a sign and goes, then what stays."""
    signed = [leaf.mask & ((leaf.weight > 0) | (leaf.weight < 0)) for leaf in leaves]
    return [jnp.where(s & m, jnp.int8(2), s.astype(jnp.int8)) for s, m in zip(signed, marks, strict=True)]


@functools.partial(choosing, scores=_zeros_first)
def set_signs(leaves: Sequence[Leaf]) -> list[jax.Array]:
    """Drops the positive and the negative weights closest to zero, in equal numbers.

    Exact zeros go first, since they have no sign. An odd number takes one positive weight more, and where one sign runs
    out the other gives the rest, so that the number dropped is exact.

    Reference: Nowak et al., 2023, Section 3, of SET.
    """
    return _stay(leaves, lambda moving, n_positive, n_signed: moving - moving // 2)


@functools.partial(choosing, scores=_zeros_first)
def set_fraction(leaves: Sequence[Leaf]) -> list[jax.Array]:
    """Drops the same fraction of the positive and of the negative weights, those closest to zero; exact zeros first.

    Reference: Mocanu et al., 2018, Algorithm 1. The fraction of the positive ones is rounded down, so that the number
    dropped is exact.
    """
    return _stay(leaves, part_of)


def _stay(leaves: Sequence[Leaf], share: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]) -> list[jax.Array]:
    """Marks what stays when zeros go, then as many positive weights as ``share`` says and the rest negative."""
    layouts = tuple(leaf.layout for leaf in leaves)
    positive = [leaf.mask & (leaf.weight > 0) for leaf in leaves]
    negative = [leaf.mask & (leaf.weight < 0) for leaf in leaves]
    flags = [*positive, *negative, *(leaf.mask for leaf in leaves)]
    n_positive, n_negative, n_active = jnp.split(count_true(flags, layouts * 3), 3)
    budgets = jnp.concatenate([jnp.atleast_1d(leaf.budget) for leaf in leaves])
    n_zero = n_active - n_positive - n_negative
    moving = jnp.clip(budgets - n_zero, 0)
    wanted = jax.vmap(share)(moving, n_positive, n_positive + n_negative)
    from_positive = jnp.clip(wanted, jnp.maximum(moving - n_negative, 0), n_positive)
    # Zeros are the smallest of the positive ones: some of them stay only where all that have a sign do.
    stay_high = n_positive - from_positive + jnp.clip(n_zero - budgets, 0)
    stay_low = n_negative - (moving - from_positive)
    # One array holds both rankings: a TPU keeps it in vector memory, where two would not fit.
    scores = [_positive_first(leaf, p, n) for leaf, p, n in zip(leaves, positive, negative, strict=True)]
    numbers = jnp.concatenate([stay_high, n_active - n_negative + stay_low])
    best = top_k_masks([*scores, *scores], numbers, layouts=layouts * 2)
    return [high | (n & all_) for high, all_, n in zip(best, best[len(leaves) :], negative, strict=False)]


def _positive_first(leaf: Leaf, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Ranks positive active weights before zeros, and those before negative ones, the largest of each sign first.

    Returns the bits of abs(w) with that of the sign turned, unsigned; 0 for what is not active.
    """
    size = jnp.abs(leaf.weight)
    size = size if jnp.finfo(size.dtype).bits >= 16 else size.astype(jnp.float32)
    magnitude = jnp.where(positive | negative, size, jnp.zeros((), size.dtype))
    width = 8 * size.dtype.itemsize
    unsigned = jnp.dtype(f"uint{width}")
    bits = lax.bitcast_convert_type(magnitude, unsigned)
    bits = jnp.where(negative, bits, bits | unsigned.type(1 << (width - 1)))
    return jnp.where(leaf.mask, bits, jnp.zeros((), unsigned))
