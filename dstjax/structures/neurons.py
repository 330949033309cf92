"""The same number of inputs for every neuron."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dstjax._arrays.lanes import line_up, of_each, spread
from dstjax._arrays.layout import Layout
from dstjax._arrays.shares import share_limbs, share_of
from dstjax.checks import check_number
from dstjax.selection import count_true, top_k_masks
from dstjax.structures.weights import (
    Array,
    Arrays,
    Kept,
    Layouts,
    Scores,
    Shapes,
    Stored,
    Weight,
    known,
    numbers,
    stored_as,
    told,
)


@dataclasses.dataclass(frozen=True)
class FanIn(Weight):
    """Gives every neuron (an output) the same number of inputs, and ablated neurons none.

    Several axes of outputs count as one; the inputs of a neuron are those of the whole window. A neuron with fewer
    salient weights than ``ablation`` of the fan-in is switched off, and the others share its inputs. A weight is
    salient if magnitude keeps it, or if it is among the best by the growth score, as many as are dropped, in the whole
    layer (Lasby et al., "Dynamic sparse training with structured sparsity", ICLR 2024). Every update decides anew, so a
    neuron may return. Where a neuron would keep more than the fan-in, the drop score decides what goes; the authors'
    code cuts in no particular order.
    """

    ablation: float = 0.3
    exact: ClassVar[bool] = False
    refills: ClassVar[bool] = (
        True  # as many neurons as divide the budget with a rest leave the rest out until the next update
    )
    keeps_counts: ClassVar[bool] = False
    ranks_together: ClassVar[bool] = False
    reads_layout: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("ablation", self.ablation, "a number in [0, 1)", lambda a: 0 <= a < 1)

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns whole fan-ins."""
        for path, n in counts.items():
            if isinstance(n, int) and n < shapes[path][-1]:
                raise ValueError(
                    f"{told(path, *stored_as(path, shapes, stored))} would have {n} active weights for "
                    f"{shapes[path][-1]} neurons, a fan-in below one; expected a lower sparsity, or leave the leaf "
                    "dense with maskable=lambda path, leaf: ..."
                )
        return {path: n // shapes[path][-1] * shapes[path][-1] for path, n in counts.items()}

    def best(self, scores: Sequence[jax.Array], counts: Any, layouts: Layouts = None) -> Arrays:
        """Marks the best inputs of every neuron."""
        where = known(layouts, scores)
        wanted = of_each(numbers(counts), [s.shape for s in scores], where)
        fans = [n // Neurons.of(at, s.shape).number for s, n, at in zip(scores, wanted, where, strict=True)]
        return best_of_neurons(scores, fans, None, where)

    def holds(self, masks: Arrays, prunes: bool = False, layouts: Layouts = None) -> Arrays:
        """Returns whether all neurons of a layer that have inputs have equally many; any mask can be pruned to that."""
        if prunes:
            return super().holds(masks, prunes, layouts)
        found, where = [], known(layouts, masks)
        for mask, layout, counts in zip(masks, where, counted_by_neuron(masks, where), strict=True):
            highest = Neurons.of(layout, mask.shape).highest(counts)
            found.append(jnp.all((counts == 0) | (counts == highest)))
        return found

    def drop(
        self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array, layouts: Layouts = None
    ) -> Kept:
        """Keeps the best of the layer, without ablated neurons, at most the fan-in of each neuron."""
        where, shapes = known(layouts, scores), [s.shape for s in scores]
        dropped = count_true(masks, tuple(where)) - keep
        best = top_k_masks(scores, keep, where=masks, layouts=tuple(where))
        other = top_k_masks(salient(), dropped, layouts=tuple(where))
        chosen = counted_by_neuron([b | o for b, o in zip(best, other, strict=True)], where)
        fans, alive = [], []
        for layout, goal, shape, found in zip(where, of_each(target, shapes, where), shapes, chosen, strict=True):
            neurons = Neurons.of(layout, shape)
            fan_in = goal // neurons.number
            fewest = goal // neurons.inputs  # so many neurons at least must be left to hold the budget
            threshold = jnp.maximum(1, share_of(jnp.asarray(fan_in, jnp.int32), share_limbs(self.ablation)))
            threshold = jnp.minimum(threshold, neurons.ranked(found, jnp.clip(fewest, 0, neurons.number - 1)))
            alive.append(found >= threshold)
            fans.append(goal // jnp.maximum(neurons.summed(alive[-1]), 1))
        stays = [b & a for b, a in zip(best, alive, strict=True)]
        kept = best_of_neurons(scores, fans, stays, where)
        return kept, [~k & a for k, a in zip(kept, alive, strict=True)]

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array, layouts: Layouts = None) -> Arrays:
        """Grows the best inputs of every neuron that is not ablated, up to the fan-in."""
        where, shapes = known(layouts, scores), [s.shape for s in scores]
        total = of_each(count_true(kept, tuple(where)) + n, shapes, where)
        has = counted_by_neuron(kept, where)
        may = counted_by_neuron([k | r for k, r in zip(kept, room, strict=True)], where)
        wanted = []
        for layout, shape, budget, own, most in zip(where, shapes, total, has, may, strict=True):
            neurons = Neurons.of(layout, shape)
            # Where fewer are to be grown than would make the neurons equal, they become equal all the same.
            fan_in = jnp.maximum(budget // jnp.maximum(neurons.summed(most > 0), 1), neurons.highest(own))
            wanted.append(jnp.where(most > 0, fan_in - own, 0))
        return best_of_neurons(scores, wanted, room, where)


@dataclasses.dataclass(frozen=True)
class Neurons:
    """Sums counts of neurons by layer; counts have all axes of the leaf, of length one where they were summed over."""

    layout: Layout
    shape: tuple[int, ...]
    number: int  # neurons of a layer
    inputs: int  # weights that lead to a neuron

    @staticmethod
    def of(layout: Layout, shape: tuple[int, ...]) -> "Neurons":
        """Returns those of a leaf."""
        *inputs, number = layout.kernel(shape)
        return Neurons(layout, shape, number, math.prod(inputs))

    def summed(self, flags: jax.Array) -> jax.Array:
        """Counts the neurons of each layer that are set, int32."""
        return jnp.sum(flags, axis=self.layout.outputs, dtype=jnp.int32, keepdims=True)

    def highest(self, counts: jax.Array) -> jax.Array:
        """Returns the highest count of each layer."""
        return jnp.max(counts, axis=self.layout.outputs, keepdims=True)

    def ranked(self, counts: jax.Array, place: jax.Array) -> jax.Array:
        """Returns in each layer the count at a place, the highest at 0."""
        matrix = line_up(counts, self.layout.stack + self.layout.outputs).reshape(-1, self.number)
        falling = jnp.sort(matrix, axis=1)[:, ::-1]
        places = jnp.broadcast_to(line_up(place, self.layout.stack), (len(matrix),))
        found = jnp.take_along_axis(falling, places[:, None], axis=1)[:, 0]
        return spread(found, self.layout.stack, (*self.shape,)) if self.layout.stack else found[0]


def _by_neuron(layout: Layout) -> Layout:
    """Returns the layout in which every neuron is a layer of its own."""
    return Layout(tuple("stack" if word == "out" else word for word in layout.axes))


def counted_by_neuron(masks: Arrays, where: Sequence[Layout]) -> Arrays:
    """Counts the True entries of each neuron of all leaves in one pass, int32; every device gets all counts."""
    by_neuron = tuple(map(_by_neuron, where))
    return of_each(count_true(masks, by_neuron), [m.shape for m in masks], by_neuron)


def best_of_neurons(scores: Sequence[jax.Array], ks: Arrays, among: Arrays | None, where: Sequence[Layout]) -> Arrays:
    """Marks the best inputs of every neuron of all leaves in one search, as many as ``ks``.

    Args:
      scores: of each leaf.
      ks: for each leaf numbers that can be compared with its scores.
      among: the candidates of each leaf; all inputs if None.
      where: what the axes of each leaf mean.
    """
    by_neuron = tuple(map(_by_neuron, where))
    wanted = []
    for score, k, layout in zip(scores, ks, by_neuron, strict=True):
        shape = [n if a in layout.stack else 1 for a, n in enumerate(score.shape)]
        wanted.append(line_up(jnp.broadcast_to(jnp.asarray(k, jnp.int32), shape), layout.stack))
    return top_k_masks(scores, jnp.concatenate(wanted), where=among, layouts=by_neuron)


def fan_in(ablation: float = 0.3) -> FanIn:
    """Returns a constant fan-in with neuron ablation; 0 ablates only neurons without any salient weight."""
    return FanIn(ablation)
