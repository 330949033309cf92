"""One network from the first step to the last as one program: mask updates, records and evaluations included.

The programs of :mod:`experiments.training.steps` in loops on the device. What happens only at some places, such as a
mask update, is a loop of no or one turn: in a branch XLA would copy the weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training import steps
from experiments.training.steps import Lost, Recipe, Source, Sums, TrainState


class Pieces(NamedTuple):
    """Stretches of training, int32[pieces] each: the batches ``start`` to ``stop`` of an epoch, and what follows."""

    epoch: Any
    start: Any
    stop: Any
    update: Any  # the number of the next mask update
    rewires: Any  # 1 where it follows, on batch ``stop``
    ends: Any  # 1 where the epoch ends
    evaluation: Any  # the number of the next evaluation; the last one is of the test samples
    evaluates: Any  # 1 where it follows
    split: Any  # of which samples: 0 for validation, 1 for the test


class Seeds(NamedTuple):
    """What networks of several seeds are trained on; the axis of seeds comes first but for x and y."""

    x: Any  # float32[n, ...]
    y: Any  # int32[n]
    mean: Any  # float32[seeds, ...]
    key: Any  # uint32[seeds]
    order: Any  # int32[seeds, epochs, batches, batch size]
    rows: Any  # int32[seeds, 2, rows, evaluation batch]: the samples for validation and for the test, padded
    stops: Any  # int32[2]: how many rows of each count


class Found(NamedTuple):
    """What is recorded of a network."""

    updates: dict[str, Any]  # topology after each mask update, see steps.rewire
    sums: Sums  # of each epoch
    epochs: dict[str, Any]  # topology at the end of each epoch, see steps.inspect
    evaluations: tuple[Any, Any]  # loss and answers of each sample at each evaluation
    masks: dict[str, Any]  # of each masked leaf at the end
    pictures: tuple[dict[str, Any], dict[str, Any]]  # of the first masked layer, at first and at the end


def pieces(total: int, batches: int, is_update: Callable[[int], bool], every: int) -> Pieces:
    """The pieces of a run; the last is the evaluation on the test samples alone.

    Args:
      total: steps.
      batches: in an epoch.
      is_update: whether the host makes a step (from 1) a mask update.
      every: epochs between evaluations; there is one after the last step too.
    """
    found, updates, evaluations = [], 0, 0
    for epoch in range(-(-total // batches)):
        first, last, start = epoch * batches, min(batches, total - epoch * batches), 0
        for i in range(last):
            if is_update(first + i + 1):
                found.append((epoch, start, i, updates, 1, 0, evaluations, 0, 0))
                start, updates = i + 1, updates + 1
        due = (epoch + 1) % every == 0 or first + last == total
        found.append((epoch, start, last, updates, 0, 1, evaluations, int(due), 0))
        evaluations += due
    found.append((epoch, last, last, updates, 0, 0, evaluations, 1, 1))
    return Pieces(*np.array(found, np.int32).T)


def train(
    recipe: Recipe, decides: bool | None, sizes: tuple[int, int, int], seeds: Seeds, of: Pieces, i: Any, state: Any
) -> Found:
    """Trains the network of seed number ``i`` from its first state to the end.

    Args:
      recipe: of the networks.
      decides: False, or None where the state decides which steps are mask updates.
      sizes: mask updates that the host decides, epochs and evaluations.
      seeds: the data.
      of: the pieces.
      i: int32[].
      state: :class:`TrainState`.
    """
    source = Source(seeds.x, seeds.y, seeds.mean[i], seeds.key[i])
    masked = bool(steps.masked_leaves(state.opt_state))
    first = steps.picture(state) if masked else {}
    zero = Sums(jnp.float32(0), jnp.int32(0), Lost(*(jnp.int32(0) for _ in Lost._fields)))

    def evaluate(state: TrainState, split: Any) -> tuple[Any, Any]:
        return steps.evaluate(recipe.model, state, source, seeds.rows[i, split], seeds.stops[split])

    def rewire(state: TrainState, sums: Sums, order: Any, at: Any) -> tuple[TrainState, Sums, dict[str, Any]]:
        return steps.rewire(recipe, state, sums, source, order, at, None)

    def piece(n: Any, carry: Any) -> Any:
        state, sums, (updates, epochs, evaluations) = carry
        order = seeds.order[i, of.epoch[n]]
        state, sums = steps.run(recipe, decides, state, sums, source, order, of.start[n], of.stop[n])

        def update(at: Any, carry: Any) -> Any:
            state, sums, filled = carry
            state, sums, after = rewire(state, sums, order, of.stop[n])
            return state, sums, _put(filled, at, after)

        if sizes[0]:
            last = of.update[n] + of.rewires[n]
            state, sums, updates = jax.lax.fori_loop(of.update[n], last, update, (state, sums, updates))

        def end(at: Any, carry: Any) -> Any:
            return zero, _put(carry[1], at, (carry[0], steps.inspect(state)))

        sums, epochs = jax.lax.fori_loop(of.epoch[n], of.epoch[n] + of.ends[n], end, (sums, epochs))
        evaluations = jax.lax.fori_loop(
            of.evaluation[n],
            of.evaluation[n] + of.evaluates[n],
            lambda at, found: _put(found, at, evaluate(state, of.split[n])),
            evaluations,
        )
        return state, sums, (updates, epochs, evaluations)

    after = jax.eval_shape(rewire, state, zero, seeds.order[i, 0], jnp.int32(0))[2] if sizes[0] else {}
    room = (
        _room(sizes[0], after),
        _room(sizes[1], jax.eval_shape(lambda: (zero, steps.inspect(state)))),
        _room(sizes[2], jax.eval_shape(evaluate, state, jnp.int32(0))),
    )
    state, _, (updates, (sums, epochs), evaluations) = jax.lax.fori_loop(
        0, of.epoch.shape[0], piece, (state, zero, room)
    )
    pictures = first, steps.picture(state) if masked else {}
    return Found(updates, sums, epochs, evaluations, steps.masked_leaves(state.opt_state), pictures)


def _room(number: int, shapes: Any) -> Any:
    """Zeros for a number of records."""
    return jax.tree.map(lambda s: jnp.zeros((number, *s.shape), s.dtype), shapes)


def _put(records: Any, at: Any, values: Any) -> Any:
    """Writes a record in its place."""
    return jax.tree.map(lambda r, v: r.at[at].set(v), records, values)
