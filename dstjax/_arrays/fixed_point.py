"""Real numbers of a trace, in exact integer arithmetic: the same on every device, whatever its floats do.

A number is a vector of int32 digits in base 2**15, least digit first; the last counts whole units. Digits may lie a few
units outside [0, 2**15), as long as their sum is right: carries go one place up at a time, and :func:`settled` ends it.
Numbers have five digits behind the point, 75 bits, unless said otherwise.
"""

import functools
import itertools
import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.varying import varying_as

BITS, PLACES = 15, 5
PI = Fraction("3.14159265358979323846264338327950288419716939937510")
LN_10 = Fraction("2.30258509299404568401799145468436420760110148862877")

_MASK = (1 << BITS) - 1


def constant(x: Fraction, places: int = PLACES) -> np.ndarray:
    """Returns a number of [0, 2**15), rounded down, as int32[places + 1]."""
    units = math.floor(x * (1 << BITS * places))
    return np.array([units >> BITS * i & _MASK for i in range(places + 1)], np.int32)


def product(a: Any, b: Any, drop: int = PLACES) -> jax.Array:
    """Returns a * b without its ``drop`` last places: too low by one unit of the last place and a thousandth at most.

    Args:
      a: int32[n], abs(digits) <= 2**15 + n + m.
      b: int32[m], the same.
      drop: the number of places; those of the result are those of both numbers without them.
    """
    n, m = len(a), len(b)
    parts = jnp.asarray(a)[:, None] * jnp.asarray(b)[None]
    wide = jnp.pad(parts & _MASK, ((0, 0), (0, 1))) + jnp.pad(parts >> BITS, ((0, 0), (1, 0)))
    # Row i moves i places up: rows that are one shorter than they were begin one later each.
    rows = jnp.pad(wide, ((0, 0), (0, n))).reshape(-1)[: n * (n + m)].reshape(n, n + m)
    total = jnp.sum(rows, axis=0, dtype=jnp.int32)
    whole = total[-2:-1] + (total[-1:] << BITS)
    return _carried(jnp.concatenate([total[:-2], whole]))[drop:]


def ratio(n: jax.Array, d: int) -> jax.Array:
    """Returns n / d of an int32 scalar, 0 <= n <= d: too low by three units of the last place at most."""
    n = jnp.asarray(n, jnp.int32)
    digits = jnp.stack([n & _MASK, n >> BITS & _MASK, n >> 2 * BITS])
    return product(digits, constant(Fraction(1, d), PLACES + 2), drop=2)[: PLACES + 1]


def linear(n: jax.Array, d: int) -> jax.Array:
    """Returns 1 - n / d of an int32 scalar, 0 <= n <= d, to three units of the last place."""
    return _carried(constant(Fraction(1)) - ratio(n, d))


def cosine(n: jax.Array, d: int) -> jax.Array:
    """Returns (1 + cos(pi * n / d)) / 2 of an int32 scalar, 0 <= n <= d, to 60 units of the last place."""
    x = ratio(n, d)
    return _alternating(product(x, x), _cosine_series())


def hundredth(n: jax.Array, d: int) -> jax.Array:
    """Returns 0.01 ** (n / d) of an int32 scalar, 0 <= n <= d, to 100 units of the last place."""
    root = _alternating(ratio(n, d), _power_series())
    return product(root, root)


def cubic(n: jax.Array, d: int) -> jax.Array:
    """Returns 1 - (1 - n / d)**3 of an int32 scalar, 0 <= n <= d, to 20 units of the last place."""
    rest = linear(n, d)
    return _carried(constant(Fraction(1)) - product(rest, product(rest, rest)))


def settled(a: jax.Array) -> list[jax.Array]:
    """Returns the digits of a number that is not negative, all in [0, 2**15) but the last, as uint32 scalars."""
    digits, carry = [], jnp.int32(0)
    for i in range(len(a) - 1):
        total = a[i] + carry
        digits.append(total & _MASK)
        carry = total >> BITS
    return [x.astype(jnp.uint32) for x in (*digits, a[-1] + carry)]


def _carried(a: Any) -> jax.Array:
    """Moves what a digit has too much one place up."""
    return jnp.concatenate([a[:-1] & _MASK, a[-1:]]) + jnp.pad(a[:-1] >> BITS, (1, 0))


def _alternating(x: jax.Array, coefficients: np.ndarray) -> jax.Array:
    """Returns c0 - c1 * x + c2 * x**2 - ..., 0 <= x <= 1: rounds by one unit of the last place a term."""

    def term(higher: jax.Array, c: Any) -> tuple[jax.Array, None]:
        return _carried(c - product(x, higher)), None

    begin = varying_as(jnp.asarray(coefficients[0]), x)
    return jax.lax.scan(term, begin, coefficients[1:])[0]


def _series(terms: Any) -> np.ndarray:
    """The terms down to what no digit shows, highest power first, int32[terms, digits]."""
    shown = itertools.takewhile(lambda c: c > Fraction(1, 1 << BITS * PLACES + 3), terms)
    return np.stack([constant(c) for c in shown][::-1])


@functools.cache
def _cosine_series() -> np.ndarray:
    """That of (1 + cos(pi * sqrt(x))) / 2."""
    later = (PI ** (2 * k) / (2 * math.factorial(2 * k)) for k in itertools.count(1))
    return _series(itertools.chain([Fraction(1)], later))


@functools.cache
def _power_series() -> np.ndarray:
    """That of 10**-x."""
    return _series(LN_10**k / math.factorial(k) for k in itertools.count())
