"""Blocks of inputs by outputs, whole filters, whole heads."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.lanes import layer_counts
from dstjax._arrays.layout import Layout, assumed
from dstjax._arrays.shards import join_axes, split_axis
from dstjax._arrays.widening import wide_dtype
from dstjax.checks import check_choice, check_integer
from dstjax.selection import count_true
from dstjax.structures.weights import (
    Array,
    Arrays,
    Kept,
    Layouts,
    Scores,
    Shapes,
    Stored,
    Weight,
    is_best,
    known,
    numbers,
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
        """Returns an array with one entry for each tile: the sum of its entries, or the first of them."""

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
        flags = self._corners(masks, where)
        active = [jnp.where(m, s, jnp.zeros((), s.dtype)) for m, s in zip(masks, scores, strict=True)]
        areas = self._areas(scores, where) if jnp.ndim(keep) else self._areas(scores, where)[0]
        tiles = self._scores(active, where)
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

    def _corners(self, masks: Sequence[jax.Array], where: Sequence[Layout]) -> Arrays:
        return [self.coarse(m, layout, add=False) for m, layout in zip(masks, where, strict=True)]

    def _fine(self, tiles: Arrays, like: Sequence[jax.Array], where: Sequence[Layout]) -> Arrays:
        return [self.fine(t, layout, x.shape) for t, x, layout in zip(tiles, like, where, strict=True)]


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
            shape = shapes[path]
            if len(shape) < 2 or shape[-2] % self.h or shape[-1] % self.w:
                raise ValueError(
                    f"leaf {path!r} of shape {shape} cannot be cut into blocks of {self.h} x {self.w} (its last two "
                    "axes); expected multiples, or leave the leaf dense with maskable=lambda path, leaf: ..."
                )
        return {path: _whole(n, self.h * self.w) for path, n in counts.items()}

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
            return _sum(x, tuple(members))
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
class Units(Tiles):
    """Switches whole units of a layer: a filter with all its weights, or a head."""

    of: str
    ranks_together: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("of", self.of, ("filters", "heads"))

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns whole units, at least one."""
        places = stored or {}
        found = {}
        for path, n in counts.items():
            layout, shape = places.get(path, (None, shapes[path]))
            found[path] = _whole(n, self.area(layout or assumed(len(shape)), shape))
        return found

    def area(self, layout: Layout, shape: tuple[int, ...]) -> int:
        """Returns the weights of a filter, or of a head."""
        return math.prod(shape[a] for a in self._summed(layout))

    def coarse(self, x: jax.Array, layout: Layout, *, add: bool) -> jax.Array:
        """Sums over the units, or takes their first entries; the axes stay, of length one."""
        axes = self._summed(layout)
        if add:
            return _sum(x, axes, keepdims=True)
        return x[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))]

    def fine(self, x: jax.Array, layout: Layout, shape: tuple[int, ...]) -> jax.Array:
        """Repeats the entries over their units."""
        return jnp.broadcast_to(x, shape)

    def _summed(self, layout: Layout) -> tuple[int, ...]:
        """Returns the axes within a unit."""
        if self.of == "filters":
            return layout.windows + layout.inputs
        axes = layout.outputs if len(layout.outputs) > 1 else layout.inputs
        if len(axes) < 2:
            raise ValueError(
                f"structure=heads() is not accepted for a leaf of layout {str(layout)!r}, which has no axis of heads; "
                "expected 'in out out' or 'in in out', or leave the leaf dense with maskable=lambda path, leaf: ..."
            )
        return tuple(a for a in layout.order if a != axes[0])


def _whole(n: Any, area: int) -> Any:
    """Returns the nearest multiple below, one at least."""
    return (jnp.maximum(n // area, 1) if isinstance(n, jax.Array) else max(n // area, 1)) * area


def _sum(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool = False) -> jax.Array:
    # Wide, so that sums of integers do not wrap around, nor those in half precision collapse into ties.
    return jnp.sum(x, axis=axes, dtype=wide_dtype(x.dtype), keepdims=keepdims)


def block(h: int, w: int) -> Block:
    """Returns blocks of h inputs by w outputs."""
    return Block(h, w)


def filters() -> Units:
    """Returns whole filters: all weights that lead to an output, over the inputs and the window."""
    return Units("filters")


def heads() -> Units:
    """Returns whole heads of attention, the first of two axes of outputs (query, key, value) or of inputs (output).

    A layer keeps whole heads, at most as many weights as its density asks for and one head at least.
    """
    return Units("heads")
