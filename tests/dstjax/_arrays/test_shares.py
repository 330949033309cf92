"""Shares of counts are exact, traced or not."""

from fractions import Fraction

import jax.numpy as jnp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstjax._arrays import shares
from tests import oracles
from tests.thorough import examples


@settings(max_examples=examples(500))
@given(st.integers(0, 2**40), st.integers(0, 10_000))
@example(297_904_839_687, 4377)  # 130,392,948,330.9999
def test_floor_of_the_decimal_that_was_typed(count, tenthousandths):
    fraction = tenthousandths / 10_000
    assert shares.floor_share(count, fraction) == oracles.share(count, fraction)


def test_floor_share_of_the_known_traps():
    assert 0.29 * 100 < 29 == shares.floor_share(100, 0.29)
    assert shares.floor_share(10, 0.7) == 7
    assert shares.floor_share(1000, 0.999) == 999
    assert shares.floor_share(3, 1 / 3) == 1
    assert shares.floor_share(7, 1.0) == 7
    assert shares.floor_share(781_250_000, 0.0001) == 78_125
    assert shares.floor_share(2**32, 0.0) == 0
    assert shares.floor_share(7, 0.0) == 0


@settings(max_examples=examples(300))
@given(st.lists(st.integers(0, 2**31 - 1), min_size=8, max_size=8), st.integers(0, 10_000), st.booleans())
def test_the_traced_share_is_the_exact_one(counts, tenthousandths, ceil):
    fraction = tenthousandths / 10_000
    limbs = jnp.array(shares.share_limbs(fraction), jnp.uint32)
    got = shares.share_of(jnp.array(counts, jnp.int32), limbs, ceil=ceil)
    assert got.dtype == jnp.int32
    assert got.tolist() == [oracles.share(c, fraction, ceil) for c in counts]


@settings(max_examples=examples(300))
@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_the_traced_share_of_any_float(count, fraction):
    """For fractions that are no short decimals, floor and ceil of the binary number, up to the nudge.

    It is 2**-50 of the fraction, and one unit of the last of 60 bits at least.
    """
    limbs = jnp.array(shares.share_limbs(fraction), jnp.uint32)
    exact = Fraction(fraction) * count
    low = int(shares.share_of(jnp.int32(count), limbs))
    high = int(shares.share_of(jnp.int32(count), limbs, ceil=True))
    assert low == shares.floor_share(count, fraction)
    assert low <= exact * (1 + Fraction(1, 2**50)) + Fraction(count, 2**60) < low + 1 + Fraction(1, 2**20)
    assert high in (low, low + 1)
    # A rest below 2**-15 is taken for the rounding of an integer.
    assert (high == low) == (exact - low < Fraction(1, 2**15)) or abs(exact - low - Fraction(1, 2**15)) < 2**-18
