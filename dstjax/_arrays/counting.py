"""Counts the True entries of many tensors in few kernels, and aligns a number for each layer with its entries.

Many small tensors that each lie on one device become the rows of one array, and each begins at a row of its own: a
kernel for each of them would take longer to compile, and to start, than to run. A larger tensor is counted alone, and
so is one that may be spread over devices. On a CPU one that lies in one piece is counted row by row: 16 bits hold the
count of a row, and a vector of the processor holds twice as many of these. Elsewhere a tensor keeps its shape: a TPU
moves every entry to change it.
"""

import collections
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays import sums
from dstjax._arrays.places import cut, unseen
from dstjax._arrays.platforms import is_cpu, is_tpu
from dstjax._arrays.rows import LONGEST, WIDTH, Rows, row_length
from dstjax._arrays.segments import Segments, picked
from dstjax._arrays.shards import Shards, may_be_cut
from dstjax._arrays.sums import Scalars

SMALL = 2**19  # entries below which tensors share an array,
MANY = 8  # if there are as many of them
EQUAL = 4  # tensors of a shape that are counted by equal kernels on a TPU


class Blocks:
    """Says which of some tensors are counted alone and which together, and by which numbers.

    A *block* is the array of a tensor counted alone, or the one array of all others. In lists of blocks those of single
    tensors come first. A *lane* is what has a number of its own: a tensor, or each slice of one along its stack axes.
    """

    def __init__(
        self,
        pieces: Shards,
        tensors: Sequence[jax.Array | jax.ShapeDtypeStruct],
        stacks: Sequence[tuple[int, ...]],
        orders: Sequence[tuple[int, ...]] | None = None,
        *,
        once: bool = False,
        joined: bool = False,
    ) -> None:
        """Takes the stack axes of each tensor, and the order in which its other axes number the entries of a lane.

        Tensors that are counted ``once`` share no array on a TPU, whose compiler writes into one at a time. Those that
        are ``joined`` have been rows of one array from the start, whatever their size; they are given by shape.
        """
        self.pieces = pieces
        self.by_rows = is_cpu()
        self.shapes = [x.shape for x in tensors]
        self.stacks = [tuple(stack) for stack in stacks]
        others = [tuple(a for a in range(x.ndim) if a not in s) for x, s in zip(tensors, self.stacks, strict=True)]
        self.orders = others if orders is None else [tuple(order) for order in orders]
        whole = pieces.shapes if pieces.axes else self.shapes
        self.lanes = [math.prod(shape[a] for a in s) for shape, s in zip(whole, self.stacks, strict=True)]
        local = [math.prod(shape[a] for a in s) for shape, s in zip(self.shapes, self.stacks, strict=True)]
        self.sizes = [x.size // max(n, 1) for x, n in zip(tensors, local, strict=True)]  # entries of a lane here
        self.whole_sizes = [math.prod(shape) // max(n, 1) for shape, n in zip(whole, self.lanes, strict=True)]
        self.first_lane = np.cumsum([0, *self.lanes])
        self.may_be_cut = [not joined and may_be_cut(x) for x in tensors]
        self.is_straight = [s + o == tuple(range(len(s + o))) for s, o in zip(self.stacks, self.orders, strict=True)]
        small = [
            i
            for i, x in enumerate(tensors)
            if x.size < SMALL
            and (self.lanes[i] == 1 or self.sizes[i] >= WIDTH // 8)
            and not pieces.axes
            and not self.may_be_cut[i]
        ]
        self.for_tpu = is_tpu()
        together = len(small) >= MANY and not (once and self.for_tpu)
        self.small = list(range(len(tensors))) if joined else small if together else []
        self.alone = [i for i in range(len(tensors)) if i not in set(self.small)]
        lanes, sizes = ([x[i] for i in self.small] for x in (self.lanes, self.sizes))
        self.rows = Rows(lanes, sizes, self._lane_numbers(self.small), is_cpu=self.by_rows)
        self.places = self._hidden([int(self.first_lane[i]) for i in self.alone], *tensors)

    def blocks(self, tensors: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the arrays of the blocks. Fills rows up with zeros."""
        found = [self._block(i, tensors[i]) for i in self.alone]
        if not self.small:
            return found
        # A TPU's compiler ends the process over some bytes of another shape that one kernel writes beside a row.
        small = [tensors[i] for i in self.small]
        small = lax.optimization_barrier(small) if self.for_tpu else small
        return [*found, self.rows.join([self._matrix(i, x) for i, x in zip(self.small, small, strict=True)])]

    def flags(self, tensors: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the arrays of the blocks of boolean tensors."""
        if not (self.small and self.for_tpu):
            return self.blocks(tensors)
        blocks = self.blocks([x.astype(jnp.uint32) if i in self.small else x for i, x in enumerate(tensors)])
        return [*blocks[:-1], blocks[-1] > 0]

    def rows_of(self, blocks: list[jax.Array]) -> list[jax.Array]:
        """Returns the block of the small tensors, if there are any."""
        return blocks[len(self.alone) :]

    def tensors(self, alone: list[jax.Array], rows: list[jax.Array]) -> list[jax.Array]:
        """Returns the arrays of all tensors, given those of single ones and the block of the small ones."""
        if not self.small:
            return alone
        found = dict(zip(self.alone, alone, strict=True))
        if self.for_tpu:
            # Its compiler takes long to change the shape of bytes, and ends the process over some that are cut out of
            # others: numbers of 32 bits until they have a shape. Whole rows are cut out, since a vector of all entries
            # would be another array, and so would be what its entries are compared with.
            parts = self.rows.cut_by_rows(rows[0].astype(jnp.uint32))
        else:
            parts = self.rows.cut(rows[0], self._hidden(self.rows.offsets(), *alone, *rows))
        shaped = [self._from_matrix(i, x) for i, x in zip(self.small, parts, strict=True)]
        shaped = lax.optimization_barrier(shaped) if self.for_tpu else shaped
        found |= {i: x.astype(rows[0].dtype) for i, x in zip(self.small, shaped, strict=True)}
        return [found[i] for i in range(len(self.shapes))]

    def at(self, numbers: jax.Array, *, shaped: bool = False) -> list[jax.Array]:
        """Returns for each block what to compare its entries with, given a vector of numbers of all lanes.

        Args:
          numbers: a number of each lane.
          shaped: fit the tensors themselves, where they are counted alone, in place of their blocks.
        """
        alone = [self._at(i, numbers, place, shaped) for i, place in zip(self.alone, self.places, strict=True)]
        return [*alone, self.rows.at(numbers)] if self.small else alone

    def index(self, blocks: list[jax.Array], one: Any = 1) -> list[jax.Array]:
        """Returns the place of each entry of each block in its lane, uint32; times ``one``, a uint32[]."""
        found = [
            self.pieces.index(i, x, self._axes(i), self._order(i), one)
            for i, x in zip(self.alone, blocks[: len(self.alone)], strict=True)
        ]
        return [*found, self.rows.index() * one] if self.small else found

    def index_of(self, i: int, tensor: jax.Array) -> jax.Array:
        """Returns the place of each entry of a tensor in its lane, uint32."""
        return self.pieces.index(i, tensor, self.stacks[i], self.orders[i])

    def reaching(self, blocks: list[jax.Array], numbers: jax.Array, digits: Scalars) -> jax.Array:
        """Counts the entries of each lane that reach its number plus each of the digits, uint32[digits, lanes]."""
        each = zip(blocks, self.at(numbers), self._kept(), self._variants(blocks, len(digits)), strict=True)
        return self._table([sums.reaching(x, n, digits, axes, self.by_rows, variant) for x, n, axes, variant in each])

    def before(self, flags: list[jax.Array], index: list[jax.Array], numbers: jax.Array, digits: Scalars) -> jax.Array:
        """Counts the flags of each lane before its number plus each of the digits, uint32[digits, lanes]."""
        each = zip(flags, index, self.at(numbers), self._kept(), strict=True)
        return self._table([sums.before(f, i, n, digits, axes, self.by_rows) for f, i, n, axes in each])

    def bits(self, blocks: list[jax.Array]) -> jax.Array:
        """Counts the bits that are set in the bytes of each lane, uint32[lanes]."""
        return self._table(
            [sums.bits(x, axes, self.by_rows) for x, axes in zip(blocks, self._kept(), strict=True)], most=8
        )[0]

    def _variants(self, blocks: list[jax.Array], digits: int) -> list[int]:
        """Returns which of several equal comparisons counts each block.

        A TPU's compiler takes more than a few equal kernels in a row for a loop, fetches what they read from the main
        memory one after another, and so keeps none of it in vector memory from pass to pass.
        """
        earlier = collections.Counter[tuple[int, ...]]()
        found = []
        for shape in [x.shape for x in blocks]:
            found.append(earlier[shape] // EQUAL % 2**digits if self.for_tpu else 0)
            earlier[shape] += 1
        return found

    def _kept(self) -> list[tuple[int, ...]]:
        """Returns the axes of each block over which nothing is summed."""
        return [self._axes(i) for i in self.alone] + ([(0,)] if self.small else [])

    def _block(self, i: int, x: jax.Array) -> jax.Array:
        return x.reshape(self._block_shape(i)) if self._is_lined(i) else x

    def _is_lined(self, i: int) -> bool:
        """Whether the block of a tensor has rows, or its entries in one, behind the axis of its lanes."""
        return self.by_rows and self.is_straight[i] and not self.pieces.axes and not self.may_be_cut[i]

    def _block_shape(self, i: int) -> tuple[int, ...]:
        """Returns the shape of the block of a tensor that is lined."""
        size, lanes = self.sizes[i], self.lanes[i]
        row = row_length(size)
        return (*((lanes,) if lanes > 1 else ()), *((size // row, row) if row < size else (size,)))

    def _axes(self, i: int) -> tuple[int, ...]:
        """Returns the axes of the block of a tensor that number its lanes."""
        if self.lanes[i] == 1:
            return ()
        return (0,) if self._is_lined(i) else self.stacks[i]

    def _order(self, i: int) -> tuple[int, ...] | None:
        return None if self.is_straight[i] and (self.lanes[i] == 1 or self._is_lined(i)) else self.orders[i]

    @functools.cached_property
    def is_whole(self) -> bool:
        """Whether all tensors have entries, and lie in one piece and in rows that 16 bits count."""
        lined = all(self._is_lined(i) and row_length(self.sizes[i]) <= LONGEST for i in self.alone)
        return lined and min(self.sizes) > 0 and not self.pieces.axes and not any(self.may_be_cut)

    def after(
        self, keys: list[jax.Array], candidates: list[jax.Array] | None, numbers: jax.Array, room: jax.Array
    ) -> jax.Array:
        """Returns the highest place in each lane before which at most ``room`` candidates are equal to its number.

        For whole tensors. Counts the equal keys of each row, and looks into a single row of each lane.
        """
        flags = [key == at for key, at in zip(keys, self.at(numbers), strict=True)]
        flags = flags if candidates is None else [f & c for f, c in zip(flags, candidates, strict=True)]
        shapes = [self._block_shape(i) for i in self.alone]
        alone = [math.prod(s[:-1]) // self.lanes[i] for i, s in zip(self.alone, shapes, strict=True)]
        # Lanes in the order of the blocks: their numbers, how many rows they have, the first row, and the block.
        lanes = self._lane_numbers([*self.alone, *self.small])
        number = np.concatenate([np.repeat(alone, [self.lanes[i] for i in self.alone]), self.rows.of_lane]).astype(int)
        first = np.cumsum(number) - number
        ends = np.cumsum([0, *(x.size // x.shape[-1] for x in keys)])
        block = np.searchsorted(ends, first, side="right") - 1

        numbers, room = picked(numbers, lanes), picked(room, lanes)
        row, before = Segments(number).after(sums.flags_of_rows([f.reshape(-1, f.shape[-1]) for f in flags]), room)
        length = np.array([x.shape[-1] for x in keys], np.uint32)[block]

        def looked_at(blocks: list[jax.Array]) -> jax.Array:
            found = []
            for b, x in enumerate(blocks):
                at, rows = row[block == b] + (first[block == b] - ends[b]).astype(np.uint32), x.reshape(-1, x.shape[-1])
                mine = lax.dynamic_slice_in_dim(rows, at[0], 1) if len(at) == 1 else rows[at]
                found.append(jnp.pad(mine, ((0, 0), (0, max(length) - x.shape[-1]))))
            return jnp.concatenate(found)

        # Compared once for all lanes: a row of flags of each would be a kernel that takes long to compile.
        equal = looked_at(keys) == numbers[:, None]
        equal = equal if candidates is None else equal & looked_at(candidates)
        place = jnp.minimum(sums.after(equal, room - before), length)
        return picked(row * length + place, np.argsort(lanes))

    def _matrix(self, i: int, x: jax.Array) -> jax.Array:
        """Returns a tensor with a row for each lane."""
        return (x if self.is_straight[i] else x.transpose(self.stacks[i] + self.orders[i])).reshape(self.lanes[i], -1)

    def _from_matrix(self, i: int, x: jax.Array) -> jax.Array:
        if self.is_straight[i]:
            return x.reshape(self.shapes[i])
        axes = self.stacks[i] + self.orders[i]
        return x.reshape([self.shapes[i][a] for a in axes]).transpose(np.argsort(axes))

    def _at(self, i: int, numbers: jax.Array, place: Any, shaped: bool) -> jax.Array:
        mine = cut(numbers, place, self.lanes[i])
        if self.lanes[i] == 1:
            return mine.reshape(())
        if self._is_lined(i) and not shaped:
            return mine.reshape(-1, *[1] * (len(self._block_shape(i)) - 1))
        return self.pieces.of_lanes(i, mine, self.stacks[i], len(self.shapes[i]))

    def _table(self, counted: list[Scalars], most: int = 1) -> jax.Array:
        """Returns the counts of blocks, or of single rows where several lanes share one, as uint32[tests, lanes].

        A single test comes with its opposite; the counts of both add up to ``most`` times the entries, modulo 2**32.
        """
        is_single, n = len(counted[0]) == 2, len(self.alone)
        parts = []
        if self.alone:
            table = self._of_alone(counted[:n])
            sizes = np.repeat([most * self.sizes[i] % 2**32 for i in self.alone], [self.lanes[i] for i in self.alone])
            rest = jnp.asarray(sizes.astype(np.uint32))[None] - table[1:] if is_single else table
            parts.append(jnp.minimum(table[:1], rest) if is_single else table)
        if self.small:
            table = jnp.stack(counted[-1])
            table = jnp.minimum(table[:1], jnp.uint32(most * WIDTH) - table[1:]) if is_single else table
            parts.append(self.rows.sums(table))
        order = np.argsort(self._lane_numbers([*self.alone, *self.small]))
        table = parts[0] if len(parts) == 1 else picked(jnp.concatenate(parts, axis=1), order)
        return self.pieces.total(table, self.lanes)

    def _of_alone(self, counted: list[Scalars]) -> jax.Array:
        """Returns the counts of the blocks of single tensors, uint32[tests, lanes]."""
        tests = list(zip(*counted, strict=True))
        if all(self.lanes[i] == 1 for i in self.alone):
            # One array of all numbers at once: an array for each tensor would be a kernel for each.
            return jnp.stack([c.reshape(()) for counts in tests for c in counts]).reshape(-1, len(self.alone))
        flat = [
            jnp.concatenate([self._lane_vector(i, c) for i, c in zip(self.alone, counts, strict=True)])
            for counts in tests
        ]
        return jnp.stack(flat)

    def _lane_vector(self, i: int, counts: jax.Array) -> jax.Array:
        if self.lanes[i] == 1 or self._is_lined(i):
            return counts.reshape(-1)
        return self.pieces.all_lanes(i, counts, self.stacks[i])

    def _hidden(self, values: Sequence[int], *like: Any) -> Sequence[Any]:
        """Returns places that XLA does not know; for a TPU known ones, since its compiler copies more for others."""
        return values if self.for_tpu else self.pieces.varying_as(unseen(values), *like)

    def _lane_numbers(self, tensors: Sequence[int]) -> np.ndarray:
        """Returns the numbers of the lanes of some tensors, in their order."""
        found = [np.arange(self.first_lane[i], self.first_lane[i + 1], dtype=np.int32) for i in tensors]
        return np.concatenate([np.zeros(0, np.int32), *found])
