"""Learning rates: several trainings one after the other, and the rate that falls by a factor."""

import numpy as np
import pytest

from experiments.training import optimisers


@pytest.fixture
def section(small):
    def make(**fields):
        return small(**{f"optimizer__{name}": value for name, value in fields.items()}).optimizer

    return make


def test_two_trainings_have_the_schedule_twice(section):
    once = optimisers.schedule(section(warmup_steps=4), 40)
    twice = optimisers.schedule(section(warmup_steps=4, trainings=2), 80)
    rates = [float(once(t)) for t in range(40)]
    np.testing.assert_allclose([float(twice(t)) for t in range(80)], rates * 2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"optimizer\.trainings=3 is not accepted with 80 steps"):
        optimisers.schedule(section(trainings=3), 80)


def test_milestones_of_one_step_count_one_by_one(section):
    rate = optimisers.schedule(section(schedule="steps", learning_rate=1.0, factor=0.1, milestones=(0.5, 0.501)), 100)
    np.testing.assert_allclose([float(rate(t)) for t in (49, 50, 60)], [1, 0.01, 0.01], rtol=1e-6)


def test_a_rate_that_falls_by_a_factor(section):
    rate = optimisers.schedule(section(schedule="exponential", learning_rate=0.05, factor=0.98**60), 600)
    np.testing.assert_allclose([float(rate(10 * e)) for e in range(60)], 0.05 * 0.98 ** np.arange(60), rtol=1e-5)
