"""How many weights a mask update keeps and grows; all counts are exact integers.

A ``keep`` rule reads the network and says how many active weights of each leaf stay. A ``regrow`` rule is told how many
have stayed and says how many are grown; a scalar stands for a common ranking over all leaves. Where a method has no
``regrow`` rule each leaf grows as many as it lost.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dstjax._arrays.shares import part_of, share_of
from dstjax._arrays.varying import varying_as
from dstjax.rules import Network
from dstjax.schedules import Fractions

Keep = Callable[[Network], jax.Array]
Regrow = Callable[[Network, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Move:
    """All but the drop fraction of the active weights of each leaf stay, and at least one."""

    fractions: Fractions
    ceil: bool = False  # round the number of dropped weights up

    def __call__(self, network: Network) -> jax.Array:
        """How many stay, int32[leaves]."""
        moving = self.fractions.of(network.active, network.update_index, ceil=self.ceil)
        return network.active - jnp.clip(moving, 0, jnp.maximum(network.active - 1, 0))


def ramp(progress: Fractions) -> Keep:
    """As many stay as lie between the initial and the final count, ``progress`` of the way."""

    def keep(network: Network) -> jax.Array:
        return network.initial - progress.of(network.initial - network.target, network.update_index)

    return keep


def target(network: Network) -> jax.Array:
    """As many as there are to be in the end."""
    return network.target


def none(network: Network) -> jax.Array:
    """None stay: the whole mask is chosen anew."""
    return jnp.zeros_like(network.active)


def no_growth(network: Network, kept: jax.Array) -> jax.Array:
    """Nothing is grown."""
    del network
    return jnp.zeros_like(kept)


def to_target(network: Network, kept: jax.Array) -> jax.Array:
    """As many as are missing to the final count."""
    return network.target - kept


def to(count: Keep) -> Regrow:
    """As many as are missing to a count."""
    return lambda network, kept: count(network) - kept


def pooled(regrow: Regrow) -> Regrow:
    """The same number altogether, in one ranking over all leaves."""
    return lambda network, kept: jnp.sum(regrow(network, kept))


def share(counts: jax.Array, fraction: jax.Array) -> jax.Array:
    """floor(fraction * count) for a fraction in [0, 1] that only a trace knows, float[]; int32 like ``counts``.

    A decimal such as 0.4 is not exact in binary, so a fraction is rounded up to a multiple of 2**-20: 0.4 of 30 is 12.
    """
    fixed = jnp.ceil(jnp.clip(fraction, 0, 1) * 2**20).astype(jnp.uint32)
    zero = jnp.zeros_like(fixed)
    limbs = [zero, zero, (fixed & 31) << 10, (fixed >> 5) & 0x7FFF, fixed >> 20]  # base 2**15, 60 bits behind the point
    return share_of(counts, jnp.stack(limbs)[:, None])


def deal(total: jax.Array, shares: jax.Array, room: jax.Array) -> jax.Array:
    """Deals ``total`` in proportion to ``shares``, no leaf more than its room, the rest of the division to the first.

    Args:
      total: int32[].
      shares: int32[leaves], at least 0.
      room: int32[leaves].

    Returns:
      int32[leaves] that add up to ``total``, or to all of the room.
    """
    total = jnp.minimum(total, jnp.sum(room))

    def unfinished(dealt: jax.Array) -> jax.Array:
        return jnp.sum(dealt) < total

    def again(dealt: jax.Array) -> jax.Array:
        left, free = total - jnp.sum(dealt), room - dealt
        wanted = jnp.where(free > 0, jnp.maximum(shares, 1), 0)
        part = jax.vmap(part_of, in_axes=(None, 0, None))(left, wanted, jnp.sum(wanted))
        more = jnp.minimum(part, free)
        # Less than one for each leaf is left in the end: one each, in order.
        ones = (free > 0) & (jnp.cumsum(free > 0) <= left)
        return dealt + jnp.where(jnp.sum(more) > 0, more, ones.astype(jnp.int32))

    return jax.lax.while_loop(unfinished, again, varying_as(jnp.zeros_like(room), total, shares, room))
