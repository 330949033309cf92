"""The knapsack against every choice there is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax._arrays.knapsack import solve
from dstjax.costs import knapsack


def drawn(rng, groups, options):
    """Costs that need not rise, values that may be equal; option 0 costs nothing in most groups."""
    costs = [rng.integers(0, 12, rng.integers(1, options + 1)) for _ in range(groups)]
    values = [np.round(rng.uniform(0, 4, c.size), rng.integers(0, 3)) for c in costs]
    for c in costs:
        c[0] = 0 if rng.random() < 0.8 else c[0]
    return values, costs


def brute(values, costs, capacity):
    found = -np.inf
    for options in itertools.product(*(range(len(v)) for v in values)):
        if sum(c[i] for c, i in zip(costs, options, strict=True)) <= capacity:
            found = max(found, sum(v[i] for v, i in zip(values, options, strict=True)))
    return found


def worth(values, costs, options):
    return tuple(sum(x[i] for x, i in zip(table, options, strict=True)) for table in (values, costs))


def test_equals_brute_force():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        values, costs = drawn(rng, int(rng.integers(1, 5)), 5)
        capacity = int(rng.integers(0, 25))
        best = brute(values, costs, capacity)
        if best == -np.inf:
            refused += 1
            with pytest.raises(ValueError, match="cheapest options"):
                knapsack.choose(values, costs, capacity)
            continue
        value, cost = worth(values, costs, knapsack.choose(values, costs, capacity))
        assert cost <= capacity
        assert value == pytest.approx(best, abs=1e-9)
    assert 0 < refused < 250


def test_the_compiled_one_equals_brute_force():
    rng = np.random.default_rng(1)
    compiled = jax.jit(jax.vmap(lambda v, c: solve(v, c, 20)))
    cases = [drawn(rng, 4, 5) for _ in range(100)]
    padded = np.zeros((2, 100, 4, 5))
    padded[1] = 21
    for i, (values, costs) in enumerate(cases):
        for k in range(4):
            padded[0, i, k, : values[k].size], padded[1, i, k, : costs[k].size] = values[k], costs[k]
    found = np.asarray(compiled(jnp.asarray(padded[0], jnp.float32), jnp.asarray(padded[1], jnp.int32)))
    checked = 0
    for (values, costs), options in zip(cases, found, strict=True):
        best = brute(values, costs, 20)
        if best > -np.inf:
            checked += 1
            value, cost = worth(values, costs, options)
            assert cost <= 20
            assert value == pytest.approx(best, abs=1e-5)
    assert checked > 80


@pytest.mark.parametrize(
    ("capacity", "expected"), [(3, [1, 0]), (4, [0, 2]), (5, [1, 1]), (6, [1, 2]), (7, [1, 2]), (99, [2, 2])]
)
def test_the_example_of_two_groups(capacity, expected):
    """One channel of A is worth 10 and costs 2; B's second is worth 5, but not without its first."""
    assert knapsack.choose([[0, 10, 11], [0, 6, 11]], [[0, 2, 5], [0, 3, 4]], capacity) == expected


def test_no_capacity_takes_what_costs_nothing():
    for resolution in (None, 10):
        assert knapsack.choose([[1, 2], [0, 5]], [[0, 1], [0, 3]], 0, resolution=resolution) == [0, 0]


def test_real_costs_are_rounded_up():
    values, costs = [[0, 1.0], [0, 1.0]], [[0, 0.5], [0, 0.5 + 1e-6]]
    assert knapsack.choose(values, costs, 1.0, resolution=10) in ([1, 0], [0, 1])
    assert knapsack.choose(values, costs, 1.1, resolution=1000) == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(values=[[1]], costs=[[3]], capacity=2), "below 3, the cost of the cheapest"),
        (dict(values=[[1]], costs=[[0.5]], capacity=0.7), None),
        (dict(values=[[1, 2]], costs=[[0.5, 1]], capacity=0.7), "no whole numbers"),
        (dict(values=[[1, 2]], costs=[[-1, 1]], capacity=1), "at least 0"),
        (dict(values=[[1, np.nan]], costs=[[1, 1]], capacity=1), "values are not all finite"),
        (dict(values=[[1]], costs=[[1, 2]], capacity=1), "do not fit"),
        (dict(values=[[1], [2]], costs=[[1]], capacity=1), "do not fit"),
        (dict(values=[[1, 2]], costs=[[1, 3]], capacity=-1), "capacity=-1"),
        (dict(values=[[1, 2]] * 9, costs=[[1.0, 3]] * 9, capacity=9.5, resolution=2), "too coarse"),
    ],
)
def test_bad_input(arguments, said):
    if said is None:
        assert knapsack.choose(**arguments) == [0]
        return
    with pytest.raises(ValueError, match=said) as error:
        knapsack.choose(**arguments)
    assert "\n" not in str(error.value)
