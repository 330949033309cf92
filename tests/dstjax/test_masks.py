"""Packing to bits, masking, counting, overlap (METHODS examples of G2), and shares in exact integer arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstjax import masks
from tests import trees
from tests.thorough import examples

# --- Packing ------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(40))
@given(st.lists(st.integers(0, 18), min_size=0, max_size=4), st.integers(0, 2**32 - 1))
@example([8, 0], 0)
@example([16, 3], 0)
@example([2, 9], 0)
def test_packing_comes_back(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    stored = masks.pack(jnp.asarray(mask))
    assert isinstance(stored, jax.Array)
    np.testing.assert_array_equal(masks.unpack(stored), mask)
    assert masks.shape(stored) == mask.shape
    if stored.dtype != bool:
        # One bit per entry, and at most seven of padding for each line along the last axis.
        assert stored.nbytes * 8 <= mask.size + 7 * (mask.size // max(shape[-1], 1))
    else:
        assert not mask.size or [*shape, 0][-1] < 9  # only what is too short along its last axis


@pytest.mark.parametrize("shape", [(3, 3, 16, 5), (3, 3, 5, 16), (64, 10), (10, 64), (24,)])
def test_packing_takes_an_eighth_of_the_bytes(shape):
    assert masks.pack(jnp.ones(shape, bool)).nbytes == np.prod(shape) // 8


def test_the_first_entry_is_the_lowest_bit():
    assert masks.pack(jnp.array([True, False, False, True] + [False] * 4 + [True])).ravel().tolist() == [9, 1]


def test_packing_under_vmap_keeps_the_new_axis():
    for shape in [(3, 5, 12), (3, 16, 5), (3, 2, 4), (3, 9)]:
        batch = jnp.asarray(np.random.default_rng(0).random(shape) < 0.5)
        stored = jax.vmap(masks.pack)(batch)
        np.testing.assert_array_equal(masks.unpack(stored), batch)
        np.testing.assert_array_equal(jax.vmap(masks.unpack)(stored), batch)


# --- Masking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_apply_zeroes_the_inactive_weights_and_keeps_the_dtype(dtype):
    params = trees.everything(dtype)
    flags = {n: np.arange(np.prod(trees.SHAPES[n])).reshape(trees.SHAPES[n]) % 2 == 0 for n in trees.MASKED}
    tree = {
        "conv": {"bias": None, "kernel": masks.pack(jnp.asarray(flags["conv/kernel"]))},
        "dense": {"bias": None, "kernel": jnp.asarray(flags["dense/kernel"])},
        "list": [flags["list/0"], optax.MaskedNode()],
        "nothing": None,
        "scale": None,
    }
    before, after = trees.names(params), trees.names(masks.apply(params, tree))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        expected = np.where(flags[name], weight, np.zeros((), weight.dtype)) if name in flags else weight
        np.testing.assert_array_equal(after[name], expected)
        assert after[name].dtype == dtype
    assert masks.count_active(tree) == {n: int(flags[n].sum()) for n in trees.MASKED}


def test_no_negative_zero_is_left():
    weight = masks.apply({"w": -jnp.ones((2, 2))}, {"w": jnp.zeros((2, 2), bool)})["w"]
    assert not np.signbit(weight).any()


def test_a_nan_outside_the_mask_becomes_zero():
    weight = masks.apply({"w": jnp.full((2, 2), jnp.nan)}, {"w": jnp.zeros((2, 2), bool)})["w"]
    np.testing.assert_array_equal(weight, np.zeros((2, 2)))


def test_apply_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"'w' of the parameters has shape \(3, 2\); expected \(2, 3\)"):
        masks.apply({"w": jnp.zeros((3, 2))}, {"w": jnp.ones((2, 3), bool)})
    with pytest.raises(ValueError, match="elsewhere"):
        masks.apply({"w": jnp.zeros((3, 2))}, {"elsewhere": jnp.ones((3, 2), bool)})


# --- Overlap ----------------------------------------------------------------------------------------------------------


def of_indices(*index, size=6):
    return jnp.isin(jnp.arange(size), jnp.array(index or [-1])).reshape(2, -1)


def test_jaccard_of_the_reference_example():
    """A = {0, 1, 4}, B = {1, 4, 5}: two in common of four."""
    a, b = {"w": of_indices(0, 1, 4)}, {"w": of_indices(1, 4, 5)}
    assert float(masks.jaccard(a, b)) == 0.5
    assert float(masks.iou(a, b)) == 0.5
    assert {n: float(v) for n, v in masks.overlap(a, b).items()} == {"w": 0.5}


def test_jaccard_averages_layers_and_iou_pools_them():
    a = {"u": of_indices(0), "v": of_indices(0, 1, 2, 3), "dense": None}
    b = {"u": of_indices(0), "v": of_indices(3, 4, 5), "dense": None}
    assert float(masks.jaccard(a, b)) == pytest.approx((1 + 1 / 6) / 2)
    assert float(masks.iou(a, b)) == pytest.approx(2 / 7)


def test_two_empty_masks_agree():
    nobody = {"w": of_indices()}
    assert float(masks.jaccard(nobody, nobody)) == 1.0
    assert float(masks.iou(nobody, nobody)) == 1.0


def test_stored_masks_are_compared_as_well():
    a, b = {"w": masks.pack(of_indices(0, 1, 4))}, {"w": of_indices(1, 4, 5)}
    assert float(masks.jaccard(a, b)) == 0.5


def test_overlap_refuses_trees_of_different_leaves():
    with pytest.raises(ValueError, match="different leaves: v, w"):
        masks.overlap({"w": of_indices(0)}, {"v": of_indices(0)})
    with pytest.raises(ValueError, match="no masked leaf in common"):
        masks.overlap({"w": None}, {"w": None})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_zero_outside_is_where_and_has_its_derivative(dtype):
    x = jnp.array([1.5, -2.0, jnp.nan, jnp.inf, -0.0, 3.0], dtype)
    flags = jnp.array([True, False, False, True, True, False])
    got = masks.zero_outside(x, flags)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, jnp.where(flags, x, jnp.zeros((), dtype)))
    assert not np.signbit(np.asarray(got.real.astype(jnp.float32)))[~np.asarray(flags)].any()
    _, tangent = jax.jvp(lambda x: masks.zero_outside(x, flags), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(tangent, flags.astype(dtype))


@pytest.mark.parametrize("compare", [masks.overlap, masks.jaccard, masks.iou])
@pytest.mark.parametrize("shape", [(3, 1), (3,), (2, 3, 4), (4, 3)])
def test_masks_of_other_shapes_are_not_compared(compare, shape):
    with pytest.raises(ValueError, match=r"the masks of 'w' have shapes .*; expected the same"):
        compare({"w": jnp.ones((3, 4), bool)}, {"w": jnp.ones(shape, bool)})
