"""Sums over a tensor in one pass, on a CPU row by row in one piece; traced once for all tensors of a size."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays.shards import may_be_cut

Scalars = list[jax.Array]


@functools.partial(jax.jit, static_argnames=("kept", "by_rows", "variant"))
def reaching(
    x: jax.Array, number: jax.Array, digits: Scalars, kept: tuple[int, ...], by_rows: bool, variant: int = 0
) -> Scalars:
    """Counts what reaches a number plus each digit, which is 1 or more; so is their sum, unless it wraps around.

    The bits of ``variant`` say which tests are written as another comparison that comes to the same.
    """
    tests = [x > number + (d - 1) if variant >> i & 1 else x >= number + d for i, d in enumerate(digits)]
    return _count(tests, kept, by_rows, jnp.uint16 if x.dtype.itemsize <= 2 else jnp.uint32)


@functools.partial(jax.jit, static_argnames=("kept", "by_rows"))
def before(
    flag: jax.Array, index: jax.Array, number: jax.Array, digits: Scalars, kept: tuple[int, ...], by_rows: bool
) -> Scalars:
    return _count([flag & (index < number + d) for d in digits], kept, by_rows)


@functools.partial(jax.jit, static_argnames=("kept", "by_rows"))
def bits(x: jax.Array, kept: tuple[int, ...], by_rows: bool) -> Scalars:
    set_bits = lax.population_count(x)
    return _sum([set_bits, lax.population_count(~x)] if by_rows else [set_bits], kept, by_rows)


def of_rows(x: jax.Array) -> jax.Array:
    """Sums over the last axis: uint32[..., columns] to uint32[...], modulo 2**32."""
    total, opposite = _reduce([x, ~x], (x.ndim - 1,))
    # A number and its opposite add up to -1. Both sums are read, so that both are computed.
    return jnp.minimum(total, np.uint32(-x.shape[-1] % 2**32) - opposite)


@jax.jit
def flags_of_rows(flags: Sequence[jax.Array]) -> jax.Array:
    """Counts the flags of each row of some matrices, uint32[rows of all]."""
    row = jnp.uint16 if max(x.shape[1] for x in flags) <= np.iinfo(np.uint16).max else jnp.uint32
    counts = [_reduce([x.astype(row), (~x).astype(row)], (1,)) for x in flags]
    true, false = (jnp.concatenate(x).astype(jnp.uint32) for x in zip(*counts, strict=True))
    width = np.concatenate([np.full(x.shape[0], x.shape[1], np.uint32) for x in flags])
    return jnp.minimum(true, width - false)


def before_of_rows(x: jax.Array, place: jax.Array) -> jax.Array:
    """Sums what lies before a place of each row: of numbers uint32[rows, columns], or of flags; uint32[rows]."""
    is_before = lax.broadcasted_iota(jnp.uint32, x.shape, 1) < place[:, None]
    return flags_of_rows([x & is_before]) if x.dtype == jnp.bool_ else of_rows(jnp.where(is_before, x, 0))


def after(x: jax.Array, most: jax.Array) -> jax.Array:
    """Returns the highest place of each row before which the numbers, or flags, add up to at most ``most``: uint32."""
    bits = x.shape[1].bit_length()

    def narrow(i: Any, place: jax.Array) -> jax.Array:
        further = place + (jnp.uint32(1) << jnp.uint32(bits - 1 - i))
        return jnp.where(before_of_rows(x, further) <= most, further, place)

    return lax.fori_loop(0, bits, narrow, jnp.zeros_like(most))


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
