"""SET's drop: the weights of each sign that are closest to zero."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dstjax._arrays.shares import part_of
from dstjax.rules import Leaf, of_all_leaves
from dstjax.selection import count_true, top_k_masks


@of_all_leaves
def set_signs(leaves: Sequence[Leaf]) -> list[jax.Array]:
    """Drops the positive and the negative weights closest to zero, in equal numbers.

    Exact zeros go first, since they have no sign. An odd number takes one positive weight more, and where one sign runs
    out the other gives the rest, so that the number dropped is exact.

    Reference: Nowak et al., 2023, Section 3, of SET.
    """
    return _by_sign(leaves, lambda moving, n_positive, n_signed: moving - moving // 2)


@of_all_leaves
def set_fraction(leaves: Sequence[Leaf]) -> list[jax.Array]:
    """Drops the same fraction of the positive and of the negative weights, those closest to zero; exact zeros first.

    Reference: Mocanu et al., 2018, Algorithm 1. The fraction of the positive ones is rounded down, so that the number
    dropped is exact.
    """
    return _by_sign(leaves, part_of)


def _by_sign(leaves: Sequence[Leaf], share: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]) -> list[jax.Array]:
    """Scores zeros lowest, then as many positive weights as ``share`` says and the rest negative, then what stays."""
    layouts = tuple(leaf.layout for leaf in leaves)
    positive = [leaf.mask & (leaf.weight > 0) for leaf in leaves]
    negative = [leaf.mask & (leaf.weight < 0) for leaf in leaves]
    flags = [*positive, *negative, *(leaf.mask for leaf in leaves)]
    n_positive, n_negative, n_active = jnp.split(count_true(flags, layouts * 3), 3)
    budgets = jnp.concatenate([jnp.atleast_1d(leaf.budget) for leaf in leaves])
    moving = jnp.clip(budgets - (n_active - n_positive - n_negative), 0)
    wanted = jax.vmap(share)(moving, n_positive, n_positive + n_negative)
    from_positive = jnp.clip(wanted, jnp.maximum(moving - n_negative, 0), n_positive)
    sizes = [jnp.abs(leaf.weight) for leaf in leaves]
    staying = jnp.concatenate([n_positive - from_positive, n_negative - (moving - from_positive)])
    stay = top_k_masks([*sizes, *sizes], staying, where=[*positive, *negative], layouts=layouts * 2)
    # Dropped entries of either sign share one score, zeros lie below them; what stays is above both.
    return [
        jnp.where(high | low, jnp.int8(2), (p | n).astype(jnp.int8))
        for high, low, p, n in zip(stay, stay[len(leaves) :], positive, negative, strict=False)
    ]
