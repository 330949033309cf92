"""How well the network does, remembered from one mask update to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax.rules import Measured


class Record(NamedTuple):
    """What is in the state for a method that measures."""

    total: jax.Array  # float32[], sum of what was passed as value= since the last update
    number: jax.Array  # int32[], how many
    first: jax.Array  # float32[], the measure at the first update; 0 before it
    history: jax.Array  # float32[lag], the measure at the last updates, the oldest first
    updates: jax.Array  # int32[], how many updates had a measure that is a finite number


def begun(lag: int) -> Record:
    """The record before the first step; no two of its arrays are the same."""
    return Record(
        total=jnp.zeros((), jnp.float32),
        number=jnp.zeros((), jnp.int32),
        first=jnp.zeros((), jnp.float32),
        history=jnp.zeros(lag, jnp.float32),
        updates=jnp.zeros((), jnp.int32),
    )


def added(record: Record, value: Any) -> Record:
    """The record with the loss of one more step, unless it is no finite number."""
    loss = jnp.asarray(value, jnp.float32)
    known = jnp.isfinite(loss)
    return record._replace(
        total=record.total + jnp.where(known, loss, 0), number=record.number + known.astype(jnp.int32)
    )


def measured(record: Record, metric: Any) -> Measured:
    """What rules read: the mean loss since the last update, or what was passed as ``metric=`` if anything was.

    NaN where no loss was a finite number.
    """
    mean = jnp.where(record.number > 0, record.total / record.number.astype(jnp.float32), jnp.nan)
    now = mean if metric is None else jnp.asarray(metric, jnp.float32)
    return Measured(now, jnp.where(record.updates == 0, now, record.first), record.history, record.updates)


def closed(record: Record, found: Measured) -> Record:
    """The record after a mask update.

    What is no finite number is forgotten, else it would be the first loss of all later updates.
    """
    known, lag = jnp.isfinite(found.now), len(record.history)
    history = jnp.where(jnp.arange(lag) == lag - 1, found.now, jnp.roll(record.history, -1))
    return Record(
        jnp.zeros_like(record.total),
        jnp.zeros_like(record.number),
        jnp.where(known, found.first, record.first),
        jnp.where(known, history, record.history),
        record.updates + known.astype(jnp.int32),
    )
