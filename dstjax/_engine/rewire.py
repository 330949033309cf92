"""The mask update of a whole tree, on lists of masked leaves: all that a branch of the step computes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import masks
from dstjax._arrays.selection import count_true
from dstjax._engine.drop_and_grow import drop_and_grow_all
from dstjax.masks import StoredMask
from dstjax.method import Method
from dstjax.rules import Network


class Topology(NamedTuple):
    """Everything that a mask update changes, for the masked leaves in order. Never weights, never moments."""

    masks: list[StoredMask]
    counters: list[jax.Array] | None
    ever: list[StoredMask] | None
    grown: list[StoredMask] | None
    n_grown: jax.Array | None
    n_survived: jax.Array | None
    error: jax.Array | None
    sets: list[StoredMask] | None  # a second set of weights that the method keeps
    shared: Any  # what it remembers of all leaves in common


def rewire(method: Method, old: Topology, network: Network, grow_keys: list[jax.Array]) -> Topology:
    """One mask update: drop and grow in every leaf, count, and track what is tracked.

    Args:
      method: a method with mask updates.
      old: the topology before.
      network: what the rules of the method read.
      grow_keys: a PRNG key for the growth of each leaf.

    Returns:
      The topology after, of the same structure, shapes, dtypes and shardings.
    """
    assert method.keep is not None
    leaves = network.leaves
    before = [leaf.mask for leaf in leaves]
    regrow = method.regrow
    heard: list[jax.Array] = []

    def asked(kept: jax.Array) -> jax.Array:
        heard.append(kept)
        return network.active - kept if regrow is None else jnp.maximum(regrow(network, kept), 0)

    moves = drop_and_grow_all(
        leaves,
        grow_keys,
        drop=method.drop,
        grow=method.grow,
        active=network.active,
        keep=method.keep(network),
        regrow=asked,
        target=network.target,
        scope=method.scope,
        structure=method.structure,
        regrow_dropped=method.regrow_dropped,
    )
    new = [move.mask for move in moves]
    result = old._replace(masks=_stored_like(old.masks, new))
    if method.remember is not None:
        memory = method.remember(network, heard[0], new)
        if old.sets is not None:
            result = result._replace(sets=_stored_like(old.sets, memory.sets or []))
        result = result._replace(shared=memory.shared)
    if old.counters is not None:
        result = result._replace(counters=[saturating_add(c, m) for c, m in zip(old.counters, new, strict=True)])
    if old.ever is not None:
        result = result._replace(
            ever=_stored_like(old.ever, [masks.unpack(e) | m for e, m in zip(old.ever, new, strict=True)])
        )
    if old.grown is not None:
        last = [masks.unpack(g) for g in old.grown]
        result = result._replace(
            grown=_stored_like(old.grown, [m & ~b for m, b in zip(new, before, strict=True)]),
            n_grown=count_true(last),
            n_survived=count_true([g & move.kept for g, move in zip(last, moves, strict=True)]),
        )
    if old.error is not None:
        result = result._replace(error=error([leaf.weight for leaf in leaves], new))
    return result


def _stored_like(old: list[StoredMask], new: list[jax.Array]) -> list[StoredMask]:
    return [masks.pack_like(m, o.dtype) for o, m in zip(old, new, strict=True)]


def saturating_add(counter: jax.Array, mask: jax.Array) -> jax.Array:
    """Adds one where the mask is set, and stays at the highest number of the dtype."""
    highest = np.array(np.iinfo(counter.dtype).max, counter.dtype)
    return counter + (mask & (counter < highest)).astype(counter.dtype)


def counter_dtype(updates: int | None) -> Any:
    """The smallest unsigned integer that holds the initial mask and every update; 16 bits where they never end."""
    highest = 2**16 - 1 if updates is None else updates + 1
    return next(d for d in (jnp.uint8, jnp.uint16, jnp.uint32) if highest <= jnp.iinfo(d).max)


def error(weights: list[jax.Array], new: list[jax.Array]) -> jax.Array:
    """Mask-incurred error of a list of weights: ||W * M - W||^2 / ||W||^2 over all of them, float32 scalar.

    Reference: DST-EE, Assumption 3 (tau squared).
    """
    squares = [jnp.square(w.astype(jnp.float32)) for w in weights]
    lost = sum(jnp.sum(jnp.where(m, 0.0, s)) for s, m in zip(squares, new, strict=True))
    total = jnp.asarray(sum(jnp.sum(s) for s in squares), jnp.float32)
    return jnp.where(total > 0, lost / jnp.maximum(total, jnp.finfo(jnp.float32).tiny), 0.0).astype(jnp.float32)
