"""Shares of the trace against exact arithmetic, at any length of training."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dstjax.schedules import Cubic, Fractions, UpdateSchedule
from tests import oracles
from tests.thorough import few, lighter

LONGEST = 2**31 - 1
ENDS = [2, 10, 25_000, 99_999, 10**9, LONGEST]
COUNTS = st.lists(st.integers(0, LONGEST), min_size=3, max_size=3)


@functools.cache
def counted(shares):
    """One program for both ways of rounding, if there are two."""
    ways = [{}] if isinstance(shares, Cubic) else [{"ceil": False}, {"ceil": True}]
    return jax.jit(lambda n, i: [shares.of(n, i, **way) for way in ways])


def told(shares, counts, index, ceil=False):
    return np.asarray(counted(shares)(np.array(counts, np.int32), np.int32(index))[ceil]).tolist()


def agrees(found, count, share, slack, ceil):
    """Whether a count is that of a share, or of one that is larger by the slack."""
    if ceil:  # a rest below 2**-15 is taken for the rounding of an integer
        low, high = (math.ceil(count * s - Fraction(1, 2**15)) for s in (share, share + slack))
    else:
        low, high = (math.floor(count * s) for s in (share, share + slack))
    return low <= found <= high


# Each is a program of its own: every length and every share in `make test`, and all pairs of them in `make slow`.
TIMES = [(end, alpha) for end in ENDS for alpha in (0.3, 0.002)]
TIMES = lighter(TIMES[::4] + TIMES[3::4], TIMES)


@few(2)
@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "exponential", "cosine_floor", "stages"])
@given(st.sampled_from(TIMES), st.integers(0, LONGEST), COUNTS)
@example((10**9, 0.3), 10**9 - 2, [LONGEST, 10**8, 1])
@example((25_000, 0.3), 12_499, [100, 10**8, 20])
@example((25_000, 0.3), 18_749, [100, 10**8, 20])
def test_named_schedules(kind, times, index, counts):
    """The floor of the exact share; an integer that lies 2**-50 of the share, or 2**-58, above is reached."""
    end, alpha = times
    index = index % (end - 1)
    updates = UpdateSchedule(1, 0, end)
    share = oracles.exact_share(kind, alpha, 1 + index, end)
    slack = share / 2**50 + Fraction(1, 2**58)
    for ceil in (False, True):
        found = told(Fractions(alpha, kind, updates.steps, end), counts, index, ceil)
        assert all(agrees(f, n, share, slack, ceil) for f, n in zip(found, counts, strict=True))


@given(st.sampled_from([(1, 0, 3), (7, 20, 300), (1, 0, 10**9), (3, 10**8, LONGEST)]), st.integers(0, LONGEST), COUNTS)
@example((1, 0, 10**9), 10**9 - 2, [LONGEST] * 3)
def test_gradual_pruning(schedule, index, counts):
    updates = UpdateSchedule(*schedule)
    index = index % updates.count
    begin = min(updates.start_step, updates.last - 1)
    progress = 1 - (1 - Fraction(updates.steps[index] - begin, updates.last - begin)) ** 3
    found = told(Cubic(updates), counts, index)
    assert all(agrees(f, n, progress, Fraction(1, 2**58), False) for f, n in zip(found, counts, strict=True))
    if index == updates.count - 1:
        assert found == counts
    assert float(progress) == pytest.approx(Cubic(updates).at(index))


@given(st.integers(0, 10**6), st.integers(0, LONGEST), st.booleans())
def test_functions_of_decimals(millionths, count, ceil):
    """What a function computes in float32 is the decimal that it means."""
    found = told(Fractions(0.0, in_millionths, range(10**6 + 1), 10**6), [count], millionths, ceil)
    share = Fraction(millionths, 10**6)
    assert agrees(found[0], count, share, Fraction(1, 2**58), ceil)


def in_millionths(step):
    return step / 1_000_000


@given(st.integers(0, 2**24), st.integers(0, 2**20))
def test_functions_of_other_numbers(index, count):
    """They are known to float32 alone."""
    found = told(Fractions(0.0, root, range(2**24 + 1), 10**8), [count], index)
    assert abs(found[0] - count * math.sqrt(index / 2**24)) <= 1 + count * 2**-21


def root(step):
    return jnp.sqrt(jnp.float32(step) / 2**24)


def test_functions_count_alike_eagerly_and_compiled():
    f = Fractions(0.0, lambda t: 0.4 * (1 - t / 100), range(0, 100, 5), 100)
    counts = jnp.array([100, 1000, 10**6], jnp.int32)
    for i in range(25):
        exact = [math.floor(Fraction(4, 10) * (1 - Fraction(min(5 * i, 95), 100)) * int(n)) for n in counts]
        assert f.of(counts, jnp.int32(i)).tolist() == told(f, counts, i) == exact


def test_a_function_outside_the_range_counts_as_its_nearest_share():
    f = Fractions(0.0, lambda t: jnp.where(t == 5, jnp.nan, jnp.where((t > 1) & (t < 8), t - 4.0, 0.5)), range(10), 10)
    assert [told(f, [10], i)[0] for i in range(10)] == [5, 5, 0, 0, 0, 0, 10, 10, 5, 5]


@few(2)
@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "exponential", "cosine_floor", "stages"])
def test_a_drop_fraction_of_a_population(kind):
    """Members of a trace move as many as runs of their own."""
    steps, alphas, counts = range(7, 300, 7), [0.3, 0.45, 0.001], np.array([1000, 97, 2_000_000], np.int32)

    def of(alpha, index):
        f = Fractions(alpha, kind, steps, 300)
        return f.of(counts, index), f.of(counts, index, ceil=True)

    population, alone = jax.jit(jax.vmap(of, in_axes=(0, None))), jax.jit(of, static_argnums=0)
    for i in map(np.int32, (0, 20, 41)):
        together = jax.device_get(population(np.array(alphas, np.float32), i))
        for j, alpha in enumerate(alphas):
            assert [x[j].tolist() for x in together] == [x.tolist() for x in jax.device_get(alone(alpha, i))]
