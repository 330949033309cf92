"""N of every M, blocks, constant fan-in: against NumPy written group by group, and in methods."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

import dstjax
from dstjax import methods
from dstjax._engine.drop_and_grow import drop_and_grow_all
from dstjax.structures import block, fan_in, heads, n_m
from tests import oracles, trees
from tests import structure_oracles as plain
from tests.thorough import few, lighter

seeds = st.integers(0, 2**32 - 1)


# --- N of every M -----------------------------------------------------------------------------------------------------


@few(2)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 8), (4, 4)])
@settings(max_examples=lighter(4, 15))
@given(seed=seeds)
def test_n_m_is_the_best_of_every_group(n, m, ties, seed):
    rng = np.random.default_rng(seed)
    for shape in plain.SHAPES:
        s = plain.scores(rng, shape, ties)
        expected = plain.fill_groups(s, n, m, np.zeros(shape, bool), np.ones(shape, bool))
        np.testing.assert_array_equal(n_m(n, m).best([jnp.asarray(s)], [0])[0], expected)
        kept = expected & plain.flags(rng, shape)
        room = ~kept & plain.flags(rng, shape, 0.8)
        grown = n_m(n, m).grow([jnp.asarray(s)], [jnp.asarray(kept)], [jnp.asarray(room)], jnp.array([1]))[0]
        np.testing.assert_array_equal(grown, plain.fill_groups(s, n, m, kept, room))


def test_n_m_drops_single_weights_in_one_ranking():
    rng = np.random.default_rng(0)
    for _ in range(10):
        s = plain.scores(rng, (8, 5), False)
        mask = np.asarray(n_m(2, 4).best([jnp.asarray(plain.scores(rng, (8, 5), False))], [0])[0])
        kept, room = n_m(2, 4).drop([jnp.asarray(s)], [jnp.asarray(mask)], jnp.array([13]), list, jnp.array([20]))
        np.testing.assert_array_equal(kept[0], oracles.best(s, 13, mask))
        np.testing.assert_array_equal(room[0], ~np.asarray(kept[0]))


def test_n_m_thins_a_dense_leaf():
    """After a dense start at most n stay in a group, whatever number was to be kept."""
    s = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    everywhere = jnp.ones((8, 5), bool)
    kept, _ = n_m(2, 4).drop([jnp.asarray(s)], [everywhere], jnp.array([40]), list, jnp.array([20]))
    np.testing.assert_array_equal(kept[0], plain.fill_groups(s, 2, 4, np.zeros((8, 5), bool), np.ones((8, 5), bool)))


def test_examples_of_groups():
    def group(values):
        return n_m(2, 4).best([jnp.abs(jnp.array(values))[:, None]], [2])[0][:, 0].astype(int).tolist()

    assert group([0.4, -0.1, 0.3, 0.2]) == [1, 0, 1, 0]
    assert group([0.2, 0.2, 0.2, 0.2]) == [1, 1, 0, 0]  # the lower index
    assert group([np.nan, 0.1, np.nan, 0.2]) == [0, 1, 0, 1]
    assert group([np.nan, 0.1, np.nan, np.nan]) == [1, 1, 0, 0]


# --- Constant fan-in --------------------------------------------------------------------------------------------------

# Rows are neurons here, as the paper prints them.
SIZE = np.array([[0.9, 0.8, 0, 0], [0.1, 0, 0.2, 0], [0, 0.7, 0, 0.05]])
GRADIENT = np.array([[0.1, 0.1, 0.6, 0.2], [0.3, 0.1, 0.2, 0.1], [0.5, 0.1, 0.4, 0.1]])


@pytest.mark.parametrize("ablation", [0.3, 0.0])
def test_the_worked_example_of_constant_fan_in(ablation):
    """An ablation of 0 still switches off a neuron without any salient weight, as the structure says of itself."""
    leaf = trees.leaf_of(SIZE.T, GRADIENT.T, SIZE.T > 0, budget=3)
    update = drop_and_grow_all(
        [leaf],
        [jax.random.key(0)],
        drop=dstjax.criteria.magnitude,
        grow=dstjax.criteria.gradient,
        structure=fan_in(ablation),
        target=jnp.array([6]),
    )[0]
    assert update.mask.T.astype(int).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    assert update.kept.T.astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    expected = plain.fan_in_update(SIZE.T, GRADIENT.T, SIZE.T > 0, 3, 6, ablation)
    np.testing.assert_array_equal(update.mask, expected[1])


@few(2)
@pytest.mark.parametrize("shape", [(6, 5), (3, 1, 2, 7)])
@pytest.mark.parametrize("ablation", [0.0, 0.3, 0.9])
@settings(max_examples=lighter(4, 15))
@given(seed=seeds)
def test_constant_fan_in_updates(shape, ablation, seed):
    rng = np.random.default_rng(seed)
    neurons, inputs = shape[-1], int(np.prod(shape[:-1]))
    target = int(rng.integers(1, inputs + 1)) * neurons
    size, gradient = (np.abs(np.round(rng.standard_normal(shape), 1)).astype(np.float32) for _ in range(2))
    mask = np.asarray(fan_in().best([jnp.asarray(plain.scores(rng, shape, False))], [target])[0])
    moved = int(rng.integers(0, target))
    stays, new = fan_in_step(jnp.asarray(size), jnp.asarray(gradient), jnp.asarray(mask), moved, target, ablation)
    expected_stays, expected = plain.fan_in_update(size, gradient, mask, moved, target, ablation)
    np.testing.assert_array_equal(stays, expected_stays)
    np.testing.assert_array_equal(new, expected)
    plain.assert_one_fan_in(new, target)


@functools.partial(jax.jit, static_argnums=5)
def fan_in_step(size, gradient, mask, moved, target, ablation):
    structure = fan_in(ablation)
    keep, target = jnp.reshape(target - moved, 1), jnp.reshape(target, 1)
    kept, room = structure.drop([size], [mask], keep, lambda: [gradient], target)
    grown = structure.grow([gradient], kept, room, target - kept[0].sum(dtype=jnp.int32))[0]
    return kept[0], kept[0] | grown


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda: n_m(0, 4), "n=0 is not accepted"),
        (lambda: n_m(1.5, 4), "n=1.5 is not accepted"),
        (lambda: n_m(1, 1), "m=1 is not accepted"),
        (lambda: n_m(5, 4), "n=5 of m=4 is not accepted; expected n <= m"),
        (lambda: block(0, 4), "h=0 is not accepted"),
        (lambda: block(4, None), "w=None is not accepted"),
        (lambda: block(4, 4, balanced=1), "balanced=1 is not accepted"),
        (lambda: fan_in(1.0), r"ablation=1.0 is not accepted; expected a number in \[0, 1\)"),
        (lambda: fan_in(-0.1), "ablation=-0.1 is not accepted"),
        (
            lambda: methods.rigl(sparsity=0.5, end_step=200, structure="2:4"),
            "structure='2:4' is not accepted; expected",
        ),
        (lambda: methods.srigl(sparsity=0.5, end_step=200, structure=fan_in()), "is not accepted by 'srigl'"),
        (lambda: methods.srigl(sparsity=0.5, end_step=200, ablation=2), "ablation=2 is not accepted"),
        (lambda: methods.gmp(sparsity=0.5, end_step=200, structure=n_m(2, 4)), "not accepted by 'gmp'.*use one_shot"),
    ],
)
def test_arguments(make, pattern):
    with pytest.raises(ValueError, match=pattern):
        make()


@pytest.mark.parametrize(
    ("structure", "shape", "pattern"),
    [
        (
            n_m(2, 4),
            (6, 8),
            r"leaf 'w' of shape \(6, 8\), 'in out', has 6 inputs, which cannot be cut into groups of m=4; .*maskable=",
        ),
        (n_m(2, 4), (3, 3, 3, 8), r"leaf 'w' of shape \(3, 3, 3, 8\), 'window window in out', has 3 inputs"),
        (n_m(2, 4), (8,), r"leaf 'w' of shape \(8,\), 'out', has no inputs, which cannot be cut into groups"),
        (block(4, 4), (8, 6), r"shape \(8, 6\), 'in out', has 8 inputs and 6 outputs, which cannot be cut into blocks"),
        (
            block(16, 16),
            (8, 8),
            r"leaf 'w' of shape \(8, 8\), 'in out', has 8 .* be cut into blocks of 16 x 16: .*Expected multiples",
        ),
        (
            block(2, 2, balanced=True),
            (2, 8),
            r"leaf 'w' of shape \(2, 8\), 'in out', would have 8 active weights, fewer than the 16 of one block",
        ),
        (
            fan_in(),
            (2, 8),
            r"'w' of shape \(2, 8\), 'in out', would have 4 active weights for 8 neurons, a fan-in below one",
        ),
    ],
)
def test_leaves_that_do_not_fit(structure, shape, pattern):
    sparsity = 0.8 if structure == fan_in() else 0.5
    method = methods.static(
        sparsity=sparsity, distribution="uniform", structure=structure, maskable=lambda path, leaf: path == "w"
    )
    with pytest.raises(ValueError, match=pattern):
        dstjax.sparsify(optax.sgd(0.1), method).init({"w": jnp.ones(shape), "b": jnp.ones(shape[-1])})


@pytest.mark.parametrize(
    ("structure", "shape", "layout", "pattern"),
    [
        (n_m(2, 4), (8, 10), "out in", r"leaf 'w' of shape \(8, 10\), 'out in', has 10 inputs"),
        (n_m(2, 4), (3, 8, 10), "stack out in", r"leaf 'w' of shape \(3, 8, 10\), 'stack out in', has 10 inputs"),
        (block(4, 4), (8, 10), "out in", r"leaf 'w' of shape \(8, 10\), 'out in', has 10 inputs and 8 outputs"),
        (
            block(4, 4),
            (8, 4, 3),
            "in out out",
            r"\(8, 4, 3\), 'in out out', has 8 inputs and 4 x 3 outputs, .*maskable=",
        ),
        (
            block(4, 4, balanced=True),
            (4, 3, 8),
            "in in out",
            r"\(4, 3, 8\), 'in in out', has 4 x 3 inputs and 8 outputs",
        ),
        (
            block(2, 2, balanced=True),
            (8, 2),
            "out in",
            r"leaf 'w' of shape \(8, 2\), 'out in', would have 8 active weights, fewer than the 16 of one block",
        ),
        (
            fan_in(),
            (8, 1),
            "out in",
            r"leaf 'w' of shape \(8, 1\), 'out in', would have 4 active weights for 8 neurons",
        ),
        (
            heads(),
            (4, 4),
            "out in",
            r"heads\(\) is not accepted for leaf 'w' of shape \(4, 4\), 'out in', which has no",
        ),
    ],
)
def test_refusals_name_the_leaf_as_it_is_stored(structure, shape, layout, pattern):
    method = methods.static(sparsity=0.5, distribution="uniform", structure=structure)
    with pytest.raises(ValueError, match=pattern):
        dstjax.sparsify(optax.sgd(0.1), method, layout=layout).init({"w": jnp.ones(shape)})


@pytest.mark.parametrize(
    ("name", "extra", "shown"),
    [
        ("srigl", {}, "FanIn"),
        ("dpf", {"structure": fan_in()}, "FanIn"),
        ("dpf", {"structure": block(2, 2, balanced=True)}, "BalancedBlock"),
    ],
)
def test_a_common_ranking_has_no_place_of_its_own(name, extra, shown):
    with pytest.raises(ValueError, match=f"scope='global' is not accepted with structure={shown}"):
        methods.get(name, sparsity=0.5, update_period=2, end_step=9, scope="global", **extra)


def test_counts_are_those_that_the_structure_can_have():
    shapes, asked = {"w": (8, 6)}, {"w": 25}
    assert n_m(1, 4).counts(shapes, asked) == {"w": 12}  # whatever was asked for
    assert block(4, 2).counts(shapes, asked) == {"w": 24}
    assert block(4, 2).counts(shapes, {"w": 3}) == {"w": 8}  # one block at least
    assert fan_in().counts(shapes, asked) == {"w": 24}
    assert block(2, 3, balanced=True).counts(shapes, asked) == {"w": 24}
    assert block(1, 3, balanced=True).counts(shapes, {"w": jnp.int32(2)})["w"] == 6  # one block for each column
    assert block(4, 2).counts(shapes, {"w": jnp.int32(25)})["w"] == 24


def test_blocks_of_floats_of_one_byte():
    scores = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (8, 8)), "float8_e4m3fn")
    narrow, wide = (block(2, 2).best([s], [jnp.int32(16)], [None]) for s in (scores, scores.astype("float32")))
    np.testing.assert_array_equal(narrow[0], wide[0])
