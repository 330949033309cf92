"""When masks change, and by how much: the values of the reference (0.8), exact shares of counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstjax.schedules import Cubic, Fractions, Stages, UpdateSchedule
from tests import oracles


def fractions(fraction: float, schedule, updates: UpdateSchedule) -> Fractions:
    return Fractions(fraction, schedule, updates.steps, updates.end_step)


def value_at(f: Fractions, updates: UpdateSchedule, step: int) -> float:
    return float(f.at(int(updates.index(jnp.int32(step)))))


def values(f, updates: UpdateSchedule) -> list[float]:
    return [f.at(i) for i in range(updates.count or 1)]


def test_rigls_cosine():
    """0.8: alpha = 0.3, T_end = 25,000: 0.3 at the start, 0.15 halfway, 0.0286 at t = 20,000."""
    updates = UpdateSchedule(100, 0, 25_000)
    f = fractions(0.3, "cosine", updates)
    assert value_at(f, updates, 100) == pytest.approx(0.3, abs=1e-4)
    assert value_at(f, updates, 12_500) == pytest.approx(0.15)
    assert value_at(f, updates, 20_000) == pytest.approx(0.0286, abs=5e-5)


def test_itops_cosine_ends_at_a_floor():
    """0.8: rho_0 = 0.5 gives 0.5, 0.2525, 0.0171 at 90 %, 0.005 at the end."""
    updates = UpdateSchedule(1, 0, 50_000)
    f = fractions(0.5, "cosine_floor", updates)
    for share, expected in [(0, 0.5), (0.5, 0.2525), (0.9, 0.0171), (1, 0.005)]:
        assert value_at(f, updates, max(1, round(share * 49_999))) == pytest.approx(expected, abs=5e-5)
    assert fractions(0.002, "cosine_floor", updates).at(0) <= 0.002  # never rises to a floor above its start


def test_constant_linear_and_a_function():
    updates = UpdateSchedule(10, 0, 100)
    assert set(values(fractions(0.3, "constant", updates), updates)) == {0.3}
    assert values(fractions(0.4, "linear", updates), updates) == pytest.approx(
        [0.4 * (1 - t / 100) for t in range(10, 100, 10)]
    )
    power = fractions(0.5, lambda t: 0.5 * (1 - t / 100) ** 3, updates)
    assert values(power, updates) == pytest.approx([0.5 * (1 - t / 100) ** 3 for t in range(10, 100, 10)])
    falling = fractions(0.4, "exponential", updates)
    assert values(falling, updates) == pytest.approx([0.4 * 0.01 ** (t / 100) for t in range(10, 100, 10)])
    an_optax_schedule = fractions(0.5, lambda t: jnp.float32(0.25) * (t < 50), updates)
    assert values(an_optax_schedule, updates) == [0.25] * 4 + [0.0] * 5


@given(st.integers(1, 12), st.integers(0, 40), st.none() | st.integers(1, 60))
def test_update_steps(period, start, end):
    steps = [t for t in range(1, 80) if t % period == 0 and t >= start and (end is None or t < end)]
    if end is not None and (end <= start or not steps):
        with pytest.raises(ValueError, match=r"end_step|update_period"):
            UpdateSchedule(period, start, end)
        return
    updates = UpdateSchedule(period, start, end)
    assert [t for t in range(1, 80) if updates.is_update(t)] == steps
    assert updates.is_update(np.arange(80))[1:].tolist() == [t in steps for t in range(1, 80)]
    assert updates.count == (None if end is None else len(steps))
    indices = updates.index(jnp.array(steps, jnp.int32)).tolist()
    assert indices == list(range(len(steps)))


def test_step_zero_is_no_update():
    assert not UpdateSchedule(5).is_update(0)
    assert not UpdateSchedule(1).is_update(0)


def test_an_update_at_every_step_needs_no_branch():
    """A trace then knows without the step that there is one."""
    found = []
    jax.jit(lambda t: found.append(UpdateSchedule(1).is_update(t)))(1)
    jax.jit(lambda t: found.append(UpdateSchedule(2).is_update(t)))(1)
    assert found[0] is True
    assert found[1] is not True


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "cosine_floor"])
def test_counts_of_each_update(schedule, ceil):
    """The traced count is floor or ceil of the fraction of the host, for every update and beyond the last."""
    updates = UpdateSchedule(7, 20, 300)
    f = fractions(0.45, schedule, updates)
    count = jax.jit(lambda n, i: f.of(n, i, ceil=ceil))
    for i, t in enumerate(range(21, 300, 7)):
        rho = oracles.fraction_at(schedule, 0.45, t, 300)
        for n in (1, 97, 5000):
            exact = np.ceil(rho * n - 1e-9) if ceil else np.floor(rho * n + 1e-9)
            assert int(count(n, i)) == exact
    last = int(count(97, updates.count - 1))
    assert int(count(97, 10_000)) == last  # a host may ask for an update after the end


def test_the_share_of_twenty_nine_hundredths():
    """0.4: float32(100) * float32(0.29) truncates to 29, Python's int(100 * 0.29) to 28; meant is 29."""
    f = fractions(0.29, "constant", UpdateSchedule(1))
    assert int(f.of(jnp.int32(100), jnp.int32(0))) == 29
    assert int(f.of(jnp.int32(100), jnp.int32(0), ceil=True)) == 29


def test_stages_of_mest():
    """D8: updates every 5 of 160 epochs, the mutation constant to epoch 90, half of it to 120 (end_step), then none."""
    updates = UpdateSchedule(5, 0, 120)
    f = fractions(0.2, "stages", updates)
    assert [value_at(f, updates, t) for t in (5, 45, 85, 90, 95, 115)] == [0.2, 0.2, 0.2, 0.1, 0.1, 0.1]
    assert not updates.is_update(120)
    with pytest.raises(ValueError, match="drop_schedule='stages' is not accepted with end_step=None"):
        fractions(0.2, "stages", UpdateSchedule(5))


def test_cubic():
    """C1: of the way to a sparsity of .8 the values .4625, .7, .7875 and .8 at 25, 50, 75 and 100 of 100 steps."""
    updates = UpdateSchedule(25, 0, 101)
    f = Cubic(updates)
    assert [0.8 * value_at(f, updates, t) for t in (25, 50, 75, 100)] == pytest.approx([0.4625, 0.7, 0.7875, 0.8])
    assert value_at(f, updates, 200) == 1.0
    until = Cubic(UpdateSchedule(10, 20, 100), until=61)  # from 20 to 60, the last before 61; later ones stay
    assert [until.at(i) for i in range(5)] == pytest.approx([1 - (1 - p) ** 3 for p in (0, 0.25, 0.5, 0.75, 1)])
    assert Cubic(UpdateSchedule(10, 10, 20)).at(0) == 1.0  # a single update goes all the way
    assert (np.diff(values(Cubic(UpdateSchedule(7, 30, 400)), UpdateSchedule(7, 30, 400))) > 0).all()


def test_cubic_that_cannot_end():
    with pytest.raises(ValueError, match="end_step=None is not accepted here"):
        Cubic(UpdateSchedule(10))
    with pytest.raises(ValueError, match="no mask update lies before step 15; the first is at step 20"):
        Cubic(UpdateSchedule(10, 20, 100), until=15)
    with pytest.raises(ValueError, match="prune_end_step=101 is not accepted with end_step=100"):
        Cubic(UpdateSchedule(10, 20, 100), until=101)
    endless, ending = Cubic(UpdateSchedule(10), until=31), Cubic(UpdateSchedule(10, 0, 31))
    assert [endless.at(i) for i in range(4)] == [ending.at(i) for i in range(4)]


def test_stages_of_iee():
    """I11: H = J = Q = 2 prunes before i = 2, explores in i = 4 and 5, grows before i = 6: in the calls before."""
    stages = Stages((2, 2, 2), 3)
    steps = range(20)
    assert [t for t in steps if stages.ends_first(t)] == [1, 7, 13]
    assert [t for t in steps if stages.ends_last(t)] == [5, 11, 17]
    assert [t for t in steps if stages.in_last(t)] == [4, 5, 10, 11, 16, 17]
    assert [t for t in steps if stages.is_update(t)] == [1, 5, 7, 11, 13, 17]
    assert (stages.period, stages.first, stages.count) == (6, 1, 6)
    assert stages.is_update(np.arange(20)).tolist() == [t in (1, 5, 7, 11, 13, 17) for t in steps]


@given(st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4)), st.none() | st.integers(1, 4))
def test_how_many_ends_lie_before_a_step(lengths, cycles):
    stages = Stages(lengths, cycles)
    steps = np.arange(1, 60)
    due = stages.is_update(steps)
    before = np.concatenate([[0], np.cumsum(due)[:-1]])
    np.testing.assert_array_equal(stages.index(jnp.asarray(steps, jnp.int32)), before)
    np.testing.assert_array_equal(stages.cycle(jnp.asarray(steps, jnp.int32)), before // 2)
    assert stages.count is None or due.sum() == stages.count
    assert steps[due][0] == stages.first
    assert not stages.is_update(0)


@pytest.mark.parametrize("lengths", [(1, 2, 2), (2, 0, 2), (2, 2, 1.5)])
def test_stages_that_are_too_short(lengths):
    with pytest.raises(ValueError, match="length of stage"):
        Stages(lengths, 2)
