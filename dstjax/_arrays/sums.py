"""Sums over a tensor in one pass, on a CPU row by row in one piece; traced once for all tensors of a size."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays.shards import may_be_cut

Scalars = list[jax.Array]


@functools.partial(jax.jit, static_argnames=("kept", "by_rows"))
def reaching(x: jax.Array, number: jax.Array, digits: Scalars, kept: tuple[int, ...], by_rows: bool) -> Scalars:
    return _count([x >= number + d for d in digits], kept, by_rows, jnp.uint16 if x.dtype.itemsize <= 2 else jnp.uint32)


@functools.partial(jax.jit, static_argnames=("kept", "by_rows"))
def before(
    flag: jax.Array, index: jax.Array, number: jax.Array, digits: Scalars, kept: tuple[int, ...], by_rows: bool
) -> Scalars:
    return _count([flag & (index < number + d) for d in digits], kept, by_rows)


@functools.partial(jax.jit, static_argnames=("kept", "by_rows"))
def bits(x: jax.Array, kept: tuple[int, ...], by_rows: bool) -> Scalars:
    set_bits = lax.population_count(x)
    return _sum([set_bits, lax.population_count(~x)] if by_rows else [set_bits], kept, by_rows)


@jax.jit
def of_rows(flags: jax.Array) -> jax.Array:
    """Counts the flags of each row, uint32[rows]."""
    true, false = _count([flags], (0,), True, jnp.uint16)
    return jnp.minimum(true, jnp.uint32(flags.shape[1]) - false)


def after(flags: jax.Array, room: jax.Array) -> jax.Array:
    """Returns the highest place of each row before which at most ``room`` flags are set, uint32[rows]."""
    index = lax.broadcasted_iota(jnp.uint32, flags.shape, 1)
    bits = flags.shape[1].bit_length()

    def narrow(i: Any, place: jax.Array) -> jax.Array:
        further = place + (jnp.uint32(1) << jnp.uint32(bits - 1 - i))
        return jnp.where(of_rows(flags & (index < further[:, None])) <= room, further, place)

    return lax.fori_loop(0, bits, narrow, jnp.zeros_like(room))


def _count(tests: list[jax.Array], kept: tuple[int, ...], by_rows: bool, row: Any = jnp.uint32) -> Scalars:
    """Counts the True entries of several boolean arrays of one shape; by rows of a single one, of its opposite too."""
    return _sum(tests if len(tests) > 1 or not by_rows else [tests[0], ~tests[0]], kept, by_rows, row)


def _sum(numbers: list[jax.Array], kept: tuple[int, ...], by_rows: bool, row: Any = jnp.uint32) -> Scalars:
    """Sums several arrays of one shape in one pass, over all axes that are not ``kept``: uint32 each.

    Takes one variadic reduction. XLA:CPU turns a reduction of a single operand into a chain of small windows that
    materialises its operand and is about ten times slower (and does so with an operand that comes twice, too). Sums the
    rows of a tensor in one piece first: XLA gives these to several cores, and not the sum of all at once.

    Args:
      numbers: the arrays.
      kept: axes over which nothing is summed.
      by_rows: sum rows first.
      row: the dtype in which a row is summed, where all of it fits.
    """
    last = numbers[0].ndim - 1
    if by_rows and last >= 0 and last not in kept and not may_be_cut(numbers[0]):
        fits = numbers[0].shape[last] <= np.iinfo(row).max
        numbers = _reduce([x.astype(row if fits else jnp.uint32) for x in numbers], (last,))
    numbers = [x.astype(jnp.uint32) for x in numbers]
    axes = tuple(a for a in range(numbers[0].ndim) if a not in kept)
    return _reduce(numbers, axes) if axes else numbers


def _reduce(numbers: list[jax.Array], axes: tuple[int, ...]) -> list[jax.Array]:
    zeros = tuple(jnp.zeros((), x.dtype) for x in numbers)
    return list(lax.reduce(tuple(numbers), zeros, lambda a, b: tuple(map(lax.add, a, b)), axes))
