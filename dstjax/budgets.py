"""How many weights a mask update keeps and grows; all counts are exact integers.

A rule ``n_kept(layers)`` says how many active weights of each leaf stay. A rule ``n_grown(layers, kept)`` is told how
many have stayed and says how many are grown; a scalar stands for one ranking over all leaves. Where a method has no
``n_grown`` each leaf grows as many as it lost.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dstjax._arrays import wide
from dstjax._arrays.shares import part_of as part_of
from dstjax._arrays.shares import share_limbs, share_of
from dstjax._arrays.varying import varying_as
from dstjax.checks import check_number
from dstjax.rules import Layers, Value, value
from dstjax.schedules import Shares

_LARGEST = 2**31 - 1

NKept = Callable[[Layers], jax.Array]
NGrown = Callable[[Layers, jax.Array], jax.Array]


@value
class Move(Value):
    """Keeps all but the drop fraction of the active weights of each leaf, and at least one."""

    fractions: Shares
    ceil: bool = False  # round the number of dropped weights up

    def __call__(self, layers: Layers) -> jax.Array:
        """How many stay, int32[layers]."""
        moving = self.fractions.of(layers.active, layers.update_index, ceil=self.ceil)
        return layers.active - jnp.clip(moving, 0, jnp.maximum(layers.active - 1, 0))


@value
class Ramp(Value):
    """Keeps as many as lie between the initial and the final count, ``progress`` of the way."""

    progress: Shares

    def __call__(self, layers: Layers) -> jax.Array:
        """How many stay, int32[layers]."""
        return layers.initial - self.progress.of(layers.initial - layers.target, layers.update_index)


@value
class To(Value):
    """Grows as many as are missing to a count."""

    count: NKept

    def __call__(self, layers: Layers, kept: jax.Array) -> jax.Array:
        """How many are grown, int32[layers]."""
        return self.count(layers) - kept


@value
class Pooled(Value):
    """Grows the same number altogether, in one ranking over all leaves."""

    n_grown: NGrown

    def __call__(self, layers: Layers, kept: jax.Array) -> jax.Array:
        """How many are grown, int32[]."""
        return layers.sum(self.n_grown(layers, kept))


def target(layers: Layers) -> jax.Array:
    """Keeps as many as there are to be in the end."""
    return layers.target


def none(layers: Layers) -> jax.Array:
    """Keeps none: the whole mask is chosen anew."""
    return jnp.zeros_like(layers.active)


def no_growth(layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows nothing."""
    del layers
    return jnp.zeros_like(kept)


def to_target(layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows as many as are missing to the final count."""
    return layers.target - kept


def share(counts: jax.Array, fraction: jax.Array) -> jax.Array:
    """floor(fraction * count) for a fraction in [0, 1] that only a trace knows, float[]; int32 like ``counts``.

    A decimal such as 0.4 is not exact in binary, so a fraction is rounded up to a multiple of 2**-20: 0.4 of 30 is 12.
    One below the least normal number of its dtype counts as 0, as XLA computes.
    """
    fixed = jnp.ceil(jnp.clip(fraction, 0, 1) * 2**20).astype(jnp.uint32)
    zero = jnp.zeros_like(fixed)
    limbs = [zero, zero, (fixed & 31) << 10, (fixed >> 5) & 0x7FFF, fixed >> 20]  # base 2**15, 60 bits behind the point
    return share_of(counts, jnp.stack(limbs)[:, None])


def times(counts: jax.Array, factor: float) -> jax.Array:
    """floor(factor * count) of a decimal that is known when the method is made, in [0, 1000]; int32 like ``counts``.

    Raises:
      ValueError: the factor is out of range.
    """
    check_number("factor", factor, "a number in [0, 1000]", lambda x: 0 <= x <= 1000)
    return share_of(counts, jnp.array(share_limbs(factor), jnp.uint32)[:, None])


def deal(total: jax.Array, shares: jax.Array, room: jax.Array) -> jax.Array:
    """Deals ``total`` in proportion to ``shares``, no layer more than its room.

    What rounding down and full layers leave is dealt in the same way, and in the end, where it is less than one for
    each, to the first layers that have room. Shares that add up to 2**31 or more lose their last bits.

    Args:
      total: int32[].
      shares: int32[layers], at least 0, which counts as 1.
      room: int32[layers].

    Returns:
      int32[layers] that add up to ``total``, or to all of the room.
    """
    total = jnp.minimum(total, jnp.minimum(wide.narrow(wide.total(room)), _LARGEST).astype(jnp.int32))

    def unfinished(dealt: jax.Array) -> jax.Array:
        return jnp.sum(dealt) < total

    def again(dealt: jax.Array) -> jax.Array:
        left, free = total - jnp.sum(dealt), room - dealt
        wanted = jnp.where(free > 0, jnp.maximum(shares, 1), 0)
        wanted >>= jnp.maximum(wide.BITS + 1 - jax.lax.clz(wide.total(wanted).high).astype(jnp.int32), 0)
        part = jax.vmap(part_of, in_axes=(None, 0, None))(left, wanted, jnp.sum(wanted))
        more = jnp.minimum(part, free)
        # Less than one for each layer is left in the end: one each, in order.
        ones = (free > 0) & (jnp.cumsum(free > 0) <= left)
        return dealt + jnp.where(jnp.sum(more) > 0, more, ones.astype(jnp.int32))

    return jax.lax.while_loop(unfinished, again, varying_as(jnp.zeros_like(room), total, shares, room))


def fill(wanted: jax.Array, room: jax.Array) -> jax.Array:
    """Fills each leaf up to its room, and spreads what is too much evenly over all, until everything fits.

    Args:
      wanted: float32[layers].
      room: float32[layers]; need not be whole.

    Returns:
      int32[layers], rounded down. After 1000 rounds what still does not fit is left out.
    """

    def is_over(loop: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(loop[0] > room) & (loop[1] < 1000)

    def spread(loop: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        excess = jnp.sum(jnp.maximum(loop[0] - room, 0))
        return jnp.minimum(loop[0], room) + excess / wanted.size, loop[1] + 1

    filled, _ = jax.lax.while_loop(is_over, spread, (jnp.maximum(wanted, 0), jnp.int32(0)))
    return jnp.floor(jnp.minimum(filled, room)).astype(jnp.int32)
