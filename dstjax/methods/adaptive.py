"""Methods that grow back fewer connections the better the network performs: their number falls while they train.

With p in [0, 1] the performance and gamma the number of connections at the start, each update drops the drop fraction
and then grows theta * (gamma - n) of the missing ones at random, theta = 1 - (p - p * k) / (k - 2 * k * |p| + 1), the
normalised tunable sigmoid. The last update only drops. Give ``update_period`` = the steps of an epoch.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dstjax import budgets
from dstjax._arrays.trees import is_traced
from dstjax.checks import check_choice, check_integer, check_number
from dstjax.method import Method, catalogued, rewiring
from dstjax.rules import Memory, Network

PERFORMANCES = ("accuracy", "loss", "validation_loss")


class _Record(NamedTuple):
    """What is remembered of the performance."""

    total: jax.Array  # float32[], sum of the losses since the last update
    number: jax.Array  # int32[], how many
    first: jax.Array  # float32[], the measure at the first update; 0 before it
    history: jax.Array  # float32[lag], the measure at the last updates, the oldest first
    updates: jax.Array  # int32[], how many updates had a measure that is a finite number


_DEFAULTS: dict[str, Any] = dict(
    drop="set_fraction", grow="random", drop_schedule="constant", update_order="step_then_update"
)


@catalogued(**_DEFAULTS)
def accset(*, k: float = 0.0, **shared: Any) -> Method:
    """AccSET: the performance is the validation accuracy, passed as ``metric=`` in [0, 1] at each mask update.

    Args:
      k: shape of the sigmoid in (-1, 1); 0 makes theta = 1 - p.
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_fraction=0.3,
        drop_schedule='constant', update_order='step_then_update'.

    Reference: Lapshyna, "Sparse artificial neural networks: adaptive performance-based connectivity inspired by
    human-brain processes", 2020, as given by Scholte, "Regrowing strategies for dynamic sparse training", 2022,
    Algorithm 1. That the deficit counts against the start, not the epoch, agrees with the latter's pseudocode and
    reported numbers.
    """
    return _regrowing("accset", "accuracy", k, None, shared)


@catalogued(**_DEFAULTS)
def lset(*, performance: str = "loss", k: float = 0.0, **shared: Any) -> Method:
    """LSET: the performance is p = 1 - loss / first loss.

    Args:
      performance: 'loss', the mean of ``value=`` over the steps since the last update; 'validation_loss', passed as
        ``metric=`` at each update; 'accuracy', as in AccSET.
      k: shape of the sigmoid in (-1, 1).
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_fraction=0.3,
        drop_schedule='constant', update_order='step_then_update'.

    Reference: Scholte, "Regrowing strategies for dynamic sparse training", 2022. It does not print the function of the
    loss; this one is inferred from its numbers of connections. The first loss is that of the first update.
    """
    return _regrowing("lset", performance, k, None, shared)


@catalogued(**_DEFAULTS)
def dynset(*, performance: str = "loss", k: float = 0.0, lag: int = 3, **shared: Any) -> Method:
    """DynSET: LSET, with a pause whenever the performance is worse than ``lag`` updates ago.

    In a pause nothing is dropped and nothing grown. There is none before ``lag`` + 2 updates.

    Args:
      performance: as in :func:`lset`.
      k: shape of the sigmoid in (-1, 1).
      lag: the pseudocode compares with 3 epochs ago, the text says five.
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_fraction=0.3,
        drop_schedule='constant', update_order='step_then_update'.

    Reference: Scholte, "Regrowing strategies for dynamic sparse training", 2022, Algorithm 2.
    """
    check_integer("lag", lag, 1)
    return _regrowing("dynset", performance, k, lag, shared)


def sigmoid(p: jax.Array, k: float) -> jax.Array:
    """The normalised tunable sigmoid (p - p * k) / (k - 2 * k * |p| + 1)."""
    return (p - p * k) / (k - 2 * k * jnp.abs(p) + 1)


def _regrowing(name: str, performance: str, k: float, lag: int | None, shared: dict[str, Any]) -> Method:
    check_choice("performance", performance, PERFORMANCES)
    check_number("k", k, "a number in (-1, 1)", lambda v: -1 < v < 1)
    base = rewiring(name, **shared)
    assert base.updates is not None
    assert base.keep is not None
    updates, move, by_value = base.updates.count, base.keep, performance == "loss"

    def measure(network: Network) -> jax.Array:
        record = network.memory.shared
        mean = record.total / jnp.maximum(record.number, 1).astype(jnp.float32)
        return mean if by_value else jnp.asarray(network.metric, jnp.float32)

    def level(network: Network) -> jax.Array:
        """p, the performance in [0, 1]; NaN where what was measured is none."""
        m = measure(network)
        if performance == "accuracy":
            return m
        record = network.memory.shared
        first = jnp.where(record.updates == 0, m, record.first)
        return jnp.clip(1 - m / jnp.where(first == 0, 1, first), 0, 1)

    def paused(network: Network) -> jax.Array:
        """A measure that is no finite number pauses too: nobody knows how many to grow."""
        m = measure(network)
        if lag is None:
            return ~jnp.isfinite(m)
        record = network.memory.shared
        before = record.history[0]
        worse = m < before if performance == "accuracy" else m > before
        return ~jnp.isfinite(m) | (worse & (record.updates > lag))

    def keep(network: Network) -> jax.Array:
        return jnp.where(paused(network), network.active, move(network))

    def regrow(network: Network, kept: jax.Array) -> jax.Array:
        p = jnp.nan_to_num(level(network))
        grown = budgets.share(jnp.maximum(network.target - kept, 0), 1 - sigmoid(p, k))
        still = paused(network) if updates is None else paused(network) | (network.update_index >= updates - 1)
        return jnp.where(still, 0, grown)

    def observe(network: Network) -> Memory:
        if performance == "accuracy" and network.metric is not None and not is_traced(network.metric):
            check_number("metric", network.metric, "an accuracy in [0, 1]", lambda a: 0 <= a <= 1)
        if not by_value or network.value is None:
            return network.memory
        record = network.memory.shared
        total = record.total + jnp.asarray(network.value, jnp.float32)
        return network.memory._replace(shared=record._replace(total=total, number=record.number + 1))

    def remember(network: Network, kept: jax.Array, new: list[jax.Array]) -> Memory:
        """What is no finite number is forgotten, else it would be the first loss of all later updates."""
        del kept, new
        record, m = network.memory.shared, measure(network)
        known = jnp.isfinite(m)
        return network.memory._replace(
            shared=_Record(
                jnp.zeros_like(record.total),
                jnp.zeros_like(record.number),
                jnp.where(known & (record.updates == 0), m, record.first),
                jnp.where(known, jnp.concatenate([record.history[1:], m[None]]), record.history),
                record.updates + known.astype(jnp.int32),
            )
        )

    def memory(weights: list[jax.Array], masks: list[jax.Array], key: jax.Array) -> Memory:
        return Memory(
            shared=_Record(
                jnp.zeros((), jnp.float32),
                jnp.zeros((), jnp.int32),
                jnp.zeros((), jnp.float32),
                jnp.zeros(lag or 1, jnp.float32),
                jnp.zeros((), jnp.int32),
            )
        )

    return dataclasses.replace(
        base,
        counts="free",
        keep=keep,
        regrow=regrow,
        memory=memory,
        observe=observe,
        remember=remember,
        metric="accuracy" if performance == "accuracy" else "loss",
        needs=("value",) if by_value else ("metric",),
    )
