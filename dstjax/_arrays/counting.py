"""Counts the True entries of many tensors in few kernels, and aligns a number for each with its entries.

Many small tensors that each lie on one device become the rows of one array, and each begins at a row of its own: a
kernel for each of them would take longer to compile, and to start, than to run. A larger tensor is counted alone, and
so is one that may be spread over devices.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays.shards import Shards, is_rows, line, may_be_cut

Scalars = list[jax.Array]

SMALL = 2**19  # entries below which tensors share an array,
MANY = 8  # if there are as many of them
WIDTH = 1024  # entries of a row of it


class Layout:
    """Says which of some tensors are counted alone and which together.

    A *block* is the array of a tensor counted alone, or the one array of all others. In lists of blocks those of single
    tensors come first.
    """

    def __init__(self, pieces: Shards, tensors: Sequence[jax.Array]) -> None:
        self.pieces = pieces
        self.shapes = [x.shape for x in tensors]
        self.sizes = [x.size for x in tensors]
        small = [i for i, x in enumerate(tensors) if x.size < SMALL and not pieces.axes and not may_be_cut(x)]
        self.small = small if len(small) >= MANY else []
        self.alone = [i for i in range(len(tensors)) if i not in set(self.small)]
        rows = [-(-self.sizes[i] // WIDTH) for i in self.small]
        self.starts = np.cumsum([0, *rows])  # rows at which the small tensors begin, and the end of the last
        self.tensor_of_row = np.repeat(np.array(self.small, np.int32), rows)
        self.places = pieces.varying_as(unseen(self.alone), *tensors)

    def blocks(self, tensors: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the arrays of the blocks. Fills rows up with zeros."""
        found = [line(tensors[i]) for i in self.alone]
        if not self.small:
            return found
        parts = [tensors[i].reshape(-1) for i in self.small]
        return [*found, jnp.concatenate([jnp.pad(p, (0, -p.size % WIDTH)) for p in parts]).reshape(-1, WIDTH)]

    def rows_of(self, blocks: list[jax.Array]) -> list[jax.Array]:
        """Returns the block of the small tensors, if there are any."""
        return blocks[len(self.alone) :]

    def tensors(self, alone: list[jax.Array], rows: list[jax.Array]) -> list[jax.Array]:
        """Returns the arrays of all tensors, given those of single ones and the block of the small ones."""
        found = dict(zip(self.alone, alone, strict=True))
        offsets = self.pieces.varying_as(unseen([int(row) * WIDTH for row in self.starts[:-1]]), *alone, *rows)
        for i, offset in zip(self.small, offsets, strict=True):
            found[i] = lax.dynamic_slice(rows[0].reshape(-1), (offset,), (self.sizes[i],)).reshape(self.shapes[i])
        return [found[i] for i in range(len(self.sizes))]

    def at(self, numbers: jax.Array) -> list[jax.Array]:
        """Returns for each block what to compare its entries with, given a vector of numbers of all tensors."""
        alone = [lax.dynamic_slice(numbers, (place,), (1,)).reshape(()) for place in self.places]
        return alone + ([numbers[self.tensor_of_row][:, None]] if self.small else [])

    def index(self, blocks: list[jax.Array], one: Any = 1) -> list[jax.Array]:
        """Returns the row-major index of each entry of each block in its tensor, uint32; times ``one``, a uint32[]."""
        found = [self.pieces.index(i, x, one) for i, x in zip(self.alone, blocks[: len(self.alone)], strict=True)]
        if not self.small:
            return found
        first = np.repeat(self.starts[:-1], np.diff(self.starts))
        row = jnp.asarray((np.arange(self.starts[-1]) - first).astype(np.uint32))[:, None]
        column = lax.broadcasted_iota(jnp.uint32, blocks[-1].shape, 1)
        return [*found, (row * jnp.uint32(WIDTH) + column) * one]

    def reaching(self, blocks: list[jax.Array], numbers: jax.Array, digits: Scalars) -> jax.Array:
        """Counts the entries of each tensor that reach its number plus each of the digits, uint32[digits, tensors]."""
        return self._table([_reaching(x, n, digits) for x, n in zip(blocks, self.at(numbers), strict=True)])

    def before(self, flags: list[jax.Array], index: list[jax.Array], numbers: jax.Array, digits: Scalars) -> jax.Array:
        """Counts the flags of each tensor before its number plus each of the digits, uint32[digits, tensors]."""
        return self._table([_before(f, i, n, digits) for f, i, n in zip(flags, index, self.at(numbers), strict=True)])

    def bits(self, blocks: list[jax.Array]) -> jax.Array:
        """Counts the bits that are set in the bytes of each tensor, uint32[tensors]."""
        counts = [_bits(x, rows=len(self.alone) == i) for i, x in enumerate(blocks)]
        return self._table(counts, most=8)[0]

    def _table(self, counted: list[Scalars], most: int = 1) -> jax.Array:
        """Returns the counts of blocks, or of single rows where several tensors share one, as uint32[tests, tensors].

        A single test comes with its opposite; the counts of both add up to ``most`` times the entries, modulo 2**32.
        """
        is_single, n = len(counted[0]) == 2, len(self.alone)
        parts = []
        if self.alone:  # one array of all numbers at once: an array for each tensor would be a kernel for each
            table = jnp.stack([c for counts in zip(*counted[:n], strict=True) for c in counts]).reshape(-1, n)
            sizes = jnp.array([[most * self.sizes[i] % 2**32 for i in self.alone]], jnp.uint32)
            parts.append(jnp.minimum(table[:1], sizes - table[1:]) if is_single else table)
        if self.small:
            table = jnp.stack(counted[-1])
            table = jnp.minimum(table[:1], jnp.uint32(most * WIDTH) - table[1:]) if is_single else table
            sums = jnp.pad(jnp.cumsum(table, axis=1, dtype=jnp.uint32), ((0, 0), (1, 0)))
            parts.append(sums[:, self.starts[1:]] - sums[:, self.starts[:-1]])
        order = np.argsort([*self.alone, *self.small])
        return self.pieces.total(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)[:, order])


def unseen(values: Sequence[int]) -> Scalars:
    """Returns numbers as uint32[] each, and hides from XLA that they are constant.

    A kernel that reads an array at a place that is no constant is one program for all places.
    """
    turned = [jnp.uint32(values[(i - 2) % len(values)]) for i in range(len(values))]
    return lax.fori_loop(0, 2, lambda _, v: [*v[1:], *v[:1]], turned)


# Jitted, these are traced once for all tensors of a size.
@jax.jit
def _reaching(x: jax.Array, number: jax.Array, digits: Scalars) -> Scalars:
    return _count([x >= number + d for d in digits], rows=number.ndim == 2)


@jax.jit
def _before(flag: jax.Array, index: jax.Array, number: jax.Array, digits: Scalars) -> Scalars:
    return _count([flag & (index < number + d) for d in digits], rows=number.ndim == 2)


@functools.partial(jax.jit, static_argnames="rows")
def _bits(x: jax.Array, rows: bool) -> Scalars:
    return _sum([lax.population_count(x), lax.population_count(~x)], rows)


def _count(tests: list[jax.Array], rows: bool) -> Scalars:
    """Counts the True entries of several boolean arrays of one shape; of a single one, of its opposite too."""
    return _sum(tests if len(tests) > 1 else [tests[0], ~tests[0]], rows)


def _sum(numbers: list[jax.Array], rows: bool) -> Scalars:
    """Sums several arrays of one shape in one pass: uint32[], or uint32[rows], each.

    Takes one variadic reduction. XLA:CPU turns a reduction of a single operand into a chain of small windows that
    materialises its operand and is about ten times slower (and does so with an operand that comes twice, too). Sums the
    rows of a large tensor first: XLA gives these to several cores, and not the sum of all at once.
    """
    numbers = [x.astype(jnp.uint32) for x in numbers]
    if rows or is_rows(numbers[0]):
        numbers = _reduce(numbers, (1,))
    return numbers if rows else _reduce(numbers, tuple(range(numbers[0].ndim)))


def _reduce(numbers: list[jax.Array], axes: tuple[int, ...]) -> list[jax.Array]:
    zeros = tuple(jnp.zeros((), jnp.uint32) for _ in numbers)
    return list(lax.reduce(tuple(numbers), zeros, lambda a, b: tuple(map(lax.add, a, b)), axes))
