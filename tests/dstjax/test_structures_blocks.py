"""Blocks, free and balanced, against NumPy written block by block."""

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
from dstjax.structures import block
from tests import structure_oracles as plain
from tests import trees
from tests.thorough import few, lighter, slow

seeds = st.integers(0, 2**32 - 1)


@few(2)
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


@few(2)
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
