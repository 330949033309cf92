"""What a network costs as a function of its widths: the sum of its layers, each a table over its inputs and outputs."""

import dataclasses
import functools
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from dstjax.checks import check_choice, check_number, suggest
from dstjax.structures.pools import Pools

UNITS = ("weights", "FLOPs", "seconds")
Axis = tuple[int, tuple[tuple[int, int], ...]]  # indices that stay, and pools with how many each of their groups has


@dataclasses.dataclass(frozen=True)
class Side:
    """Says how many inputs, or outputs, a layer has: the product of its axes, each a sum over pools."""

    axes: tuple[Axis, ...] = ()

    @property
    def pools(self) -> tuple[int, ...]:
        """Returns the pools that it depends on."""
        return tuple(pool for _, pools in self.axes for pool, _ in pools)

    def of(self, widths: Sequence[int]) -> int:
        """Returns the number at some widths."""
        return math.prod(stay + sum(n * int(widths[pool]) for pool, n in pools) for stay, pools in self.axes)


@dataclasses.dataclass(frozen=True)
class Layer:
    """Holds what a layer costs at some numbers of inputs and outputs; between them it is interpolated."""

    name: str
    inputs: Side
    outputs: Side
    at_inputs: tuple[int, ...]  # rising, from 0
    at_outputs: tuple[int, ...]
    costs: tuple[tuple[float, ...], ...]  # [inputs][outputs]

    def __post_init__(self) -> None:
        shape = (len(self.at_inputs), len(self.at_outputs))
        table = np.asarray(self.costs, np.float64)
        rising = all(at[:1] == (0,) and (np.diff(at) > 0).all() for at in (self.at_inputs, self.at_outputs))
        if min(shape) < 2 or table.shape != shape or not rising:
            raise ValueError(
                f"the table of {self.name!r} has the shape {table.shape} at {shape} numbers of channels; expected one "
                "cost for each pair of numbers that rise from 0."
            )
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise ValueError(f"the table of {self.name!r} is not accepted; expected finite costs >= 0.")


class _Arrays(NamedTuple):
    """All layers at once; tables are padded."""

    stay: np.ndarray  # [2, axes, layers], inputs and outputs
    per: np.ndarray  # [2, axes, pools, layers]
    at: np.ndarray  # [2, layers, points], inf after the last
    costs: np.ndarray  # [layers, points, points]


@dataclasses.dataclass(frozen=True)
class Work:
    """Holds the cost of a network; ``unit`` says what of: 'weights', 'FLOPs' or 'seconds'."""

    unit: str
    layers: tuple[Layer, ...]
    full: tuple[int, ...]  # the widths of the dense network
    constant: float = 0.0  # what no width changes

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, UNITS)
        check_number("constant", self.constant, "a finite cost >= 0", lambda c: 0 <= c < math.inf)
        for layer in self.layers:
            if any(not 0 <= pool < len(self.full) for pool in layer.inputs.pools + layer.outputs.pools):
                raise ValueError(f"the layer {layer.name!r} names a pool that is not there; expected another table.")
            ends = layer.inputs.of(self.full), layer.outputs.of(self.full)
            if ends != (layer.at_inputs[-1], layer.at_outputs[-1]):
                raise ValueError(
                    f"the table of {layer.name!r} ends at {layer.at_inputs[-1]} x {layer.at_outputs[-1]} channels; the "
                    f"layer has {ends[0]} x {ends[1]}."
                )
        if not self.layers or not 0 < self.dense < float("inf"):
            raise ValueError("the network costs nothing; expected layers with a cost above 0.")

    def check(self, pools: Pools, leaves: Collection[str], multiplied: Collection[str]) -> None:
        """Refuses a table that is not of these channels.

        Args:
          pools: the channels.
          leaves: the paths of all leaves of the network.
          multiplied: those that it multiplies by.

        Raises:
          ValueError: it is of other pools, has an entry of another leaf or of other channels of a leaf, or lacks one.
        """
        if self.full != pools.sizes:
            raise ValueError(
                f"the table of costs is of {len(self.full)} pools of {sum(self.full)} channels, the network has "
                f"{len(pools.sizes)} of {pools.number}; expected one made of the same channels, and with the same "
                "whole=."
            )
        known = dict(zip(pools.paths, pools.counts, strict=True))
        entries = {x.name for x in self.layers}
        for x in self.layers:
            if x.name not in leaves:
                raise ValueError(
                    f"the table of costs has an entry {x.name!r}, which is no leaf; {suggest(x.name, leaves)}"
                )
            own = {pool for counts in known.get(x.name, ()) for pool, n in enumerate(counts) if n}
            if not {*x.inputs.pools, *x.outputs.pools} <= own:
                raise ValueError(
                    f"the entry {x.name!r} of the table of costs is of other channels than the leaf has; expected a "
                    "table made of this network."
                )
        if lost := sorted({*multiplied} - entries):
            raise ValueError(f"the table of costs lacks entries: {', '.join(lost)}; expected one made of this network.")

    @functools.cached_property
    def _arrays(self) -> _Arrays:
        n, points = len(self.layers), max(len(at) for x in self.layers for at in (x.at_inputs, x.at_outputs))
        axes = max(len(side.axes) for x in self.layers for side in (x.inputs, x.outputs))
        stay, per = np.ones((2, axes, n)), np.zeros((2, axes, len(self.full), n))
        at, costs = np.full((2, n, points), np.inf), np.zeros((n, points, points))
        for i, x in enumerate(self.layers):
            for k, (side, known) in enumerate(((x.inputs, x.at_inputs), (x.outputs, x.at_outputs))):
                at[k, i, : len(known)] = known
                for axis, (number, pools) in enumerate(side.axes):
                    stay[k, axis, i] = number
                    for pool, each in pools:
                        per[k, axis, pool, i] = each
            costs[i, : len(x.at_inputs), : len(x.at_outputs)] = x.costs
        return _Arrays(stay, per, at, costs)

    def total(self, widths: Any, xp: Any = np) -> Any:
        """Returns the cost at some widths, [..., pools]; float64 in NumPy, float32 in ``jax.numpy``."""
        widths = xp.asarray(widths, _real(xp))
        inputs, outputs = (xp.prod(self._lengths(widths, k, xp), axis=0) for k in range(2))
        return self.constant + xp.sum(self._costs(inputs, outputs, xp), axis=-1)

    @property
    def dense(self) -> float:
        """Returns the cost of the dense network."""
        return float(self.total(self.full))

    def options(self, now: Any, widths: Any, xp: Any = np) -> Any:
        """Returns for each pool what the layers that make or read its channels cost at other widths of it.

        All other pools are as wide as now. HALP counts the layers that make the channels alone: then those of a cheap
        layer look cheap whatever they cost where they are read.

        Args:
          now: the widths, [pools].
          widths: those to try, one pool at a time, [pools, options].
          xp: ``numpy`` or ``jax.numpy``.

        Reference: Shen et al., "Structural pruning via latency-saliency knapsack", NeurIPS 2022, Section 3.
        """
        now, widths = (xp.asarray(x, _real(xp)) for x in (now, widths))
        more, sides, moved = (widths - now[:, None])[None, :, :, None], [], []
        for k in range(2):
            per = xp.asarray(self._arrays.per[k], _real(xp))[:, :, None, :]  # [axes, pools, 1, layers]
            lengths = self._lengths(now, k, xp)[:, None, None, :]
            sides.append(xp.prod(lengths + more * per, axis=0))
            moved.append(xp.max(per, axis=0) > 0)
        return xp.sum(xp.where(moved[0] | moved[1], self._costs(sides[0], sides[1], xp), 0), axis=-1)

    def _lengths(self, widths: Any, k: int, xp: Any) -> Any:
        """Returns the lengths of the axes of each layer, [axes, ..., layers]."""
        stay, per = (xp.asarray(x[k], _real(xp)) for x in self._arrays[:2])
        middle = (1,) * (widths.ndim - 1)
        stay = stay.reshape(stay.shape[0], *middle, stay.shape[-1])
        per = per.reshape(per.shape[0], *middle, *per.shape[1:])
        return stay + xp.sum(widths[None, ..., :, None] * per, axis=-2)

    def _costs(self, inputs: Any, outputs: Any, xp: Any) -> Any:
        """Returns the cost of each layer, [..., layers]: linear between the points of its table."""
        (row, above), (column, right) = self._place(0, inputs, xp), self._place(1, outputs, xp)
        table, layer = xp.asarray(self._arrays.costs, _real(xp)), _wide(np.arange(len(self.layers)), inputs.ndim)
        low = table[layer, row, column] * (1 - right) + table[layer, row, column + 1] * right
        high = table[layer, row + 1, column] * (1 - right) + table[layer, row + 1, column + 1] * right
        return low * (1 - above) + high * above

    def _place(self, k: int, number: Any, xp: Any) -> tuple[Any, Any]:
        """Returns the interval of each table that a number lies in, and how far along."""
        known, layer = xp.asarray(self._arrays.at[k], _real(xp)), _wide(np.arange(len(self.layers)), number.ndim)
        last = _wide(np.isfinite(self._arrays.at[k]).sum(axis=-1) - 2, number.ndim)
        i = xp.clip(xp.sum(_wide(known, number.ndim + 1) <= number[..., None], axis=-1) - 1, 0, last)
        return i, (number - known[layer, i]) / (known[layer, i + 1] - known[layer, i])


def _real(xp: Any) -> str:
    return "float64" if xp is np else "float32"


def _wide(x: Any, ndim: int) -> Any:
    """Returns an array with axes of length one in front."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def product(name: str, inputs: Side, outputs: Side, full: Sequence[int], cost: float) -> Layer:
    """Returns a layer whose cost is that of the dense one by the shares of its inputs and of its outputs."""
    return Layer(name, inputs, outputs, (0, inputs.of(full)), (0, outputs.of(full)), ((0.0, 0.0), (0.0, float(cost))))


def side(axes: Sequence[np.ndarray], sizes: Sequence[int]) -> Side:
    """Returns the number of inputs, or outputs, along some axes, from the pool of each index (-1: it stays)."""
    found: list[Axis] = []
    for pools in axes:
        counts = np.bincount(np.asarray(pools) + 1, minlength=len(sizes) + 1).tolist()
        found.append((counts[0], tuple((pool, n // sizes[pool]) for pool, n in enumerate(counts[1:]) if n)))
    return Side(tuple(found))


def weights(pools: Pools) -> Work:
    """Returns the number of weights of the leaves that have channels; the last axis with any is that of the outputs."""
    number, layers = np.append(pools.pool_of, -1), []  # the last entry is that of -1
    for leaf, path in enumerate(pools.paths):
        axes = [number[np.asarray(a)] for a in pools.axes[leaf]]
        last = max(k for k, a in enumerate(axes) if (a >= 0).any())
        inputs, outputs = side([*axes[:last], *axes[last + 1 :]], pools.sizes), side([axes[last]], pools.sizes)
        layers.append(product(path, inputs, outputs, pools.sizes, math.prod(pools.shape(leaf))))
    return Work("weights", tuple(layers), pools.sizes)
