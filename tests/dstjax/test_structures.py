"""N of every M, blocks, constant fan-in: against NumPy written group by group, and in methods."""

import functools
import itertools

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
from dstjax.structures import block, fan_in, n_m
from tests import oracles, trees
from tests import structure_oracles as plain
from tests.stepping import compiled
from tests.thorough import lighter, slow

SHAPES = [(8, 5), (2, 3, 8, 4)]
# Scores with many ties, infinities and NaN.
VALUES = [0.0, -0.0, 1.0, 1.0, 2.0, -3.0, np.inf, -np.inf, np.nan]
seeds = st.integers(0, 2**32 - 1)


def scores(rng, shape, ties):
    return np.asarray(rng.choice(VALUES, shape) if ties else rng.standard_normal(shape), np.float32)


def flags(rng, shape, density=0.5):
    return rng.random(shape) < density


# --- N of every M -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 8), (4, 4)])
@settings(max_examples=lighter(4, 15))
@given(seed=seeds)
def test_n_m_is_the_best_of_every_group(n, m, ties, seed):
    rng = np.random.default_rng(seed)
    for shape in SHAPES:
        s = scores(rng, shape, ties)
        expected = plain.fill_groups(s, n, m, np.zeros(shape, bool), np.ones(shape, bool))
        np.testing.assert_array_equal(n_m(n, m).best([jnp.asarray(s)], [0])[0], expected)
        kept = expected & flags(rng, shape)
        room = ~kept & flags(rng, shape, 0.8)
        grown = n_m(n, m).grow([jnp.asarray(s)], [jnp.asarray(kept)], [jnp.asarray(room)], jnp.array([1]))[0]
        np.testing.assert_array_equal(grown, plain.fill_groups(s, n, m, kept, room))


def test_n_m_drops_single_weights_in_one_ranking():
    rng = np.random.default_rng(0)
    for _ in range(10):
        s = scores(rng, (8, 5), False)
        mask = np.asarray(n_m(2, 4).best([jnp.asarray(scores(rng, (8, 5), False))], [0])[0])
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


# --- Blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 1), (2, 2), (8, 4)])
@settings(max_examples=lighter(4, 15))
@given(seed=seeds)
def test_best_blocks(h, w, seed):
    rng = np.random.default_rng(seed)
    for shape in [(8, 12), (2, 3, 8, 4)]:
        s = rng.integers(-3, 4, shape).astype(np.float32)  # sums are exact, and often equal
        s[rng.random(shape) < 0.02] = np.nan
        total = int(np.prod(shape)) // (h * w)
        k = int(rng.integers(0, total + 1))
        mask = block(h, w).best([jnp.asarray(s)], [k * h * w])[0]
        np.testing.assert_array_equal(mask, plain.best_blocks(s, h, w, k))


def test_a_block_update_by_hand():
    """A 2 x 1 block counts by its sum: the larger single weight may go."""
    w = jnp.array([[0.9, 0.5], [0.0, 0.5], [0.1, 0.0], [0.1, 0.0]])
    mask = jnp.array([[1, 1], [1, 1], [1, 0], [1, 0]], bool)
    g = jnp.array([[0.0, 0.0], [0.0, 0.3], [0.0, 0.2], [0.1, 0.2]])
    leaf = trees.leaf_of(w, g, mask, budget=4)
    update = drop_and_grow_all(
        [leaf],
        [jax.random.key(0)],
        drop=dstjax.criteria.magnitude,
        grow=dstjax.criteria.gradient,
        structure=block(2, 1),
    )[0]
    assert update.kept.astype(int).tolist() == [[0, 1], [0, 1], [0, 0], [0, 0]]  # sums 0.9, 1.0, 0.2
    assert update.mask.astype(int).tolist() == [[0, 1], [0, 1], [1, 1], [1, 1]]  # sums 0, 0.1, 0.4


def test_integer_scores_of_blocks_do_not_wrap_around():
    s = np.zeros((4, 2), np.uint32)
    s[:2, 0] = 2**31  # the sum is 2**32
    s[2:, 1] = 5
    assert block(2, 1).best([jnp.asarray(s)], [2])[0].astype(int).tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


# --- Equally many blocks in each column -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 12), (2, 3, 8, 4)])
@pytest.mark.parametrize("returns", [True, False])
@settings(max_examples=lighter(4, 15))
@given(seed=seeds)
def test_updates_of_balanced_blocks(shape, returns, seed):
    """Scores are whole numbers, so that sums are exact and often equal."""
    h, w = 2, 4
    rng = np.random.default_rng(seed)
    row = h * shape[-1]
    rows = int(np.prod(shape)) // row
    each = int(rng.integers(1, rows + 1))
    size, gradient = (rng.integers(0, 5, shape).astype(np.float32) for _ in range(2))
    mask = plain.balanced_best(rng.integers(0, 9, shape).astype(np.float32), h, w, each)
    keep = int(rng.integers(1, each * row))
    stays, new = balanced_step(jnp.asarray(size), jnp.asarray(gradient), jnp.asarray(mask), keep, returns)
    expected_stays, expected = plain.balanced_update(size, gradient, mask, h, w, keep, each * row, returns)
    np.testing.assert_array_equal(stays, expected_stays)
    np.testing.assert_array_equal(new, expected)
    assert blocks_of_columns(new, h, w) == {each}


@functools.partial(jax.jit, static_argnums=4)
def balanced_step(size, gradient, mask, keep, returns):
    leaf = trees.leaf_of(size, gradient, mask, budget=0)
    update = drop_and_grow_all(
        [leaf],
        [jax.random.key(0)],
        drop=lambda leaf: leaf.weight,
        grow=lambda leaf: leaf.gradient,
        n_kept=jnp.reshape(keep, 1),
        structure=block(2, 4, balanced=True),
        regrow_dropped=returns,
    )[0]
    return update.kept, update.mask


def blocks_of_columns(mask, h, w):
    """How many active blocks the columns have; all blocks are whole."""
    columns = plain.columns_of(mask.shape, h, w)
    found = [[int(np.asarray(mask)[b].sum()) for b in column] for column in columns]
    assert {n for column in found for n in column} <= {0, h * w}
    return {sum(column) // (h * w) for column in found}


def test_given_masks_must_be_balanced():
    """As many blocks in another arrangement are refused; the others are taken."""
    good = plain.balanced_best(np.random.default_rng(0).standard_normal((16, 8)), 2, 4, 2)
    bad = good.copy()
    bad[:, :4], bad[:, 4:] = False, False
    bad[:6, :4], bad[:2, 4:] = True, True
    assert bad.sum() == good.sum()
    structure = block(2, 4, balanced=True)
    assert [bool(x) for x in structure.holds([jnp.asarray(good), jnp.asarray(bad)])] == [True, False]
    method = methods.rigl(sparsity=0.75, distribution="uniform", end_step=200, structure=structure)
    for mask in (good, bad):
        tx = dstjax.sparsify(optax.sgd(0.1), method, layout="in out", initial_masks={"w": jnp.asarray(mask)})
        if mask is good:
            np.testing.assert_array_equal(dstjax.get_masks(tx.init({"w": jnp.ones((16, 8))}))["w"], good)
        else:
            with pytest.raises(ValueError, match="structure=BalancedBlock"):
                tx.init({"w": jnp.ones((16, 8))})


STORED = {  # of one layer of 16 inputs and 8 outputs, or a window of 2 with 8: how a leaf holds it
    "in out": lambda m: m,
    "out in": lambda m: m.T,
    "window in out": lambda m: m.reshape(2, 8, 8),
    "out in window": lambda m: m.reshape(2, 8, 8).transpose(2, 1, 0),
    "in out out": lambda m: m.reshape(16, 2, 4),
    "stack out in": lambda m: np.stack([m, m[::-1]]).transpose(0, 2, 1),
}


@pytest.mark.parametrize("layout", ["in out", "stack out in", *map(slow, [*STORED][1:5])])
def test_columns_stay_equal_for_twenty_updates(layout):
    """Masks move, and every column of every layer keeps its number, from the first mask on."""
    stored = STORED[layout](np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32))
    method = methods.rigl(
        sparsity=0.7,
        distribution="uniform",
        drop_fraction=0.5,
        drop_schedule="constant",
        update_period=1,
        end_step=21,
        structure=block(2, 4, balanced=True),
    )
    tx = dstjax.sparsify(optax.sgd(0.1), method, layout=layout)
    params, state = dstjax.start(tx, {"w": jnp.asarray(stored)})
    step = jax.jit(tx.update)
    seen = []
    for t in range(21):
        mask = np.asarray(dstjax.get_masks(state)["w"])
        for layer in layers_of(mask, layout):
            assert blocks_of_columns(layer, 2, 4) == {2}
        seen.append(mask)
        grads = {"w": jnp.asarray(np.random.default_rng(t).standard_normal(stored.shape), jnp.float32)}
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert sum((a != b).any() for a, b in itertools.pairwise(seen)) >= 15


def layers_of(mask, layout):
    """The layers of a mask as (window..., in, out)."""
    words = layout.split()
    turned = mask.transpose(np.argsort([["stack", "window", "in", "out"].index(w) for w in words], kind="stable"))
    if "stack" in words:
        return list(turned)
    return [turned.reshape(16, 8) if words.count("out") == 2 else turned]


def test_pruning_takes_equally_many_blocks_from_each_column():
    method = methods.gmp(sparsity=0.75, update_period=1, end_step=6, structure=block(2, 2, balanced=True))
    tx = dstjax.sparsify(optax.sgd(0.1), method, layout="in out")
    params, state = dstjax.start(tx, {"w": jnp.asarray(np.random.default_rng(0).standard_normal((16, 8)), jnp.float32)})
    step = jax.jit(tx.update)
    found = []
    for _ in range(7):
        (each,) = blocks_of_columns(np.asarray(dstjax.get_masks(state)["w"]), 2, 2)
        found.append(each)
        updates, state = step(params, state, params)
        params = optax.apply_updates(params, updates)
    assert found[0] == 8
    assert found[-1] == 2
    assert found == sorted(found, reverse=True)
    assert len({*found}) > 3


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


@pytest.mark.parametrize("shape", [(6, 5), (3, 1, 2, 7)])
@pytest.mark.parametrize("ablation", [0.0, 0.3, 0.9])
@settings(max_examples=lighter(4, 15))
@given(seed=seeds)
def test_constant_fan_in_updates(shape, ablation, seed):
    rng = np.random.default_rng(seed)
    neurons, inputs = shape[-1], int(np.prod(shape[:-1]))
    target = int(rng.integers(1, inputs + 1)) * neurons
    size, gradient = (np.abs(np.round(rng.standard_normal(shape), 1)).astype(np.float32) for _ in range(2))
    mask = np.asarray(fan_in().best([jnp.asarray(scores(rng, shape, False))], [target])[0])
    moved = int(rng.integers(0, target))
    stays, new = fan_in_step(jnp.asarray(size), jnp.asarray(gradient), jnp.asarray(mask), moved, target, ablation)
    expected_stays, expected = plain.fan_in_update(size, gradient, mask, moved, target, ablation)
    np.testing.assert_array_equal(stays, expected_stays)
    np.testing.assert_array_equal(new, expected)
    assert_one_fan_in(new, target)


@functools.partial(jax.jit, static_argnums=5)
def fan_in_step(size, gradient, mask, moved, target, ablation):
    structure = fan_in(ablation)
    keep, target = jnp.reshape(target - moved, 1), jnp.reshape(target, 1)
    kept, room = structure.drop([size], [mask], keep, lambda: [gradient], target)
    grown = structure.grow([gradient], kept, room, target - kept[0].sum(dtype=jnp.int32))[0]
    return kept[0], kept[0] | grown


def assert_one_fan_in(mask, target):
    """Every neuron has the same number of inputs or none, as many as the budget gives that many neurons."""
    columns = np.asarray(mask).reshape(-1, mask.shape[-1]).sum(0)
    alive = columns[columns > 0]
    assert len(alive) > 0
    assert {*alive.tolist()} == {target // len(alive)}


# --- In methods -------------------------------------------------------------------------------------------------------

MOVING = dict(sparsity=0.5, distribution="uniform", drop_fraction=0.4, drop_schedule="constant", end_step=14)
IN_METHODS = {
    "rigl": dict(update_period=2),
    "set": dict(update_period=2),
    "dst_ee": dict(update_period=2, coefficient=0.1),
    "iee": dict(update_period=4),
}


def params_of(dtype=np.float32):
    rng = np.random.default_rng(0)
    draw = lambda *s: np.asarray(rng.standard_normal(s), dtype)  # noqa: E731
    return {"conv": {"bias": draw(4), "kernel": draw(2, 3, 8, 4)}, "dense": draw(8, 12)}


@functools.cache
def runner(name, structure):
    """The transformation and its jitted step, compiled once for all examples."""
    method = methods.get(name, **{**MOVING, **IN_METHODS[name]}, structure=structure)
    tx = dstjax.sparsify(optax.sgd(0.2, momentum=0.5), method, seed=3)

    @jax.jit
    def step(params, state, noise):
        grads = jax.tree.map(jnp.add, dstjax.forward_params(params, state), noise)
        updates, state = compiled(tx).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return method, tx, step


def masks_of_a_run(name, structure, seed, steps=13):
    """The masks at the start and after every mask update; noise has ties and, in places, NaN."""
    method, tx, step = runner(name, structure)
    params = jax.tree.map(jnp.asarray, params_of())
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    rng = np.random.default_rng(seed)
    yield trees.names(dstjax.get_masks(state)), np.asarray(state.targets)
    for t in range(1, steps + 1):
        noise = jax.tree.map(lambda w: np.round(rng.standard_normal(w.shape), 1).astype(np.float32), params_of())
        if t == steps - 3:
            noise["dense"][rng.random((8, 12)) < 0.05] = np.nan
        params, state = step(params, state, noise)
        dstjax.check_sparse(jax.tree.map(jnp.nan_to_num, params), state)
        if method.is_update_step(t):
            yield trees.names(dstjax.get_masks(state)), np.asarray(state.targets)


def assert_changed(history):
    assert any((a != b).any() for a, b in zip(history[0].values(), history[-1].values(), strict=True))


@pytest.mark.parametrize("name", IN_METHODS)
@settings(max_examples=lighter(2, 5))
@given(seed=seeds)
def test_exactly_n_in_every_group_after_every_update(name, seed):
    """Of IEE after the updates that grow; between them a group may lack what was pruned."""
    history = []
    for i, (masks, targets) in enumerate(masks_of_a_run(name, n_m(2, 4), seed)):
        assert targets.tolist() == [m.size // 2 for m in masks.values()]
        for mask in masks.values():
            found = {int(np.asarray(mask)[at].sum()) for at in plain.groups_of(mask.shape, 4)}
            assert found == {2} if name != "iee" or i % 2 == 0 else found <= {0, 1, 2}
        history.append(masks)
    assert len(history) == 7
    assert_changed(history)


@pytest.mark.parametrize("name", ["rigl", "iee"])
@settings(max_examples=lighter(2, 3))
@given(seed=seeds)
def test_whole_blocks_after_every_update(name, seed):
    history = []
    for i, (masks, targets) in enumerate(masks_of_a_run(name, block(4, 2), seed)):
        for mask, target in zip(masks.values(), targets, strict=True):
            blocks = [int(np.asarray(mask)[at].sum()) for at in plain.blocks_of(mask.shape, 4, 2)]
            assert {*blocks} <= {0, 8}
            assert sum(blocks) == target if name == "rigl" or i % 2 == 0 else sum(blocks) <= target
        history.append(masks)
    assert_changed(history)


@pytest.mark.parametrize("name", ["rigl", "set"])
@settings(max_examples=lighter(2, 3))
@given(seed=seeds)
def test_one_fan_in_after_every_update(name, seed):
    """Also of methods that grow what they drop: what did not divide among the neurons left comes back."""
    history = []
    for masks, targets in masks_of_a_run(name, fan_in(0.6), seed):
        for mask, target in zip(masks.values(), targets, strict=True):
            assert_one_fan_in(mask, target)
        history.append(masks)
    assert_changed(history)


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
        (n_m(2, 4), (6, 8), r"leaf 'w' of shape \(6, 8\) cannot be cut into groups of m=4 inputs .*maskable="),
        (n_m(2, 4), (3, 3, 3, 8), r"leaf 'w' of shape \(3, 3, 3, 8\) cannot be cut into groups"),
        (n_m(2, 4), (8,), r"leaf 'w' of shape \(8,\) cannot be cut into groups"),
        (block(4, 4), (8, 6), r"leaf 'w' of shape \(8, 6\) cannot be cut into blocks of 4 x 4"),
        (
            block(16, 16),
            (8, 8),
            r"leaf 'w' of shape \(8, 8\) cannot be cut into blocks of 16 x 16 .*expected multiples",
        ),
        (
            block(2, 2, balanced=True),
            (2, 8),
            r"leaf 'w' of shape \(2, 8\) would have 8 active weights, fewer than the 16 of one block of 2 x 2 in each",
        ),
        (fan_in(), (2, 8), r"leaf 'w' of shape \(2, 8\) would have 4 active weights for 8 neurons, a fan-in below one"),
    ],
)
def test_leaves_that_do_not_fit(structure, shape, pattern):
    sparsity = 0.8 if structure == fan_in() else 0.5
    method = methods.static(
        sparsity=sparsity, distribution="uniform", structure=structure, maskable=lambda path, leaf: path == "w"
    )
    with pytest.raises(ValueError, match=pattern):
        dstjax.sparsify(optax.sgd(0.1), method).init({"w": jnp.ones(shape), "b": jnp.ones(8)})


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
