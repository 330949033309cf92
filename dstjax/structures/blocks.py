"""Blocks of inputs by outputs."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.lanes import layer_counts, of_each
from dstjax._arrays.layout import Layout
from dstjax._arrays.shards import join_axes, split_axis
from dstjax._arrays.widening import wide_dtype
from dstjax.checks import check_bool, check_integer
from dstjax.selection import count_true, top_k_masks
from dstjax.structures.neurons import Neurons, best_of_neurons, counted_by_neuron
from dstjax.structures.weights import (
    Array,
    Arrays,
    Kept,
    Layouts,
    Scores,
    Shapes,
    Stored,
    Weight,
    cut_like,
    is_best,
    known,
    numbers,
    stored_as,
    told,
)


@dataclasses.dataclass(frozen=True)
class Tiles(Weight, abc.ABC):
    """Switches tiles of weights: ranks them by the sum of their scores. The base of what follows."""

    exact: ClassVar[bool] = False
    reads_layout: ClassVar[bool] = True

    @abc.abstractmethod
    def area(self, layout: Layout, shape: tuple[int, ...]) -> int:
        """Returns how many weights a tile of a leaf has."""

    @abc.abstractmethod
    def coarse(self, x: jax.Array, layout: Layout, *, add: bool) -> jax.Array:
        """Returns an array with one entry for each tile: the sum of its entries, or the flag that they share."""

    @abc.abstractmethod
    def fine(self, x: jax.Array, layout: Layout, shape: tuple[int, ...]) -> jax.Array:
        """Undoes :meth:`coarse`: every entry of a tile is that of the tile."""

    def best(self, scores: Sequence[jax.Array], counts: Any, layouts: Layouts = None) -> Arrays:
        """Marks the best tiles."""
        where = known(layouts, scores)
        chosen = super().best(self._scores(scores, where), numbers(counts) // self._areas(scores, where), tuple(where))
        return self._fine(chosen, scores, where)

    def holds(self, masks: Arrays, prunes: bool = False, layouts: Layouts = None) -> Arrays:
        """Returns whether all tiles are whole, which a drop of tiles relies on."""
        return is_best(self, masks, layouts)

    def drop(
        self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array, layouts: Layouts = None
    ) -> Kept:
        """Keeps the best tiles; half a tile to keep is a tile."""
        where = known(layouts, scores)
        tiles, flags = self._active(scores, masks, where)
        areas = self._areas(scores, where) if jnp.ndim(keep) else self._areas(scores, where)[0]
        kept, room = super().drop(tiles, flags, -(-keep // areas), salient, target, tuple(where))
        return self._fine(kept, scores, where), self._fine(room, scores, where)

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array, layouts: Layouts = None) -> Arrays:
        """Grows the best tiles."""
        where = known(layouts, scores)
        flags, areas = self._corners(kept, where), self._areas(scores, where)
        if jnp.ndim(n):  # no layer is left without any tile, where fewer weights than one has are to be grown
            n = jnp.where((n > 0) & (count_true(flags, tuple(where)) == 0), jnp.maximum(n, areas), n)
        n = n // (areas if jnp.ndim(n) else areas[0])
        grown = super().grow(self._scores(scores, where), flags, self._corners(room, where), n, tuple(where))
        return self._fine(grown, scores, where)

    def _areas(self, arrays: Sequence[jax.Array], where: Sequence[Layout]) -> np.ndarray:
        """Returns the weights of a tile of each layer, int32[layers]."""
        shapes = [x.shape for x in arrays]
        areas = [self.area(layout, shape) for layout, shape in zip(where, shapes, strict=True)]
        return np.repeat(np.array(areas, np.int32), layer_counts(shapes, where))

    def _scores(self, scores: Sequence[jax.Array], where: Sequence[Layout]) -> Arrays:
        return [self.coarse(s, layout, add=True) for s, layout in zip(scores, where, strict=True)]

    def _active(self, scores: Arrays, masks: Arrays, where: Sequence[Layout]) -> tuple[Arrays, Arrays]:
        """Returns the scores of tiles, and which are active; an inactive weight adds nothing."""
        active = [jnp.where(m, s, jnp.zeros((), s.dtype)) for m, s in zip(masks, scores, strict=True)]
        return self._scores(active, where), self._corners(masks, where)

    def _corners(self, masks: Sequence[jax.Array], where: Sequence[Layout]) -> Arrays:
        return [self.coarse(m, layout, add=False) for m, layout in zip(masks, where, strict=True)]

    def _fine(self, tiles: Arrays, like: Sequence[jax.Array], where: Sequence[Layout]) -> Arrays:
        each = zip(tiles, like, where, strict=True)
        return [cut_like(self.fine(t, layout, x.shape), x) for t, x, layout in each]


@dataclasses.dataclass(frozen=True)
class Block(Tiles):
    """Switches blocks of h inputs by w outputs; where these have several axes, along the last of them."""

    h: int
    w: int

    def __post_init__(self) -> None:
        check_integer("h", self.h, 1)
        check_integer("w", self.w, 1)

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns whole blocks, at least one."""
        for path in counts:
            layout, shape = stored_as(path, shapes, stored)
            sides = [[shape[a] for a in axes[-1:]] for axes in (layout.inputs, layout.outputs)]
            if not all(side and side[0] % n == 0 for side, n in zip(sides, (self.h, self.w), strict=True)):
                raise ValueError(
                    f"{told(path, layout, shape)} has {_sides(layout, shape)}, which cannot be cut into blocks of "
                    f"{self.h} x {self.w}: where inputs or outputs have several axes a block lies along the last. "
                    "Expected multiples, or leave the leaf dense with maskable=lambda path, leaf: ..."
                )
        return {path: whole_tiles(n, self.h * self.w) for path, n in counts.items()}

    def area(self, layout: Layout, shape: tuple[int, ...]) -> int:
        """Returns h * w."""
        return self.h * self.w

    def coarse(self, x: jax.Array, layout: Layout, *, add: bool) -> jax.Array:
        """Sums over the blocks, or takes their first entries."""
        for axis, size in self._cuts(layout):
            if x.shape[axis] % size:
                raise ValueError(
                    f"an axis of {x.shape[axis]} cannot be cut into blocks of {size}: where inputs or outputs have "
                    "several axes a block lies along the last; expected a multiple."
                )
            x = split_axis(x, axis, size)
        members = sorted(axis + 1 + i for i, (axis, _) in enumerate(reversed(self._cuts(layout))))
        if add:
            return sum_widely(x, tuple(members))
        return x[tuple(0 if a in members else slice(None) for a in range(x.ndim))]

    def fine(self, x: jax.Array, layout: Layout, shape: tuple[int, ...]) -> jax.Array:
        """Repeats the entries over their blocks."""
        for axis, size in reversed(self._cuts(layout)):
            wide = (*x.shape[: axis + 1], size, *x.shape[axis + 1 :])
            x = join_axes(jnp.broadcast_to(jnp.expand_dims(x, axis + 1), wide), axis)
        return x

    def _cuts(self, layout: Layout) -> list[tuple[int, int]]:
        """Returns the axes that are cut, the last one first, and the size of a block along each."""
        return sorted([(layout.inputs[-1], self.h), (layout.outputs[-1], self.w)], reverse=True)


@dataclasses.dataclass(frozen=True)
class BalancedBlock(Block):
    """Switches blocks of h inputs by w outputs, equally many in each column of blocks: for every w outputs.

    Such a layer is one batched product of dense blocks (:mod:`dstjax.kernels`), without padding to the fullest column.
    Of a convolution a column has the blocks of the whole window. An update that grows ranks all blocks of a layer to
    drop, so that columns lose different numbers, and then fills each one up again; where what was just dropped must not
    return it does in a column that has no other room. An update that only prunes below the number of the end, as IEE's,
    leaves columns short until the next growth; any other pruning takes equally many from each.
    """

    ranks_together: ClassVar[bool] = False

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns whole blocks, equally many for each column."""
        found = {}
        for path, n in super().counts(shapes, counts, stored).items():
            row = self.h * shapes[path][-1]  # the weights of one block in each column
            if isinstance(n, int) and n < row:
                raise ValueError(
                    f"{told(path, *stored_as(path, shapes, stored))} would have {counts[path]} active weights, fewer "
                    f"than the {row} of one block of {self.h} x {self.w} in each column; expected a lower sparsity, "
                    "smaller blocks, or leave the leaf dense with maskable=lambda path, leaf: ..."
                )
            found[path] = whole_tiles(n, row)
        return found

    def best(self, scores: Sequence[jax.Array], counts: Any, layouts: Layouts = None) -> Arrays:
        """Marks the best blocks of each column."""
        where = known(layouts, scores)
        tiles = self._scores(scores, where)
        wanted = self._of_each(numbers(counts), tiles, where)
        return self._fine(best_of_neurons(tiles, wanted, None, where), scores, where)

    def drop(
        self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array, layouts: Layouts = None
    ) -> Kept:
        """Keeps the best blocks of the layer, or of each column where nothing needs to be grown to fill it."""
        where = known(layouts, scores)
        tiles, flags = self._active(scores, masks, where)
        best = top_k_masks(tiles, -(-keep // self._areas(scores, where)), where=flags, layouts=tuple(where))
        most = self._of_each(jnp.maximum(keep, target), tiles, where, up=True)
        refilled = of_each(keep < target, [t.shape for t in tiles], where)
        among = [jnp.where(r, b, m) for r, b, m in zip(refilled, best, flags, strict=True)]
        kept = best_of_neurons(tiles, most, among, where)
        return self._fine(kept, scores, where), self._fine([~k for k in kept], scores, where)

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array, layouts: Layouts = None) -> Arrays:
        """Fills each column up with its best blocks; grows nothing where nothing is to be grown."""
        where = known(layouts, scores)
        tiles, flags, rooms = self._scores(scores, where), self._corners(kept, where), self._corners(room, where)
        shares = self._of_each(count_true(kept, tuple(where)) + n, tiles, where)
        wanted = of_each(n > 0, [t.shape for t in tiles], where)
        has = counted_by_neuron(flags, where)
        missing = []
        for tile, own, share, some, layout in zip(tiles, has, shares, wanted, where, strict=True):
            highest = Neurons.of(layout, tile.shape).highest(own)
            share = jnp.maximum(jnp.maximum(share, 1), highest)  # no column is left without any
            missing.append(jnp.where(some, share - own, 0))
        first = best_of_neurons(tiles, missing, rooms, where)
        less = [m - n for m, n in zip(missing, counted_by_neuron(first, where), strict=True)]
        others = [~(k | f) for k, f in zip(flags, first, strict=True)]
        rest = best_of_neurons(tiles, less, others, where)
        return self._fine([f | r for f, r in zip(first, rest, strict=True)], scores, where)

    def _of_each(self, n: jax.Array, tiles: Arrays, where: Sequence[Layout], *, up: bool = False) -> Arrays:
        """Returns how many blocks of each column so many weights of a layer are, for each leaf."""
        shares = of_each(n, [t.shape for t in tiles], where)
        rows = [self.h * self.w * Neurons.of(layout, t.shape).number for t, layout in zip(tiles, where, strict=True)]
        return [-(-share // row) if up else share // row for share, row in zip(shares, rows, strict=True)]


def _sides(layout: Layout, shape: tuple[int, ...]) -> str:
    """Says how many inputs and outputs a leaf has, axis by axis."""
    sides = [" x ".join(str(shape[a]) for a in axes) or "no" for axes in (layout.inputs, layout.outputs)]
    return f"{sides[0]} inputs and {sides[1]} outputs"


def whole_tiles(n: Any, area: int) -> Any:
    """Returns the nearest multiple below, one at least."""
    return (jnp.maximum(n // area, 1) if isinstance(n, jax.Array) else max(n // area, 1)) * area


def sum_widely(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool = False) -> jax.Array:
    """Sums so that integers do not wrap around, and half precision does not collapse into ties."""
    return jnp.sum(x, axis=axes, dtype=wide_dtype(x.dtype), keepdims=keepdims)


def block(h: int, w: int, *, balanced: bool = False) -> Block:
    """Returns blocks of h inputs by w outputs.

    Args:
      h: inputs of a block.
      w: outputs of a block.
      balanced: whether all columns of blocks, of w outputs each, have equally many, as fast products ask for
        (:mod:`dstjax.kernels`).

    Raises:
      ValueError: a side is no positive integer, or ``balanced`` no bool.

    >>> scores = jnp.array([[9.0, 1.0], [8.0, 2.0], [7.0, 3.0]])
    >>> block(1, 1, balanced=True).best([scores], [2])[0].astype(int).tolist()
    [[1, 0], [0, 0], [0, 1]]
    """
    check_bool("balanced", balanced)
    return BalancedBlock(h, w) if balanced else Block(h, w)
