"""Student's t, Holm's correction, power and what test samples resolve, against scipy and against draws."""

import math

import numpy as np
import pytest
from scipy import special, stats

from experiments.report import statistics


def test_paired_differences_are_students_t():
    a, b = np.array([1.0, 3.0, 2.0, 4.5]), np.array([0.5, 2.0, 2.5, 3.0])
    found, expected = statistics.paired(a, b), stats.ttest_rel(a, b)
    assert found.mean == pytest.approx(np.mean(a - b))
    assert found.standard_error == pytest.approx(np.std(a - b, ddof=1) / 2)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert found.interval == pytest.approx((interval.low, interval.high))
    one_sided = stats.ttest_1samp(a - b, 0.3, alternative="greater").pvalue
    assert found.chance(0.3, above=True) == pytest.approx(one_sided)
    assert found.chance(0.3, above=False) == pytest.approx(1 - one_sided)
    assert not found.clear
    assert statistics.paired(a + 9, b).clear


def test_two_standard_errors_of_three_seeds_are_not_clear():
    """Student's t wants 4.3 of them with three seeds, 12.7 with two."""
    assert statistics.paired(np.array([2.0, 3.0, 4.0])).clear
    assert not statistics.paired(np.array([1.0, 2.0, 3.0])).clear  # 3.5 of them
    assert not statistics.paired(np.array([5.0, 6.0])).clear  # 11


def test_one_seed_shows_nothing_and_no_spread_leaves_nothing_to_chance():
    one = statistics.paired(np.array([9.0]))
    assert not one.clear
    assert one.p == 1
    assert math.isnan(one.half_width)
    assert math.isnan(statistics.power(1.0, math.nan, 1))
    same = statistics.paired(np.array([2.0, 2.0]))
    assert same.clear
    assert same.interval == (2.0, 2.0)
    nothing = statistics.paired(np.zeros(3))
    assert not nothing.clear
    assert nothing.p == 1


@pytest.mark.parametrize("values", [[0.01, 0.04, 0.03], [0.5], [], [0.02, 0.02, 0.9, 0.001], [0.3, 0.4]])
def test_holm_against_its_definition(values):
    order = sorted(range(len(values)), key=lambda i: values[i])
    expected, so_far = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, (len(values) - rank) * values[i])
        expected[i] = min(1.0, so_far)
    assert statistics.holm(values) == pytest.approx(expected)


def test_holm_keeps_the_level_of_all_tests_together():
    """Ten differences that are none, 2,000 times: any is clear in about 5 % of them, without correction in 40 %."""
    draw = np.random.default_rng(0).normal(size=(2000, 10, 5))
    t = draw.mean(-1) / draw.std(-1, ddof=1) * math.sqrt(5)
    p = 2 * special.stdtr(4, -np.abs(t))
    corrected = np.mean([min(statistics.holm(row)) <= 0.05 for row in p])
    assert corrected == pytest.approx(0.05, abs=0.015)
    assert np.mean(p.min(axis=1) <= 0.05) > 0.3


@pytest.mark.parametrize(("n", "effect", "level"), [(5, 1.0, 0.05), (3, 1.0, 0.01), (16, 0.5, 0.05 / 6)])
def test_power_is_that_of_the_noncentral_t(n, effect, level):
    expected = 1 - special.nctdtr(n - 1, effect / 0.4, statistics.critical(n, level))
    assert statistics.power(effect, 0.4, n, level) == pytest.approx(expected, abs=1e-4)


def test_power_to_show_that_two_things_are_alike_is_that_of_draws():
    draw = np.random.default_rng(0).normal(size=(4000, 6))
    means, errors = draw.mean(-1), draw.std(-1, ddof=1) / math.sqrt(6)
    reach = np.abs(means) + statistics.critical(6, 0.05) * errors
    assert statistics.power_within(1.2, 1 / math.sqrt(6), 6) == pytest.approx(np.mean(reach < 1.2), abs=0.03)
    assert statistics.power_within(0.1, 1 / math.sqrt(6), 6) < 0.01


def test_a_detectable_difference_is_found_in_four_of_five_cases():
    found = statistics.detectable(0.4, 8)
    assert statistics.power(found, 0.4, 8) == pytest.approx(0.8, abs=0.02)
    assert statistics.detectable(0.4, 1) == math.inf


def test_resolution_is_the_noise_of_the_binomial():
    accuracies = np.random.default_rng(0).binomial(360, 0.95, 4000) / 3.6
    assert statistics.resolution(95.0, 360) == pytest.approx(1.96 * accuracies.std(), rel=0.05)
    assert statistics.resolution(100.0, 360) == 0


def test_rank_correlation():
    assert statistics.rank_correlation([1, 2, 3], [5.0, 6.0, 9.0]) == 1
    assert statistics.rank_correlation([1, 2, 3], [5.0, 5.0, 5.0]) == 0
