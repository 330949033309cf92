"""Small tensors as the rows of one array, in which each lane begins at a row of its own."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays.places import cut
from dstjax._arrays.segments import Segments, picked

WIDTH = 1024  # entries of a row
ROW = 1024  # entries of a row of a tensor that is counted alone, at least,
LONGEST = 2**16 - 1  # and at most
COMPARED = 2**22  # rows times lanes up to which a row finds its lane by comparison, off the CPU: a gather takes longer


class Rows:
    """Says which rows are whose. Lanes are numbered as their tensors come."""

    def __init__(self, lanes: Sequence[int], sizes: Sequence[int], numbers: np.ndarray, *, is_cpu: bool) -> None:
        """Takes how many lanes each tensor has, the entries of each of them, and the numbers of all among others."""
        self.lanes, self.sizes, self.numbers = lanes, sizes, numbers
        self.of_lane = np.array([-(-n // WIDTH) for n, times in zip(sizes, lanes, strict=True) for _ in range(times)])
        self.starts = np.cumsum([0, *self.of_lane])  # rows at which lanes begin, and the end of the last
        self.is_compared = not is_cpu and len(numbers) * int(self.starts[-1]) <= COMPARED

    def offsets(self) -> list[int]:
        """Returns the entry at which each tensor begins."""
        first = np.cumsum([0, *self.lanes])[:-1]
        return [int(self.starts[n]) * WIDTH for n in first]

    def join(self, matrices: Sequence[jax.Array]) -> jax.Array:
        """Returns the array of tensors that come with a row for each lane. Fills its rows up with zeros."""
        padded = [jnp.pad(x, ((0, 0), (0, -x.shape[1] % WIDTH))) for x in matrices]
        return jnp.concatenate([x.reshape(-1, WIDTH) for x in padded])

    def cut(self, array: jax.Array, offsets: Sequence[Any]) -> list[jax.Array]:
        """Returns what :meth:`join` was given; ``offsets`` are those of :meth:`offsets`, as numbers or arrays."""
        flat, found = array.reshape(-1), []
        for lanes, size, offset in zip(self.lanes, self.sizes, offsets, strict=True):
            padded = size if lanes == 1 else -(-size // WIDTH) * WIDTH
            found.append(cut(flat, offset, lanes * padded).reshape(lanes, padded)[:, :size])
        return found

    def cut_by_rows(self, array: jax.Array) -> list[jax.Array]:
        """Returns the entries of each tensor, [lanes, entries of a lane], cut out by whole rows."""
        found, first = [], 0
        for lanes, size in zip(self.lanes, self.sizes, strict=True):
            n = -(-size // WIDTH)
            mine = lax.slice_in_dim(array, first, first + lanes * n)
            found.append(mine.reshape(lanes, n * WIDTH)[:, :size])
            first += lanes * n
        return found

    def at(self, numbers: jax.Array) -> jax.Array:
        """Returns the number of the lane of each row, [rows, 1], of numbers of all lanes there are."""
        if not self.is_compared:
            return numbers[np.repeat(self.numbers, self.of_lane)][:, None]
        mine = jnp.where(self._is_of(), picked(numbers, self.numbers)[None], jnp.zeros((), numbers.dtype))
        return jnp.sum(mine, axis=1, keepdims=True, dtype=numbers.dtype)

    def index(self) -> jax.Array:
        """Returns the place of each entry in its lane, uint32."""
        first = np.repeat(self.starts[:-1], self.of_lane)
        row = jnp.asarray((np.arange(self.starts[-1]) - first).astype(np.uint32))[:, None]
        return row * jnp.uint32(WIDTH) + lax.broadcasted_iota(jnp.uint32, (len(first), WIDTH), 1)

    def sums(self, table: jax.Array) -> jax.Array:
        """Adds up counts of rows, uint32[tests, rows], to those of lanes."""
        if self.is_compared:
            zero = jnp.uint32(0)
            return jnp.stack([jnp.sum(jnp.where(self._is_of(), n[:, None], zero), 0, jnp.uint32) for n in table])
        return Segments(self.of_lane).sums(table)

    def _is_of(self) -> jax.Array:
        """Whether each row is of each lane, bool[rows, lanes]."""
        lane = jnp.asarray(np.repeat(np.arange(len(self.numbers), dtype=np.int32), self.of_lane))
        return lane[:, None] == lax.iota(jnp.int32, len(self.numbers))[None]


def row_length(size: int) -> int:
    """Returns the entries of a row of a tensor, or lane, of some size: all of them where no fit length divides it."""
    return _fit_divisor(size, ROW, LONGEST)


@functools.cache
def _fit_divisor(size: int, low: int, high: int) -> int:
    return next((n for n in range(low, min(high + 1, size)) if size % n == 0), size)
