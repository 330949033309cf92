"""Keys of scores: integers in the order of the scores."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dstjax._arrays.sort_keys import ordered_key, tell_candidates

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats(dtype):
    tiny = ml_dtypes.finfo(dtype).smallest_subnormal
    rising = np.array([np.nan, -np.inf, -2.0, -tiny, 0.0, tiny, 2.0, np.inf], dtype)
    keys = np.asarray(ordered_key(jnp.asarray(rising), None)).astype(object)
    assert (np.diff(keys) > 0).all()
    assert keys[0] == 1  # 0 is for what is no candidate
    zeros = np.asarray(ordered_key(jnp.asarray(np.array([-0.0, 0.0], dtype)), None))
    assert zeros[0] == zeros[1] == keys[4]
    np.testing.assert_array_equal(ordered_key(jnp.asarray(-np.array(np.nan, dtype)), None), 1)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
def test_integers(dtype):
    info = np.iinfo(dtype)
    rising = np.unique(np.array([info.min, info.min + 1, 0, 1, info.max - 1, info.max], dtype))
    keys = np.asarray(ordered_key(jnp.asarray(rising), None)).astype(object)
    assert (np.diff(keys) > 0).all()


@pytest.mark.parametrize(("dtype", "bits"), [(bool, 8), (np.int8, 8), (np.uint8, 8), (np.int16, 16), (np.int32, 32)])
def test_keys_of_integers_are_as_narrow_as_they(dtype, bits):
    assert ordered_key(jnp.zeros(3, dtype), None).dtype == f"uint{bits}"


@pytest.mark.parametrize("dtype", [*FLOATS, np.int32, bool])
def test_candidates(dtype):
    scores, where = jnp.asarray(np.array([1, 0, 1], dtype)), jnp.array([True, True, False])
    assert int(ordered_key(scores, where)[2]) == 0
    assert tell_candidates(dtype) is (dtype not in (np.int32, bool))


def test_keys_that_tell_candidates_are_never_0():
    lowest = jnp.array([-np.inf, np.nan, -np.finfo(np.float32).max])
    for dtype in FLOATS:
        assert bool((ordered_key(lowest.astype(dtype), None) > 0).all()) is tell_candidates(dtype)
    assert int(ordered_key(jnp.full(1, -(2**31), jnp.int32), None)[0]) == 0


def test_complex_scores_have_no_order():
    with pytest.raises(ValueError, match="complex64 have no order"):
        ordered_key(jnp.zeros(2, jnp.complex64), None)
