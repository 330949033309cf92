"""Ranks, Friedman's test, critical distances: against scipy, published quantiles, and by hand."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from experiments.report import rank_tests

# Studentised range at 0.05 over sqrt(2) for 2 to 10 methods, as the tables for Nemenyi's test print it.
QUANTILES = (1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164)

TABLES = hnp.arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(3, 6)), elements=st.integers(0, 5).map(float))


def test_critical_distance_of_the_reference_examples():
    """G6: k = 5 criteria over N = 88 and 10 blocks."""
    assert rank_tests.critical_distance(5, 88) == pytest.approx(0.650, abs=5e-4)
    assert rank_tests.critical_distance(5, 10) == pytest.approx(1.929, abs=5e-4)


@pytest.mark.parametrize(("methods", "quantile"), list(enumerate(QUANTILES, start=2)))
def test_critical_distance_has_the_tabulated_quantiles(methods, quantile):
    distance = rank_tests.critical_distance(methods, 20)
    assert distance / math.sqrt(methods * (methods + 1) / 120) == pytest.approx(quantile, abs=6e-4)


def test_critical_distance_of_two_methods_is_a_normal_quantile():
    expected = stats.norm.ppf(1 - 0.01 / 2) * math.sqrt(2 * 3 / (6 * 7))
    assert rank_tests.critical_distance(2, 7, alpha=0.01) == pytest.approx(expected, rel=1e-6)


@hypothesis.given(TABLES)
def test_friedman_is_that_of_scipy(scores):
    ours = rank_tests.friedman(scores)
    if all(np.ptp(row) == 0 for row in scores):  # scipy divides by zero there
        assert ours.chi_square == 0
        assert ours.p_value == 1
        return
    theirs = stats.friedmanchisquare(*scores.T)
    np.testing.assert_allclose(ours.chi_square, theirs.statistic, atol=1e-9)
    np.testing.assert_allclose(ours.p_value, theirs.pvalue, atol=1e-9)


@hypothesis.given(TABLES)
def test_ranks(scores):
    """Each block deals out 1 to k, equal scores get equal ranks, and losses rank the other way round."""
    ranks = rank_tests.ranks(scores)
    k = scores.shape[1]
    np.testing.assert_allclose(ranks.sum(axis=1), k * (k + 1) / 2)
    np.testing.assert_array_equal(rank_tests.ranks(-scores, higher_is_better=False), ranks)
    np.testing.assert_allclose(rank_tests.ranks(scores, higher_is_better=False), k + 1 - ranks)
    for row, rank in zip(scores, ranks, strict=True):
        by_hand = [1 + np.sum(row > x) + (np.sum(row == x) - 1) / 2 for x in row]
        np.testing.assert_array_equal(rank, by_hand)


def test_friedman_by_hand():
    """Four blocks, three methods, one tie: mean ranks (1.375, 1.875, 2.75)."""
    scores = [[3, 2, 1], [3, 3, 1], [2, 3, 1], [3, 1, 2]]
    result = rank_tests.friedman(scores, correct_ties=False)
    np.testing.assert_array_equal(result.ranks, [1.375, 1.875, 2.75])
    chi_square = 4 * (1.375**2 + 1.875**2 + 2.75**2 - 12)  # 12 N / (k (k + 1)) = 4, k (k + 1)^2 / 4 = 12
    assert result.chi_square == pytest.approx(chi_square)
    assert result.p_value == pytest.approx(math.exp(-chi_square / 2))  # two degrees of freedom
    assert result.f == pytest.approx(3 * chi_square / (8 - chi_square))
    corrected = rank_tests.friedman(scores)
    assert corrected.chi_square == pytest.approx(chi_square / (1 - 6 / (4 * 24)))
    np.testing.assert_array_equal(rank_tests.friedman(-np.array(scores), higher_is_better=False).ranks, result.ranks)


def test_f_is_a_two_way_analysis_of_variance_of_the_ranks():
    """Iman and Davenport's F without ties: mean squares of methods over residual ones, on the ranks."""
    scores = np.random.default_rng(1).normal(size=(9, 4))
    ranks = rank_tests.ranks(scores)
    between = 9 * np.sum((ranks.mean(axis=0) - 2.5) ** 2)
    residual = np.sum((ranks - 2.5) ** 2) - between
    assert rank_tests.friedman(scores).f == pytest.approx((between / 3) / (residual / (3 * 8)))


def test_blocks_that_all_agree():
    result = rank_tests.friedman(np.tile([1.0, 2.0, 3.0], (4, 1)))
    assert result.chi_square == pytest.approx(8)
    assert result.f == math.inf
    assert result.f_p_value == 0


def test_groups():
    ranks = {"d": 4.0, "a": 1.0, "b": 1.5, "c": 2.2, "e": 4.5}
    assert rank_tests.groups(ranks, 1.0) == (("a", "b"), ("b", "c"), ("d", "e"))
    assert rank_tests.groups(ranks, 1.3) == (("a", "b", "c"), ("d", "e"))
    assert rank_tests.groups(ranks, 9.0) == (("a", "b", "c", "d", "e"),)
    assert rank_tests.groups(ranks, 0.1) == ()
    assert rank_tests.groups({"a": 2.0, "b": 2.0, "c": 3.0}, 0) == (("a", "b"),)


@hypothesis.given(st.lists(st.integers(0, 40), min_size=2, max_size=8), st.integers(0, 20))
def test_groups_are_the_maximal_ones(ranks, distance):
    """Two methods share a group exactly where they lie within the distance; no group holds another."""
    named = {str(i): rank / 4 for i, rank in enumerate(ranks)}
    found = [set(g) for g in rank_tests.groups(named, distance / 4)]
    for a in named:
        for b in set(named) - {a}:
            assert any({a, b} <= g for g in found) == (abs(named[a] - named[b]) <= distance / 4)
    assert not any(g < h for g in found for h in found)


def test_compare():
    rng = np.random.default_rng(0)
    base = rng.normal(size=30)
    scores = {"bad": base - 2 + 0.1 * rng.normal(size=30), "good": base + 0.1 * rng.normal(size=30)}
    scores["as good"] = base + 0.1 * rng.normal(size=30)
    result = rank_tests.compare({name: column.tolist() for name, column in scores.items()})
    assert result.names[-1] == "bad"
    assert result.ranks[-1] == 3
    assert result.critical_distance == rank_tests.critical_distance(3, 30)
    assert [set(g) for g in result.groups] == [{"good", "as good"}]
    losses = rank_tests.compare({n: (-c).tolist() for n, c in scores.items()}, higher_is_better=False)
    assert losses.names == result.names


def test_methods_do_not_differ_unless_the_test_says_so():
    """Ranks 1.9 and 2.1 of ten blocks: a critical distance is printed, but all are one group."""
    scores = np.random.default_rng(3).normal(size=(10, 3))
    result = rank_tests.compare(dict(zip("abc", scores.T.tolist(), strict=True)), alpha=1e-3)
    assert result.test.f_p_value > 1e-3
    assert result.groups == (result.names,)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], r"shape \(2,\)"),
        ([[1.0, 2.0]], "1 block"),
        ([[1.0], [2.0]], "1 method"),
        ([[1.0, 2.0], [math.nan, 1.0]], r"scores\[1, 0\]=nan"),
        ([[1.0, math.inf], [0.0, 1.0]], r"scores\[0, 1\]=inf"),
    ],
)
def test_scores_that_cannot_be_ranked(scores, message):
    with pytest.raises(ValueError, match=message):
        rank_tests.friedman(scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 10), "methods=1"),
        ((3, 1), "blocks=1"),
        ((3, 10, 0.0), "alpha=0.0"),
        ((3, 10, math.nan), "alpha=nan"),
    ],
)
def test_critical_distance_out_of_range(arguments, message):
    methods, blocks, *alpha = arguments
    with pytest.raises(ValueError, match=message):
        rank_tests.critical_distance(methods, blocks, **({"alpha": alpha[0]} if alpha else {}))


def test_bad_comparisons():
    with pytest.raises(ValueError, match="different numbers of blocks"):
        rank_tests.compare({"a": [1.0, 2.0], "b": [1.0]})
    with pytest.raises(ValueError, match="shape"):
        rank_tests.compare({})
    with pytest.raises(ValueError, match="0 block"):
        rank_tests.compare({"a": [], "b": []})
    with pytest.raises(ValueError, match="distance=-1"):
        rank_tests.groups({"a": 1.0, "b": 2.0}, -1)
    with pytest.raises(ValueError, match="rank of 'b'=nan"):
        rank_tests.groups({"a": 1.0, "b": math.nan}, 1.0)
