"""Scores that put rows, columns and channels on one scale."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.exact_sums import root_mean_square
from dstjax._arrays.layout import lanes_of
from dstjax.checks import check_number
from dstjax.rules import Leaf, Value, bind, value

_Score = Callable[[Leaf], jax.Array]


def _axes(leaf: Leaf) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the axes of the inputs, those of a window among them, and of the outputs; the last one if not known."""
    if leaf.layout is None:
        return tuple(range(leaf.weight.ndim - 1)), (leaf.weight.ndim - 1,)
    return leaf.layout.windows + leaf.layout.inputs, leaf.layout.outputs


def balanced(leaf: Leaf) -> jax.Array:
    """Scores abs(m) / sqrt(r c), where r and c are the root mean squares of m over a row and over a column.

    m is the average of the gradient that the method remembers, or else the gradient. A row is what one input of a
    layer feeds (of a convolution at one place of the window), a column what one output sums up; the layout says which
    axes they are. A layer without rows or columns is ranked by abs(m), and zeros score 0. The score has no unit, and is
    the same on every number of devices.

    Raises:
      ValueError: there is no gradient at hand, as where a method makes its memory.

    Reference: docs/balanced-growth.md.
    """
    remembered = leaf.memory if isinstance(leaf.memory, jax.Array) else leaf.gradient
    if remembered is None:
        raise ValueError("the score 'balanced' needs a gradient, and there is none yet; take it at a mask update.")
    m = jnp.abs(remembered.astype(jnp.float32))
    rows, columns = _axes(leaf)
    if not rows or not columns:
        return m
    scale = jnp.sqrt(root_mean_square(m, columns)) * jnp.sqrt(root_mean_square(m, rows))
    return jnp.where(scale > 0, m / jnp.where(scale > 0, scale, 1), 0)


def in_units(score: jax.Array, leaf: Leaf) -> jax.Array:
    """Divides a score by its root mean square over each layer; 0 where all of it is 0."""
    stack = lanes_of(leaf.layout)
    axes = tuple(a for a in range(score.ndim) if a not in stack)
    unit = root_mean_square(score, axes) if axes else jnp.abs(score)
    return jnp.where(unit > 0, score / jnp.where(unit > 0, unit, 1), 0)


@value
class AliveFirst(Value):
    """Scores as another criterion does, but outputs without an active weight come last; see :func:`alive_first`."""

    score: _Score

    def __call__(self, leaf: Leaf) -> jax.Array:
        """Returns the score."""
        score = self.score(leaf).astype(jnp.float32)
        rows, _ = _axes(leaf)
        alive = jnp.any(leaf.mask, axis=rows, keepdims=True) if rows else leaf.mask
        score = jnp.maximum(jnp.where(jnp.isnan(score), 0, score), 0)
        # -1 / x keeps the order of x, to the last bit or nearly, below all that is alive.
        return jnp.where(alive, score, -1 / jnp.maximum(score, jnp.finfo(jnp.float32).tiny))


def alive_first(score: _Score) -> AliveFirst:
    """Returns a growth rule that ranks as ``score`` does, with the outputs of a layer that no active weight feeds last.

    Under batch normalisation such a channel has no variance, which inflates its gradient, so that growth by the
    gradient takes it first. Scores below 0 count as 0.
    """
    return AliveFirst(score)


def among(share: Any, score: _Score) -> Callable[[Leaf], jax.Array]:
    """Returns a growth rule that ranks as ``score`` does, in a random share of the weights, drawn anew at each update.

    Where these are too few, others follow.

    Raises:
      ValueError: the share is not in (0, 1].
    """
    check_number("candidates", share, "a share in (0, 1]", lambda s: 0 < s <= 1)
    return bind(among_share, share, score)


def among_share(share: Any, score: _Score, leaf: Leaf) -> jax.Array:
    """Scores the lowest number outside of a random share; see :func:`among`."""
    drawn = jax.random.uniform(leaf.key, leaf.weight.shape, out_sharding=jax.typeof(leaf.weight).sharding)
    return jnp.where(drawn < share, score(leaf).astype(jnp.float32), jnp.finfo(jnp.float32).min)
