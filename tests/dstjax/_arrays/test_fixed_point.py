"""Fixed-point numbers of a trace are what exact arithmetic says, to the units that their docstrings give."""

from decimal import Decimal, localcontext
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dstjax._arrays import fixed_point
from tests import oracles
from tests.thorough import few

UNITS = 2**75
LONGEST = 2**31 - 1
ONES = [1, 2, 7, 25_000, 65_536, 10**9, LONGEST]


def exact(digits, places=5):
    """The number that digits stand for."""
    return sum(Fraction(int(d)) / 2 ** (15 * (places - i)) for i, d in enumerate(np.asarray(digits)))


FUNCTIONS = {
    "ratio": (lambda n, d: Fraction(n, d), 3),
    "linear": (lambda n, d: 1 - Fraction(n, d), 3),
    "cubic": (lambda n, d: 1 - (1 - Fraction(n, d)) ** 3, 20),
    "cosine": (lambda n, d: oracles.exact_decay("cosine", n, d), 60),
    "hundredth": (lambda n, d: oracles.exact_decay("exponential", n, d), 100),
}
TRACED = {(f, d): jax.jit(lambda n, f=f, d=d: getattr(fixed_point, f)(n, d)) for f in FUNCTIONS for d in ONES}


@few(2)
@pytest.mark.parametrize("name", FUNCTIONS)
@given(st.sampled_from(ONES), st.integers(0, LONGEST))
@example(LONGEST, LONGEST)
@example(LONGEST, LONGEST - 1)
@example(25_000, 0)
def test_functions(name, d, n):
    n = n % (d + 1)
    function, units = FUNCTIONS[name]
    assert abs(exact(TRACED[name, d](jnp.int32(n))) - function(n, d)) <= Fraction(units, UNITS)


@given(st.lists(st.integers(-(2**15) - 12, 2**15 + 12), min_size=11, max_size=11), st.integers(0, 6))
def test_products_of_any_digits(digits, drop):
    a, b = np.array(digits[:5], np.int32), np.array(digits[5:], np.int32)
    found = fixed_point.product(a, b, drop)
    unit = Fraction(1, 2 ** (15 * (9 - drop)))
    assert found.shape == (10 - drop,)
    lost = exact(a, 4) * exact(b) - exact(found, 9 - drop)
    assert -unit / 1000 <= lost <= unit * Fraction(1001, 1000)


@given(st.integers(0, 2**75), st.lists(st.integers(-40, 40), min_size=5, max_size=5))
def test_settled_digits(units, moved):
    """What one digit has too much the next one lacks."""
    digits = [int(d) for d in fixed_point.constant(Fraction(units, UNITS))]
    for i, m in enumerate(moved):
        digits[i] -= m << 15
        digits[i + 1] += m
    found = [int(x) for x in fixed_point.settled(np.array(digits, np.int32))]
    assert found == fixed_point.constant(Fraction(units, UNITS)).tolist()


def test_constants():
    """They are right to all digits that the series show."""
    with localcontext(prec=60):
        assert abs(Fraction(Decimal(10).ln()) - fixed_point.LN_10) < Fraction(1, 10**49)
    arctan = lambda n: sum(Fraction((-1) ** k, (2 * k + 1) * n ** (2 * k + 1)) for k in range(40))  # noqa: E731
    assert abs(16 * arctan(5) - 4 * arctan(239) - fixed_point.PI) < Fraction(1, 10**49)
