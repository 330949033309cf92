"""Prunes, and grows, whole channels under a budget of latency: HALP, and the structured form of IEE.

Other methods run on any parameters; these need the channels of the network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, schedules
from dstjax.checks import check_choice, check_step
from dstjax.method import Masking, Method, Remembered, Start, Updates
from dstjax.methods.catalogue import CHANNELS, catalogued
from dstjax.methods.iee import iee
from dstjax.rules import Layers, Leaf, Value, bind, value
from dstjax.structures import Channels

__all__ = ["halp", "iee_structured"]

IMPORTANCES = ("taylor", "batch_norm", "magnitude")
_WHOLE = 2**20  # what a share is counted in
Flag = Callable[[jax.Array], jax.Array]


def _never(step: jax.Array) -> jax.Array:
    """Says no."""
    return jnp.zeros_like(step, bool)


def _after_update(schedule: schedules.Schedule, step: jax.Array) -> jax.Array:
    """Whether the last call was a mask update."""
    return jnp.asarray(schedule.is_update(step - 1))


def _stage_begins(stages: schedules.Stages, step: jax.Array) -> jax.Array:
    """Whether a call is the first of the estimation, or of the exploration."""
    return _after_update(stages, step) | (stages.in_last(step) & ~stages.in_last(step - 1))


class _OfAllLeaves(Value):
    """Stands for what has channels in several leaves."""

    def __call__(self, leaf: Leaf) -> jax.Array:
        """Refuses a leaf alone.

        Raises:
          ValueError: always; channels lie in several leaves.
        """
        raise ValueError("the importance of channels is that of all leaves; expected of_all(leaves).")


@value
class Accumulated(_OfAllLeaves):
    """Adds up the importance of each channel over a stage: the size of w g, summed over the weights that make it.

    That is the first-order change of the loss when the channel is switched off, of each batch. A convolution before a
    batch norm adds nothing to it, since the norm undoes its scale; gamma and beta are left: abs(gamma g + beta g').
    """

    structure: Channels
    kind: str  # 'taylor', or 'batch_norm' for vectors alone
    begins: Flag  # whether a call starts a new sum
    shows_all: Flag  # whether the forward pass sees inactive weights

    def of_all(self, leaves: Sequence[Leaf]) -> list[jax.Array]:
        """Returns the sums of all leaves."""
        step = leaves[0].step
        shown = [leaf.mask | self.shows_all(step) for leaf in leaves]
        products = [
            jnp.where(s, leaf.weight.astype(jnp.float32) * leaf.gradient.astype(jnp.float32), 0.0)
            if self.kind == "taylor" or leaf.weight.ndim == 1
            else jnp.zeros(leaf.weight.shape, jnp.float32)
            for s, leaf in zip(shown, leaves, strict=True)
        ]
        layouts = [leaf.layout for leaf in leaves]
        new = self.structure.placed(jnp.abs(self.structure.pooled(products, layouts)), layouts)
        again = self.begins(step)
        return [n + jnp.where(again, 0.0, leaf.memory) for n, leaf in zip(new, leaves, strict=True)]


@value
class Zeros(_OfAllLeaves):
    """Begins the sums of :class:`Accumulated`."""

    structure: Channels

    def of_all(self, leaves: Sequence[Leaf]) -> list[jax.Array]:
        """Returns zeros for all leaves."""
        return self.structure.placed(jnp.zeros(self.structure.pools.number), [leaf.layout for leaf in leaves])


def accumulated(leaf: Leaf) -> jax.Array:
    """Scores what was added up: each channel has its number at one weight, the others have zero."""
    first = jnp.ones((1,) * leaf.weight.ndim, bool)
    for axis, n in enumerate(leaf.memory.shape):
        if n == 1 and leaf.weight.shape[axis] > 1:
            shape = [-1 if a == axis else 1 for a in range(leaf.weight.ndim)]
            first = first & (jnp.arange(leaf.weight.shape[axis]) == 0).reshape(shape)
    return jnp.where(jnp.broadcast_to(first, leaf.weight.shape), leaf.memory, 0.0)


def _to_cost(structure: Channels, layers: Layers, goal: jax.Array) -> jax.Array:
    """Keeps the share of all active weights that a cost is of the present one; only the sum counts, int32[layers]."""
    share = jnp.minimum(goal / structure.cost([leaf.mask for leaf in layers.leaves]), 1.0)
    active = jnp.sum(layers.active, dtype=jnp.float32)
    stay = jnp.floor(active * share).astype(jnp.int32)
    return jnp.where(share >= 1, layers.active, jnp.zeros_like(layers.active).at[0].set(stay))


def _ramped(structure: Channels, updates: int, layers: Layers) -> jax.Array:
    """Keeps what the geometric mean of the dense cost and the budget costs, weighted by the pruning steps so far."""
    share = jnp.asarray(structure.budget, jnp.float32)
    progress = (layers.update_index + 1).astype(jnp.float32) / updates
    return _to_cost(structure, layers, structure.work.dense * share**progress)


def _exchanged(structure: Channels, stages: schedules.Stages, budget: schedules.Fractions, layers: Layers) -> jax.Array:
    """Keeps the budget less that of the cycle, at the end of its first stage; later all stay."""
    moving = budget.of(jnp.full(1, _WHOLE, jnp.int32), layers.update_index // 2)[0] / _WHOLE
    assert structure.budget is not None  # checked where the method is made
    kept = _to_cost(structure, layers, structure.work.dense * structure.budget * (1 - moving))
    return jnp.where(stages.ends_first(layers.step), kept, layers.active)


def _refilled(stages: schedules.Stages, layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows to the budget, which the structure knows, at the end of a cycle."""
    del kept
    return jnp.where(stages.ends_last(layers.step), layers.sizes, 0)


def _importance(method: Method, structure: Channels, importance: str, begins: Flag, shows_all: Flag) -> Method:
    if importance == "magnitude":
        return method.but(drop_score=criteria.magnitude, grow_score=criteria.magnitude)
    rule = Accumulated(structure, importance, begins, shows_all)
    remembered = Remembered(leaf=Zeros(structure), before_step=rule)
    return method.but(drop_score=accumulated, grow_score=accumulated, remembered=remembered)


def _check_channels(name: str, structure: Any) -> None:
    if not isinstance(structure, Channels) or structure.budget is None:
        raise ValueError(
            f"structure={structure!r} is not accepted by {name!r}; expected structures.channels(found, costs=table, "
            "budget=0.55) of the network."
        )


@catalogued("HALP", "structured", "shen2022", cost="dense_then_sparse", needs=(CHANNELS,))
def halp(
    *,
    structure: Channels,
    update_period: int = 40,
    start_step: int = 0,
    updates: int = 30,
    importance: str = "taylor",
) -> Method:
    """Prunes channels of a dense network, step by step, by a knapsack over the latency of its layers: HALP.

    Each of ``updates`` pruning steps keeps the channels of most importance whose layers cost at most as much as the
    geometric path from the dense cost to the budget allows. In the paper the network was trained dense before and is
    trained on for 90 epochs after. ``updates=1`` prunes once.

    Args:
      structure: ``structures.channels(found, costs=table, budget=0.55)``: the channels of the network, what its layers
        cost, and the share of the dense cost to reach.
      update_period: steps between pruning steps; over these importance is added up.
      start_step: no pruning before this step.
      updates: number of pruning steps.
      importance: 'taylor', the size of the sum of w g over the weights that make a channel; 'batch_norm', the same of
        vectors alone, gamma and beta; or 'magnitude', abs(w) at the step itself.

    Reference: Shen et al., "Structural pruning via latency-saliency knapsack", NeurIPS 2022. There a heuristic solves
    the knapsack, once, with inputs as they were, so that the network ends below its budget; here it is solved exactly,
    counts the layers that read a channel too, and is solved again for other capacities until the cost meets it.
    """
    _check_channels("halp", structure)
    check_step("updates", updates, 1)
    check_choice("importance", importance, IMPORTANCES)
    first = schedules.UpdateSchedule(update_period, start_step).first
    schedule = schedules.UpdateSchedule(update_period, start_step, first + (updates - 1) * update_period + 1)
    method = Method(
        "halp",
        Masking(_sparsity(structure), "uniform", structure=structure),
        Start(sparsity=0.0),
        Updates(schedule, bind(_ramped, structure, updates), budgets.no_growth, order="step_then_update"),
        promises="free",
    )
    return _importance(method, structure, importance, bind(_after_update, schedule), _never)


@catalogued("IEE, channels", "structured", "sun2025", cost="explore_channels", needs=("forward_params", CHANNELS))
def iee_structured(
    *,
    structure: Channels,
    update_period: int = 450,
    stages: tuple[int, int, int] | None = None,
    end_step: int | None,
    drop_fraction: float = 0.3,
    drop_schedule: str | schedules.StepFunction = "exponential",
    importance: str = "taylor",
    explore_from: str = "mru",
    grown_from: str = "explored",
    freeze: bool = True,
) -> Method:
    """Runs the cycle of IEE on whole channels under a budget of latency: the structured form of IEE.

    At the end of importance estimation the knapsack keeps the channels of most importance within the budget less the
    share that the cycle exchanges. After accuracy improvement all channels are on, and only those that were off are
    trained; at the end the knapsack grows those of most importance, until the network costs what the budget allows.
    What is not grown keeps its values, gamma and beta too, behind the masks.

    It trains from scratch, with random channels at first; or goes on from trained parameters, with ``initial_masks``
    from :func:`halp`.

    Args:
      structure: as in :func:`halp`.
      update_period: as in :func:`iee`, and so are the other arguments.
      stages: H, J and Q.
      end_step: in the paper after the 5th epoch of 130.
      drop_fraction: share of the budget that the first cycle exchanges.
      drop_schedule: how the share falls.
      importance: as in :func:`halp`; added up over the estimation, and over the exploration.
      explore_from: 'mru' or 'zero'.
      grown_from: 'explored' or 'zero'.
      freeze: whether active weights stand still while the others are explored.

    Reference: Sun et al., "Advancing weight and channel sparsification with enhanced saliency", WACV 2025, appendix.
    The paper grows by a knapsack of the exchanged share and does not say what happens where that leaves some of the
    budget, or more than it; here growth fills the budget.
    """
    _check_channels("iee_structured", structure)
    check_choice("importance", importance, IMPORTANCES)
    base = iee(
        sparsity=_sparsity(structure), distribution="uniform", structure=structure, update_period=update_period,
        stages=stages, end_step=end_step, drop_fraction=drop_fraction, drop_schedule=drop_schedule,
        explore_from=explore_from, grown_from=grown_from, freeze=freeze,
    )  # fmt: skip
    when: Any = base.moving.schedule
    end = when.cycles * when.period
    budget = schedules.Fractions(drop_fraction, drop_schedule, range(0, end, when.period), end)
    n_kept, n_grown = bind(_exchanged, structure, when, budget), bind(_refilled, when)
    method = base.but(n_kept=n_kept, n_grown=n_grown, name="iee_structured", promises="free")
    return _importance(method, structure, importance, bind(_stage_begins, when), bind(_in_last, when))


def _in_last(stages: schedules.Stages, step: jax.Array) -> jax.Array:
    """Whether a call is one that explores."""
    return jnp.asarray(stages.in_last(step))


def _sparsity(structure: Channels) -> float:
    """Returns what the budget leaves out of the dense cost."""
    return 1.0 - float(structure.budget or 1.0)
