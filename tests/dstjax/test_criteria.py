"""Scores of one leaf: the worked examples of the reference (0.9, E3, E4), half precision, statistics of random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dstjax
from dstjax import criteria
from dstjax._engine.drop_and_grow import drop_and_grow, drop_and_grow_all
from dstjax.rules import Leaf
from tests import oracles
from tests.thorough import examples, few
from tests.trees import CANONICAL, leaf_of


def dropped(drop, leaf):
    """Row-major indices that the drop takes; the growth ranks them last, so none of it matters here."""
    kept = drop_and_grow(leaf, drop=drop, grow=criteria.gradient).kept
    return set(np.flatnonzero(np.asarray(leaf.mask & ~kept)))


E4 = ([0.5, -0.1, 0.2, -0.4, 0.05, 0], [0.1, 0.5, -0.02, 0.3, 0.01, 0.9], [1, 1, 1, 1, 1, 0], 2)


@few(2)
@pytest.mark.parametrize(
    ("example", "name", "expected"),
    [
        (E4, "magnitude", {4, 1}),
        (E4, "mest", {4, 2}),
        (E4, "sensitivity", {2, 4}),
        (E4, "rsensitivity", {1, 3}),
        (E4, "snip", {4, 2}),
        (CANONICAL, "magnitude", {1, 4}),
        (CANONICAL, "mest", {1, 4}),
        (CANONICAL, "snip", {1, 4}),
        (CANONICAL, "sensitivity", {4, 0}),
        (CANONICAL, "rsensitivity", {1, 5}),
        # The reference has no numbers for these three (E2). By hand, E4: w * g = .05, -.05, -.004, -.12, .0005.
        (E4, "snip_signed", {0, 4}),
        (E4, "taylor", {4, 2}),
        (E4, "gradient_step", {4, 2}),  # abs(w - g) = .4, .6, .22, .7, .04
        (CANONICAL, "snip_signed", {0, 4}),  # w * g = .05, -.04, -.015, -.24
        (CANONICAL, "taylor", {1, 4}),
        (CANONICAL, "gradient_step", {0, 4}),  # abs(w - g) = .4, .5, .35, 1.1
    ],
)
def test_reference_examples(example, name, expected):
    assert dropped(criteria.resolve("drop", name), leaf_of(*example)) == expected


@pytest.mark.parametrize(
    ("budget", "kept"), [(2, [1, 1, 1, 0, 0, 1, 1, 1]), (4, [1, 1, 0, 0, 0, 0, 1, 1]), (1, [1, 1, 1, 0, 1, 1, 1, 1])]
)
def test_set_drops_both_signs_alike(budget, kept):
    """E3: "equal amount" takes k of each sign; an odd number takes one positive weight more."""
    w = np.array([0.9, 0.5, 0.2, 0.1, -0.1, -0.2, -0.5, -0.9])
    assert dropped(criteria.set_signs, leaf_of(w, w, np.ones(8), budget)) == set(np.flatnonzero(np.array(kept) == 0))


def test_sets_own_example_with_equal_numbers():
    """D1's weights at zeta = 0.3 of nine: two are dropped, one of each sign (SET itself takes a share of each sign)."""
    w = np.array([-0.9, -0.6, -0.3, -0.1, 0, 0, 0, 0.2, 0.4, 0.5, 0.7, 0.8])
    assert dropped(criteria.set_signs, leaf_of(w, w, w != 0, 2)) == {3, 7}


@few(2)
@pytest.mark.parametrize(
    ("w", "budget", "expected"),
    [
        ([0.5, 0.4, 0.3, 0.2, 0.1], 4, {1, 2, 3, 4}),  # one sign alone
        ([-0.5, -0.4, -0.3, -0.2], 2, {2, 3}),
        ([0.1, 0.0, -0.2, 0.3, 0.0], 2, {1, 4}),  # zeros, active ones, have no sign and go first
        ([0.1, 0.0, -0.2, 0.3, 0.0], 3, {0, 1, 4}),
        ([0.1, 0.0, -0.2, 0.3, 0.0], 1, {4}),  # of two zeros the lower index is kept
        ([0.1, -0.2, 0.3, 0.4], 3, {0, 1, 2}),  # the negatives run out
        ([0.2, 0.2, 0.2, -0.2, -0.2, -0.2], 2, {2, 5}),  # ties within a sign
    ],
)
def test_set_where_a_sign_is_short(w, budget, expected):
    w = np.array(w)
    assert dropped(criteria.set_signs, leaf_of(w, w, np.ones(len(w)), budget)) == expected


@settings(max_examples=examples(100))
@given(st.data())
def test_set_against_the_transcript(data):
    values = st.sampled_from([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3])
    w = np.array(data.draw(st.lists(values, min_size=12, max_size=12)), np.float32).reshape(3, 4)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(3, 4)
    budget = data.draw(st.integers(0, max(int(mask.sum()) - 1, 0)))
    update = drop_and_grow(leaf_of(w * mask, w, mask, budget), drop=criteria.set_signs, grow=criteria.gradient)
    np.testing.assert_array_equal(update.kept, oracles.keep_after_set(w * mask, mask, budget))


def test_sets_own_example_with_fractions():
    """D1 at zeta = 0.3 of nine: the number dropped is exact here, floor(2.7), of which 2 * 5 / 9 are positive.

    SET's code keeps 2 of 4 negatives and 3 of 5 positives, since it rounds within each sign.
    """
    w = np.array([-0.9, -0.6, -0.3, -0.1, 0, 0, 0, 0.2, 0.4, 0.5, 0.7, 0.8])
    assert dropped(criteria.set_fraction, leaf_of(w, w, w != 0, 2)) == {3, 7}
    assert dropped(criteria.set_fraction, leaf_of(w, w, w != 0, 4)) == {2, 3, 7, 8}


@pytest.mark.parametrize("name", ["mest", "sensitivity", "rsensitivity", "snip"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_scores_of_half_precision_weights_are_taken_in_single_precision(name, dtype):
    """256 weights times 256 gradients make 65,536 products, which bfloat16 would round to a few hundred values."""
    w, g = np.meshgrid(np.linspace(1, 2, 256), np.linspace(1, 2, 256))
    w, g = jnp.asarray(w, dtype), jnp.asarray(g, dtype)
    score = criteria.resolve("drop", name)(leaf_of(w, g, np.ones(w.shape), 1))
    assert score.dtype == jnp.float32
    expected = oracles.drop_score(name, np.asarray(w, np.float64), np.asarray(g, np.float64))
    np.testing.assert_allclose(score, expected, rtol=1e-6)


@settings(max_examples=examples(50))
@given(st.lists(st.tuples(st.floats(-2, 2, width=16), st.floats(-2, 2, width=16)), min_size=8, max_size=8))
def test_scores_that_were_added_later(pairs):
    """Against their formulas, in float64."""
    w, g = np.array(pairs).T
    with jax.enable_x64(True):
        leaf = leaf_of(w, g, np.ones(len(w)), 1)
        np.testing.assert_array_equal(criteria.snip_signed(leaf), -w * g)
        np.testing.assert_array_equal(criteria.taylor(leaf), (w * g) ** 2)
        np.testing.assert_array_equal(criteria.gradient_step(0.5)(leaf), np.abs(w - 0.5 * g))
        np.testing.assert_array_equal(criteria.momentum(leaf._replace(memory=jnp.asarray(g))), np.abs(g))


def test_taylor_is_snips_order():
    w, g = np.random.default_rng(0).standard_normal((2, 6, 5))
    for budget in (1, 9, 20):
        leaf = leaf_of(w, g, np.ones((6, 5)), budget)
        assert dropped(criteria.taylor, leaf) == dropped(criteria.snip, leaf)
        assert dropped(criteria.snip_signed, leaf) != dropped(criteria.snip, leaf)


def test_a_virtual_step_of_length_zero_is_magnitude():
    w, g = np.random.default_rng(0).standard_normal((2, 6, 5))
    leaf = leaf_of(w, g, np.ones((6, 5)), 7)
    assert dropped(criteria.gradient_step(0.0), leaf) == dropped(criteria.magnitude, leaf)
    with pytest.raises(ValueError, match="gamma=-1 is not accepted"):
        criteria.gradient_step(-1)


def test_momentum_needs_a_method_that_keeps_one():
    with pytest.raises(
        ValueError,
        match="'momentum' needs an average of the gradients; the methods 'balanced_momentum' and 'snfs' keep one",
    ):
        criteria.momentum(leaf_of(*CANONICAL))
    tx = dstjax.sparsify(
        optax.sgd(0.1), dstjax.methods.rigl(sparsity=0.5, update_period=1, end_step=5, grow="momentum")
    )
    params = {"w": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match="the methods 'balanced_momentum' and 'snfs' keep one"):
        tx.update(params, tx.init(params), params)


# D15 and D16: of the inactive ones (0, 1) has 1 active neighbour, (0, 2) 0, (1, 0) 2, (1, 1) 3, (1, 2) 2, (2, 0) 1.
SURROUNDED = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]])


def grown(grow, budget, mask=SURROUNDED, seed=0, shape=None):
    shape = np.shape(mask) if shape is None else shape
    leaf = leaf_of(np.zeros(shape), np.zeros(shape), np.reshape(mask, shape), 0, key=jax.random.key(seed))
    keep = jnp.array([int(np.sum(mask))])
    (update,) = drop_and_grow_all(
        [leaf], [leaf.key], drop=criteria.magnitude, grow=grow, n_kept=keep, n_grown=lambda kept: jnp.array([budget])
    )
    return set(np.flatnonzero(np.asarray(update.mask & ~leaf.mask)))


def test_the_example_of_most_neighbours():
    """D16: k = 2 takes (1, 1), then one of (1, 0) and (1, 2), of equal count, at random; the study takes the first."""
    found = {frozenset(grown(criteria.most_neighbours, 2, seed=s)) for s in range(12)}
    assert found == {frozenset({4, 3}), frozenset({4, 5})}
    assert grown(criteria.most_neighbours, 1) == {4}
    assert grown(criteria.most_neighbours, 5) == {1, 3, 4, 5, 6}
    assert grown(criteria.most_neighbours, 6) == {1, 2, 3, 4, 5, 6}


def test_the_example_of_one_neighbour():
    """D15: every inactive one but (0, 2) may be grown, each as likely as the others; it too where these run out."""
    found = [grown(criteria.one_neighbour, 1, seed=s) for s in range(60)]
    assert set().union(*found) == {1, 3, 4, 5, 6}
    assert grown(criteria.one_neighbour, 5) == {1, 3, 4, 5, 6}
    assert grown(criteria.one_neighbour, 6) == {1, 2, 3, 4, 5, 6}


def test_neighbours_do_not_wrap_around_and_kernels_count_as_matrices():
    corner = np.zeros((4, 4), int)
    corner[0, 0] = 1
    assert grown(criteria.one_neighbour, 3, corner) == {1, 4, 5}
    assert grown(criteria.one_neighbour, 3, corner, shape=(2, 1, 2, 4)) == {1, 4, 5}
    assert grown(criteria.one_neighbour, 2, np.array([0, 1, 0, 0])) == {0, 2}  # a vector
    full = np.ones((3, 3), int)
    full[1, 1] = full[0, 0] = 0
    assert grown(criteria.most_neighbours, 1, full) == {4}  # seven against two


def test_dst_ee_score_in_half_precision():
    leaf = leaf_of(
        jnp.zeros((2, 2), jnp.bfloat16), [[1, 0.5], [0, 0]], np.zeros((2, 2)), 1, step=jnp.int32(1000),
        counter=jnp.array([[3, 3], [0, 1]], jnp.uint8),
    )  # fmt: skip
    score = criteria.dst_ee(0.2)(leaf)
    assert score.dtype == jnp.float32
    np.testing.assert_allclose(
        score, oracles.dst_ee_score(np.array([[1, 0.5], [0, 0]]), np.asarray(leaf.counter), 1000, 0.2), rtol=1e-6
    )


def test_dst_ee_has_no_bonus_at_the_first_step():
    leaf = leaf_of(jnp.zeros(3), [-1.0, 2.0, 0.0], np.zeros(3), 1, counter=jnp.zeros(3, jnp.uint8))
    assert criteria.dst_ee(5.0)(leaf).tolist() == [1.0, 2.0, 0.0]  # ln 1 = 0


def test_random_scores_are_uniform():
    """Each of 60 inactive weights is grown equally often: chi-square of 6,000 draws within its 99.99 % range."""
    mask = np.arange(90).reshape(9, 10) < 30
    one = leaf_of(jnp.zeros((9, 10)), jnp.zeros((9, 10)), mask, 10)

    def grown(key):
        update = drop_and_grow(one._replace(key=key), drop=lambda leaf: leaf.mask * 1.0, grow=criteria.random)
        return update.mask & ~update.kept

    counts = np.asarray(jax.vmap(grown)(jax.random.split(jax.random.key(1), 600)).sum(0)).ravel()
    # The ten dropped ones (of equal scores, indices 20 to 29) may be grown again.
    assert counts[:20].sum() == 0
    expected = 600 * 10 / 70
    statistic = float(((counts[20:] - expected) ** 2 / expected).sum())
    assert counts.sum() == 6000
    assert 30 < statistic < 125


def test_who_needs_counters():
    reads = {name for name in criteria.GROW if criteria.reads_counter(criteria.resolve("grow", name))}
    assert reads == {"dst_ee"}
    assert criteria.reads_counter(lambda leaf: leaf.counter)
    assert not any(criteria.reads_counter(criteria.resolve("drop", name)) for name in criteria.DROP)
    assert not criteria.reads_counter(criteria.mest(2.0))


@few(2)
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
@pytest.mark.parametrize("role", ["drop", "grow"])
def test_narrow_floats_are_scored_as_wide_ones(role, dtype):
    """JAX promotes no float of one byte."""
    table = criteria.DROP if role == "drop" else criteria.GROW
    for name in table:
        if name == "momentum":  # reads what snfs remembers
            continue
        leaf = leaf_of(*CANONICAL, counter=jnp.asarray(CANONICAL[2], jnp.uint8))
        narrow = leaf._replace(weight=leaf.weight.astype(dtype), gradient=leaf.gradient.astype(dtype))
        wide = narrow._replace(weight=narrow.weight.astype("float32"), gradient=narrow.gradient.astype("float32"))
        score = criteria.resolve(role, name)
        np.testing.assert_allclose(score(narrow).astype("float32"), score(wide).astype("float32"), rtol=1e-6)


UNITS = {
    "dst_ee of the gradient": lambda: criteria.dst_ee(scale="gradient"),
    "dst_ee of balanced": lambda: criteria.dst_ee(of="balanced"),
    "alive first": lambda: criteria.alive_first(criteria.balanced),
}


@pytest.mark.parametrize("name", [*criteria.DROP, *criteria.GROW, *UNITS])
def test_scores_do_not_depend_on_how_many_axes_a_window_has(name):
    """Of a kernel of (window..., in, out): those of the matrix with all of its rows, bit for bit."""
    criterion = ({**criteria.DROP, **criteria.GROW} | UNITS)[name]()
    w, g, m = np.random.default_rng(7).normal(size=(3, 48, 5)).astype(np.float32)
    given = {"counter": np.arange(240, dtype=np.uint8), "memory": m}

    def scores(shape):
        others = {n: jnp.asarray(x.reshape(shape)) for n, x in given.items()}
        leaf = leaf_of(w.reshape(shape), g.reshape(shape), (w > -1).reshape(shape), 20, **others)
        together = getattr(criterion, "of_all", None)
        return np.asarray(criterion(leaf) if together is None else together([leaf])[0])

    expected = scores((48, 5))
    assert np.isfinite(expected).all()
    assert len(np.unique(expected)) > 2
    for shape in ((4, 12, 5), (2, 2, 12, 5), (2, 2, 2, 6, 5), (2, 2, 2, 2, 3, 5)):
        np.testing.assert_array_equal(scores(shape).reshape(48, 5), expected, str(shape))


def test_a_share_of_negative_scores_comes_before_what_was_not_drawn():
    """Growth by a signed score, all of whose numbers are far below zero."""
    scores = -100.0 - jnp.arange(64.0).reshape(8, 8)
    mask = jnp.zeros((8, 8), bool).at[0, 0].set(True)
    leaf = Leaf(scores, scores, mask, None, jnp.int32(1), jax.random.key(3), jnp.int32(1))
    found = criteria.among(0.5, lambda leaf: leaf.weight)(leaf)
    drawn = np.asarray(found) > -1e6
    assert 16 < drawn.sum() < 48
    assert np.asarray(found)[drawn].min() > np.asarray(found)[~drawn].max()
