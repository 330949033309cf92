"""Grows back fewer connections the better the network performs: their number falls in training.

With p in [0, 1] the performance and gamma the number of connections at the start, each update drops the drop fraction
and then grows theta * (gamma - n) of the missing ones at random, theta = 1 - (p - p * k) / (k - 2 * k * |p| + 1), the
normalised tunable sigmoid. The last update only drops (Algorithm 1 of Scholte, 2022), after all that the paper reports:
its numbers of connections are those after additions. ``last_drops=False`` leaves that last removal out, and ends with
the network that the paper reports. Give ``update_period`` = the steps of an epoch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax import budgets
from dstjax.checks import check_bool, check_choice, check_integer, check_number
from dstjax.method import Method, refuse_n_m, rewiring
from dstjax.methods.catalogue import catalogued
from dstjax.rules import Layers, bind

__all__ = ["accset", "dynset", "lset"]

PERFORMANCES = ("accuracy", "loss", "validation_loss")
Paused = Callable[[Layers], jax.Array]
_DEFAULTS: dict[str, Any] = dict(
    drop="set_fraction", grow="random", drop_schedule="constant", update_order="step_then_update"
)


@catalogued(
    "AccSET", "performance-driven", "lapshyna2020", "scholte2022", cost="always_sparse", needs=("metric=",), **_DEFAULTS
)
def accset(*, k: float = 0.0, last_drops: bool = True, **shared: Any) -> Method:
    """Takes the validation accuracy for the performance, passed as ``metric=`` in [0, 1] at each mask update: AccSET.

    Args:
      k: shape of the sigmoid in (-1, 1); 0 makes theta = 1 - p.
      last_drops: whether the last update before ``end_step`` grows nothing; see above.
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_fraction=0.3,
        drop_schedule='constant', update_order='step_then_update'.

    Reference: Lapshyna, "Sparse artificial neural networks: adaptive performance-based connectivity inspired by
    human-brain processes", 2020, as given by Scholte, "Regrowing strategies for dynamic sparse training", 2022,
    Algorithm 1. The deficit counts against the start, not the epoch, which agrees with the pseudocode and the reported
    numbers of the latter.
    """
    return _regrowing("accset", "accuracy", k, None, last_drops, shared)


@catalogued("LSET", "performance-driven", "scholte2022", cost="always_sparse", needs=("value=", "metric="), **_DEFAULTS)
def lset(*, performance: str = "loss", k: float = 0.0, last_drops: bool = True, **shared: Any) -> Method:
    """Takes p = 1 - loss / first loss for the performance: LSET.

    Args:
      performance: 'loss', the mean of ``value=`` over the steps since the last update; 'validation_loss', passed as
        ``metric=`` at each update; 'accuracy', as in AccSET.
      k: shape of the sigmoid in (-1, 1).
      last_drops: whether the last update before ``end_step`` grows nothing; see above.
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_fraction=0.3,
        drop_schedule='constant', update_order='step_then_update'.

    Reference: Scholte, "Regrowing strategies for dynamic sparse training", 2022. It does not print the function of the
    loss; we inferred this one from its numbers of connections. The first loss is that of the first update.
    """
    return _regrowing("lset", performance, k, None, last_drops, shared)


@catalogued(
    "DynSET", "performance-driven", "scholte2022", cost="always_sparse", needs=("value=", "metric="), **_DEFAULTS
)
def dynset(
    *, performance: str = "loss", k: float = 0.0, lag: int = 3, last_drops: bool = True, **shared: Any
) -> Method:
    """Pauses LSET whenever the performance is worse than ``lag`` updates ago: DynSET.

    In a pause nothing is dropped and nothing grown. There is none before ``lag`` + 2 updates.

    Args:
      performance: as in :func:`lset`.
      k: shape of the sigmoid in (-1, 1).
      lag: the pseudocode compares with 3 epochs ago, the text says five.
      last_drops: whether the last update before ``end_step`` grows nothing; see above.
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_fraction=0.3,
        drop_schedule='constant', update_order='step_then_update'.

    Reference: Scholte, "Regrowing strategies for dynamic sparse training", 2022, Algorithm 2.
    """
    check_integer("lag", lag, 1)
    return _regrowing("dynset", performance, k, lag, last_drops, shared)


def sigmoid(p: jax.Array, k: float) -> jax.Array:
    """Returns the normalised tunable sigmoid (p - p * k) / (k - 2 * k * |p| + 1)."""
    return (p - p * k) / (k - 2 * k * jnp.abs(p) + 1)


def _paused(performance: str, lag: int | None, layers: Layers) -> jax.Array:
    """Whether nothing moves: the performance is no finite number, or worse than ``lag`` updates ago."""
    m = layers.measured
    assert m is not None  # the method measures
    if lag is None:
        return ~jnp.isfinite(m.now)
    is_worse = m.now < m.before[0] if performance == "accuracy" else m.now > m.before[0]
    return ~jnp.isfinite(m.now) | (is_worse & (m.updates > lag))


def _kept_unless_paused(paused: Paused, n_kept: budgets.NKept, layers: Layers) -> jax.Array:
    """Drops the drop fraction, but nothing in a pause."""
    return jnp.where(paused(layers), layers.active, n_kept(layers))


def _deficit(
    performance: str, paused: Paused, k: float, last: int | None, layers: Layers, kept: jax.Array
) -> jax.Array:
    """The share theta of the connections that are missing; none in a pause, nor in the last update."""
    p = jnp.nan_to_num(_level(performance, layers))
    grown = budgets.share(jnp.maximum(layers.target - kept, 0), 1 - sigmoid(p, k))
    still = paused(layers)
    return jnp.where(still if last is None else still | (layers.update_index >= last), 0, grown)


def _level(performance: str, layers: Layers) -> jax.Array:
    """p, the performance in [0, 1]: the accuracy, or by how much the loss has fallen since the first update."""
    m = layers.measured
    assert m is not None  # the method measures
    return m.now if performance == "accuracy" else jnp.clip(1 - m.now / jnp.where(m.first == 0, 1, m.first), 0, 1)


def _regrowing(
    name: str, performance: str, k: float, lag: int | None, last_drops: bool, shared: dict[str, Any]
) -> Method:
    check_choice("performance", performance, PERFORMANCES)
    check_number("k", k, "a number in (-1, 1)", lambda v: -1 < v < 1)
    check_bool("last_drops", last_drops)
    base = rewiring(name, **shared)
    assert base.masking is not None  # it drops and grows
    refuse_n_m(name, base.masking)
    if getattr(base.masking.structure, "refills", False):
        raise ValueError(
            f"structure={base.masking.structure} is not accepted by {name!r}, which ends with fewer weights than its "
            "start: it grows back what is missing. Expected single weights, blocks or units."
        )
    count, paused = base.moving.schedule.count, bind(_paused, performance, lag)
    last = None if count is None or not last_drops else count - 1
    measure = "value" if performance == "loss" else "metric"
    return base.but(
        promises="free",
        needs=(measure,),
        metric="accuracy" if performance == "accuracy" else "loss",
        n_kept=bind(_kept_unless_paused, paused, base.moving.n_kept),
        n_grown=bind(_deficit, performance, paused, k, last),
        measure=measure,
        lag=lag or 1,
    )
