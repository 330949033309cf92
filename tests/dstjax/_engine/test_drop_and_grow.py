"""One mask update of one leaf: the worked examples of the reference (D6, D10), edge cases, exact counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstjax import criteria
from dstjax._engine.drop_and_grow import drop_and_grow, drop_and_grow_all
from tests import oracles
from tests.thorough import examples
from tests.trees import CANONICAL, leaf_of

COUNTER = jnp.array([[3, 3, 0], [1, 2, 3]], jnp.uint8)


def update(leaf, drop="magnitude", grow=criteria.gradient):
    return drop_and_grow(leaf, drop=criteria.resolve("drop", drop), grow=grow)


def test_rigl_example():
    """D6: k = 2 keeps 0.5 and -0.8; (0, 2) with 0.9 and the just-dropped (0, 1) with 0.4 are grown."""
    new = update(leaf_of(*CANONICAL))
    np.testing.assert_array_equal(new.kept, [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(new.mask, [[1, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("coefficient", "signed", "mask", "scores"),
    [
        (0.1, False, [[1, 1, 1], [0, 0, 1]], [0.573, 1.591, 0.545, 0.280]),
        (0.2, False, [[1, 0, 1], [1, 0, 1]], [0.745, 2.282, 0.891, 0.511]),
        (0.2, True, [[1, 1, 0], [1, 0, 1]], [0.745, 0.482, 0.891, 0.411]),
    ],
)
def test_dst_ee_examples(coefficient, signed, mask, scores):
    """D10: t = 1000, epsilon = 1, N as above; candidates (0, 1), (0, 2), (1, 0), (1, 1)."""
    leaf = leaf_of(*CANONICAL, step=jnp.int32(1000), counter=COUNTER)
    grow = criteria.dst_ee(coefficient, 1.0, signed=signed)
    assert np.ravel(grow(leaf))[1:5].tolist() == pytest.approx(scores, abs=6e-4)
    np.testing.assert_array_equal(update(leaf, grow=grow).mask, mask)


def test_exact_rule_of_itops_example():
    """D7: |W| = [.5, .2, .2, .1, .4], k = 2: the exact rule keeps 0, 1 and 4, where a threshold drops both of .2."""
    w = np.array([0.5, -0.2, 0.2, 0.1, -0.4])
    np.testing.assert_array_equal(update(leaf_of(w, np.zeros(5), np.ones(5), 2)).kept, [1, 1, 0, 0, 1])


def test_mest_example():
    """D8: |W| of the active = [.9, .5, .3, .1] of ten: one is dropped, .1, and one of the seven others is grown."""
    w = np.array([0, 0.9, 0, -0.5, 0, 0, 0.3, 0, 0.1, 0])
    new = update(leaf_of(w, np.zeros(10), w != 0, 1), drop=criteria.mest(0.0), grow=criteria.random)
    np.testing.assert_array_equal(np.flatnonzero(new.kept), [1, 3, 6])
    assert int(new.mask.sum()) == 4


def test_no_inactive_weight_survives_a_drop():
    """Tiny active weights against exact zeros outside the mask (0.6, rule 1)."""
    w = np.array([1e-30, 0, 1e-38, 0, 2.0], np.float32)
    new = update(leaf_of(w, np.zeros(5), w != 0, 1))
    np.testing.assert_array_equal(new.kept, [1, 0, 0, 0, 1])


def test_equal_scores_keep_and_grow_the_lower_index():
    new = update(leaf_of(np.ones(6), np.ones(6), [0, 1, 1, 1, 0, 0], 2))
    np.testing.assert_array_equal(new.kept, [0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(new.mask, [1, 1, 1, 0, 0, 0])


def test_all_zero_gradients_keep_the_count():
    new = update(leaf_of([3.0, 1, 2, 0, 0], np.zeros(5), [1, 1, 1, 0, 0], 2))
    np.testing.assert_array_equal(new.mask, [1, 1, 1, 0, 0])


def test_one_weight_at_least_is_kept():
    new = update(leaf_of([1.0, 2, 3, 0, 0, 0], [1.0, 2, 3, 4, 5, 6], [1, 1, 1, 0, 0, 0], 3))
    np.testing.assert_array_equal(new.kept, [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(new.mask, [0, 0, 1, 0, 1, 1])


def test_a_dense_leaf_stays_dense():
    new = update(leaf_of([1.0, 2, 3], [1.0, 2, 3], [1, 1, 1], 2))
    np.testing.assert_array_equal(new.mask, [1, 1, 1])


@pytest.mark.parametrize("active", [0, 1])
def test_one_weight(active):
    new = update(leaf_of([1.0], [1.0], [active], 1))
    np.testing.assert_array_equal(new.mask, [active])


def test_nan_gradients_rank_last_and_the_count_is_exact():
    gradient = np.array([np.nan, np.nan, 0.5, np.nan, np.nan, np.inf])
    new = update(leaf_of([1.0, 2, 0, 0, 0, 0], gradient, [1, 1, 0, 0, 0, 0], 1))
    np.testing.assert_array_equal(new.mask, [0, 1, 0, 0, 0, 1])
    everywhere = update(leaf_of([1.0, 2, 0, 0], np.full(4, np.nan), [1, 1, 0, 0], 1), drop="mest")
    assert int(everywhere.mask.sum()) == 2


def test_nan_weights_are_dropped_first():
    new = update(leaf_of([1.0, np.nan, 0.1, 0], [0.0, 0, 0, 1], [1, 1, 1, 0], 1))
    np.testing.assert_array_equal(new.mask, [1, 0, 1, 1])


def test_a_rule_of_the_users_own():
    """Three lines: grow next to what is active, in the same row."""

    def row_neighbours(leaf):
        return leaf.mask.sum(axis=-1, keepdims=True) + jnp.zeros_like(leaf.weight)

    new = update(leaf_of(*CANONICAL[:2], [[1, 1, 0], [0, 0, 1]], 1), grow=row_neighbours)
    np.testing.assert_array_equal(new.mask, [[1, 1, 0], [0, 0, 1]])  # rows with one each: the lower index


def test_a_criterion_must_score_every_weight():
    def my_rule(leaf):
        return jnp.sum(leaf.gradient)

    with pytest.raises(ValueError, match=r"my_rule returned float32\[\] for a leaf of shape \(2, 3\); expected real"):
        update(leaf_of(*CANONICAL), grow=my_rule)


def test_dst_ee_without_counters_says_so():
    with pytest.raises(ValueError, match="needs counters"):
        update(leaf_of(*CANONICAL), grow=criteria.dst_ee())


SHAPES = [(1,), (7,), (3, 5), (2, 3, 4)]


@settings(max_examples=examples(150))
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(0, 30))
def test_counts_are_exact_and_the_invariants_hold(shape, seed, density, budget):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    w = rng.integers(-3, 4, shape).astype(np.float32) * mask
    g = rng.integers(-3, 4, shape).astype(np.float32)
    new = update(leaf_of(w, g, mask, budget))
    active = int(mask.sum())
    k = min(budget, max(active - 1, 0))
    assert int(new.mask.sum()) == active
    np.testing.assert_array_equal(new.kept, oracles.best(np.abs(w), active - k, mask))
    grown = oracles.best(np.abs(g), k, ~np.asarray(new.kept))
    np.testing.assert_array_equal(new.mask, new.kept | grown)


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_global_scope_ranks_over_leaves_and_empties_none(seed, density, share):
    rng = np.random.default_rng(seed)
    shapes = [(7,), (3, 5), (2, 3, 4)]
    masks = [rng.random(s) < density for s in shapes]
    weights = [rng.integers(-3, 4, s).astype(np.float32) * m for s, m in zip(shapes, masks, strict=True)]
    leaves = [
        leaf_of(w, rng.standard_normal(w.shape), m, int(share * m.sum())) for w, m in zip(weights, masks, strict=True)
    ]
    keys = list(jax.random.split(jax.random.key(0), 3))
    new = drop_and_grow_all(leaves, keys, drop=criteria.magnitude, grow=criteria.gradient, scope="global")
    active = [int(m.sum()) for m in masks]
    moving = [min(int(share * a), max(a - 1, 0)) for a in active]
    assert [int(u.mask.sum()) for u in new] == active  # each leaf grows as many as it lost
    first = [oracles.best(np.abs(w), 1, m) for w, m in zip(weights, masks, strict=True)]
    left = sum(active) - sum(moving) - sum(min(a, 1) for a in active)
    rest = oracles.best_together(
        [np.abs(w) for w in weights], left, [m & ~f for m, f in zip(masks, first, strict=True)]
    )
    for u, f, r in zip(new, first, rest, strict=True):
        np.testing.assert_array_equal(u.kept, f | r)
