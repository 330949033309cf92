"""How many weights stay and are grown: exact integers, never more than there is room for."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dstjax import budgets
from dstjax.rules import Layers, value
from dstjax.schedules import Cubic, Fractions, Shares, UpdateSchedule

LARGEST = 2**31 - 1
LEAVES = 4
RAMP = Cubic(UpdateSchedule(10, 0, 101))
deal, share = jax.jit(budgets.deal), jax.jit(budgets.share)


@value
class Nothing(Shares):
    """No progress at all."""

    def limbs(self, index):
        return [jnp.uint32(0)] * 5


def layers(active, initial=None, target=None, index=0):
    counts = [jnp.asarray(active if x is None else x, jnp.int32) for x in (active, initial, target, active)]
    return Layers([], *counts, step=jnp.int32(1), update_index=jnp.int32(index))


@jax.jit
def ramped(counts, index):
    return budgets.Ramp(RAMP)(layers(counts[0], counts[0], counts[1], index))


@given(
    st.integers(0, 3000),
    st.lists(st.integers(0, 500), min_size=LEAVES, max_size=LEAVES),
    st.lists(st.integers(0, 800), min_size=LEAVES, max_size=LEAVES),
)
@example(10, [1, 1, 1, 97], [800] * LEAVES)
@example(3000, [0, 0, 0, 0], [1, 0, 800, 2])
@example(7, [0, 0, 0, 0], [0, 0, 0, 0])
def test_deal(total, shares, room):
    dealt = np.asarray(deal(jnp.int32(total), jnp.array(shares), jnp.array(room)))
    assert dealt.sum() == min(total, sum(room))
    assert (dealt >= 0).all()
    assert (dealt <= room).all()
    weights = [max(s, 1) if r else 0 for s, r in zip(shares, room, strict=True)]
    first = [min(total * w // max(sum(weights), 1), r) for w, r in zip(weights, room, strict=True)]
    assert (dealt >= first).all()  # nobody gets less than its share, but for rounding and room
    if (dealt < room).all():  # where room does not matter, the rest of the division is less than one for each leaf
        assert (dealt - first).sum() < LEAVES


def test_deal_in_proportion():
    """D5: (10, 20, 30) divide 12 into (2, 4, 6); the rest of a division goes to the first."""

    def of(total, shares, room):
        return budgets.deal(jnp.int32(total), jnp.array(shares), jnp.array(room)).tolist()

    assert of(12, [10, 20, 30], [99, 99, 99]) == [2, 4, 6]
    assert of(14, [10, 20, 30], [99, 99, 99]) == [3, 4, 7]
    assert of(12, [10, 20, 30], [99, 1, 99]) == [3, 1, 8]  # what has no room goes to the others: 3 in proportion 1 to 3
    assert of(0, [1, 2, 3], [9, 9, 9]) == [0, 0, 0]
    assert of(-3, [1, 2, 3], [9, 9, 9]) == [0, 0, 0]


def test_fill_spreads_what_is_too_much_evenly():
    def of(wanted, room):
        return budgets.fill(jnp.array(wanted, jnp.float32), jnp.array(room, jnp.float32)).tolist()

    assert of([3.0, 4.0], [9.0, 9.0]) == [3, 4]
    assert of([9.0, 1.0, 1.0], [3.0, 9.0, 9.0]) == [3, 4, 4]  # six too many, two for each; the first gives its two back
    assert of([9.0, 9.0], [2.5, 3.5]) == [2, 3]  # no room for all
    assert of([-1.0, 2.0], [9.0, 9.0]) == [0, 2]


def test_times():
    assert budgets.times(jnp.array([100, 7]), 0.29).tolist() == [29, 2]
    assert budgets.times(jnp.array([100, 7]), 2.5).tolist() == [250, 17]


def test_deal_of_large_numbers():
    """Products of counts do not fit an integer of 32 bits."""
    shares = [700_000_000, 300_000_000, 0, 1]
    dealt = deal(jnp.int32(2_000_000_000), jnp.array(shares), jnp.array([LARGEST - 1, 0, 0, 1]))
    assert dealt.tolist() == [1_999_999_999, 0, 0, 1]
    dealt = deal(jnp.int32(1_000_000_000), jnp.array(shares), jnp.array([LARGEST - 10**9, 10**9, 0, 0]))
    assert dealt.tolist() == [700_000_000, 300_000_000, 0, 0]


def test_deal_where_sums_do_not_fit():
    def of(total, shares, room):
        return deal(jnp.int32(total), jnp.array(shares), jnp.array(room)).tolist()

    large = 2**30
    assert of(12, [1, 1, 1, 1], [large] * 4) == [3, 3, 3, 3]
    assert of(100, [large] * 4, [100] * 4) == [25, 25, 25, 25]
    assert of(100, [LARGEST, LARGEST, 0, LARGEST], [100] * 4) == [34, 33, 0, 33]
    assert of(LARGEST, [3, 1, 0, 0], [LARGEST, LARGEST, 0, 0]) == [1610612736, 536870911, 0, 0]


def test_a_factor_out_of_range():
    for factor in (-1.0, 1001, math.nan):
        with pytest.raises(ValueError, match=r"factor=.* is not accepted; expected a number in \[0, 1000\]"):
            budgets.times(jnp.array([1]), factor)


@given(
    st.lists(st.integers(0, LARGEST), min_size=LEAVES, max_size=LEAVES),
    st.floats(-0.5, 1.5, width=32, allow_subnormal=False),  # XLA takes subnormal numbers for 0
)
@example([LARGEST, 2**20, 2**20 - 1, 0], float(np.finfo(np.float32).tiny))
@example([30, 100, LARGEST, 1], 0.4)
@example([LARGEST, 2**20, 2**20 - 1, 0], 0.0)
@example([LARGEST, 3, 2, 1], 1.0)
def test_share(counts, fraction):
    """The floor of a fraction rounded up to a multiple of 2**-20."""
    found = np.asarray(share(jnp.array(counts, jnp.int32), jnp.float32(fraction))).tolist()
    exact = Fraction(min(max(np.float32(fraction).item(), 0.0), 1.0))
    step = Fraction(math.ceil(exact * 2**20), 2**20)
    assert found == [math.floor(n * step) for n in counts]


@pytest.mark.parametrize(
    ("fraction", "count", "expected"), [(0.4, 30, 12), (0.4, 42, 16), (0.413, 40, 16), (0.7, 10, 7)]
)
def test_share_of_a_decimal(fraction, count, expected):
    """1 - 0.6 is less than 0.4 in binary; 0.4 of 30 is 12 all the same."""
    computed = 1 - jnp.float32(1 - fraction)
    assert int(budgets.share(jnp.array([count]), computed)[0]) == expected


@given(
    st.lists(st.integers(0, LARGEST), min_size=LEAVES, max_size=LEAVES),
    st.lists(st.floats(0, 1), min_size=LEAVES, max_size=LEAVES),
    st.integers(0, 12),
)
def test_ramp(initial, densities, index):
    """From the initial count before the first update to exactly the final one, and never up again."""
    target = [math.floor(n * d) for n, d in zip(initial, densities, strict=True)]
    counts = jnp.array([initial, target], jnp.int32)
    now, later = (np.asarray(ramped(counts, jnp.int32(i))) for i in (index, index + 1))
    assert (now >= target).all()
    assert (now <= initial).all()
    assert (later <= now).all()
    if index >= 9:
        assert now.tolist() == target


def test_ramp_of_gradual_pruning():
    """C1: sparsities .4625, .7, .7875 and .8 at a quarter, half, three quarters and the end; of 10,000 weights."""
    progress = Cubic(UpdateSchedule(25, 0, 101))
    kept = [int(budgets.Ramp(progress)(layers([10_000], target=[2000], index=i))[0]) for i in range(6)]
    assert kept == [5375, 3000, 2125, 2000, 2000, 2000]
    dense = Nothing()
    assert budgets.Ramp(dense)(layers([10, 7], target=[1, 7])).tolist() == [10, 7]


@given(st.lists(st.integers(0, LARGEST), min_size=LEAVES, max_size=LEAVES), st.sampled_from([0.0, 0.29, 0.5, 1.0]))
def test_move_leaves_one_weight(active, fraction):
    part = Fractions(fraction, "constant", range(1), None)
    for ceil in (False, True):
        kept = np.asarray(budgets.Move(part, ceil=ceil)(layers(active))).tolist()
        exact = Fraction(str(fraction))
        moving = [math.ceil(exact * n) if ceil else math.floor(exact * n) for n in active]
        assert kept == [max(n - k, min(n, 1)) for n, k in zip(active, moving, strict=True)]


def test_the_small_rules():
    now = layers([5, 9], initial=[10, 12], target=[4, 8])
    kept = jnp.array([3, 8])
    assert budgets.target(now).tolist() == [4, 8]
    assert budgets.none(now).tolist() == [0, 0]
    assert budgets.no_growth(now, kept).tolist() == [0, 0]
    assert budgets.to_target(now, kept).tolist() == [1, 0]
    assert budgets.To(lambda layers: layers.initial)(now, kept).tolist() == [7, 4]
    assert int(budgets.Pooled(budgets.to_target)(now, kept)) == 1
