"""Selection against a sort in NumPy: ties, NaN, infinities, every dtype, every k."""

import collections

import jax
import jax.extend
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dstjax._arrays import counting
from dstjax.selection import count_true, top_k_mask, top_k_masks
from tests import oracles
from tests.thorough import examples, few, lighter, slow

FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
INTEGERS = ["int8", "int16", "int32", "uint8", "uint16", "uint32"]
# Few different values, so that ties are the rule; the subnormals of float32 are zeros in float16.
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 6e-8, -6e-8, 5e-324, 1e-38, 3e38, 65504.0]
# A fixed set of shapes: each one is compiled once for all examples.
SHAPES = [(7,), (2, 3, 1, 2), *lighter([], [(1,)])]


def scores_of(dtype, shape):
    size = int(np.prod(shape))
    if dtype in FLOATS:
        values = st.lists(st.sampled_from(SPECIAL), min_size=size, max_size=size)

        def cast(v):
            with np.errstate(over="ignore"):  # 3e38 is infinite in half precision
                return np.array(v).astype(FLOATS[dtype]).reshape(shape)

        return values.map(cast)
    if dtype == "bool":
        values = st.lists(st.booleans(), min_size=size, max_size=size)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = st.lists(st.sampled_from([low, low + 1, 0, 1, 2, 3, high - 1, high]), min_size=size, max_size=size)
    return values.map(lambda v: np.array(v, dtype).reshape(shape))


@st.composite
def problems(draw, dtypes):
    shape = draw(st.sampled_from(SHAPES))
    scores = draw(scores_of(draw(st.sampled_from(dtypes)), shape))
    size = scores.size
    where = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(shape)
    return scores, draw(st.integers(-1, size + 2)), where


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("x64")
@settings(max_examples=examples(300))
@given(problems([*FLOATS, *INTEGERS, "int64", "uint64", "bool"]))
@example((np.array([3.0, 1.0, 3.0, np.nan], np.float32), 1, None))
@example((np.array([np.nan, np.nan], np.float32), 1, None))
@example((np.array([-0.0, 0.0], np.float32), 1, None))
@example((np.array([1e-40, 2e-40, 0.0], np.float32), 1, None))
@example((np.array([1.0, 2.0], np.float32), 1, np.array([False, False])))
@example((np.array([5.0], np.float32), 1, np.array([True])))
def test_the_k_best_are_those_of_a_stable_sort(problem):
    scores, k, where = problem
    mask = top_k_mask(jnp.asarray(scores), k, where=where)
    assert mask.shape == scores.shape
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, oracles.best(scores, k, where))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_k_of_a_larger_tensor_with_many_ties(dtype, x64):
    rng = np.random.default_rng(0)
    scores = rng.integers(-5, 6, (9, 37)).astype(FLOATS[dtype])
    where = rng.random(scores.shape) < 0.7
    select = jax.jit(lambda k: top_k_mask(jnp.asarray(scores), k, where=jnp.asarray(where)))  # one program, k traced
    for k in [0, 1, 2, 50, 51, 52, 149, where.sum() - 1, where.sum(), where.sum() + 1, scores.size, 2**31 - 1]:
        np.testing.assert_array_equal(select(jnp.int32(min(k, 2**31 - 1))), oracles.best(scores, k, where))


def test_all_bit_patterns_of_half_precision():
    """Each number that float16 and bfloat16 can hold, in a random order: the ranking is total and exact."""
    for dtype in (np.float16, ml_dtypes.bfloat16):
        bits = np.random.default_rng(1).permutation(2**16).astype(np.uint16)
        scores = bits.view(dtype).reshape(256, 256)
        for k in (1, 100, 30_000, 65_000):
            np.testing.assert_array_equal(top_k_mask(jnp.asarray(scores), k), oracles.best(scores, k))


@settings(max_examples=examples(60))
@given(st.data())
def test_tensors_ranked_together(data):
    """One ranking over tensors of several dtypes; among equals the earlier tensor wins."""
    dtypes = data.draw(st.sampled_from([("float32",) * 3, ("float32", "bfloat16", "float16"), ("bfloat16",) * 3]))
    shapes = [(2, 3), (7,), (3, 1, 4)]
    small = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, np.inf, -np.inf, np.nan]
    draw = lambda n: data.draw(st.lists(st.sampled_from(small), min_size=n, max_size=n))  # noqa: E731
    scores = [np.array(draw(int(np.prod(s)))).astype(FLOATS[d]).reshape(s) for d, s in zip(dtypes, shapes, strict=True)]
    where = [np.array(data.draw(st.lists(st.booleans(), min_size=s.size, max_size=s.size))) for s in scores]
    where = [w.reshape(s.shape) for w, s in zip(where, scores, strict=True)]
    k = data.draw(st.integers(0, 27))
    marks = top_k_masks([jnp.asarray(s) for s in scores], [k], where=where, together=True)
    wide = [s.astype(np.float64) for s in scores]
    for mark, expected in zip(marks, oracles.best_together(wide, k, where), strict=True):
        np.testing.assert_array_equal(mark, expected)


@pytest.mark.parametrize("dtypes", [(np.int8, np.int32), (np.uint8, np.int16), (bool, np.int8)])
def test_integers_of_several_widths_ranked_together(dtypes):
    rng = np.random.default_rng(0)
    lowest = 0 if np.uint8 in dtypes else -3
    scores = [rng.integers(0 if d is bool else lowest, 4, (6, 5)).astype(d) for d in dtypes]
    where = [rng.random(s.shape) < 0.7 for s in scores]
    marks = top_k_masks([jnp.asarray(s) for s in scores], [17], where=where, together=True)
    for mark, expected in zip(marks, oracles.best_together(scores, 17, where), strict=True):
        np.testing.assert_array_equal(mark, expected)


@few(4)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize(
    "dtypes",
    [
        ("float16", "bfloat16"),
        ("float32", "int8"),
        ("bfloat16", "int16"),
        ("float16", "bool"),
        ("int32", "uint16"),
        ("uint8", "uint32"),
        ("int8", "int8"),
        ("float8_e5m2", "float16"),
    ],
)
def test_different_dtypes_of_one_width_too_have_one_order(dtypes, platform, monkeypatch):
    """Keys of 16 bits of float16 and of bfloat16, or of 32 of int32 and of float32, are not of one order."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    values = np.array([0, 1, 1, 3, 100, 5, 7, 2]) % 2 if "bool" in dtypes else np.array([0, 1, 1, 3, 96, 5, 7, 2])
    scores = [values[:4].astype(jnp.dtype(dtypes[0])), values[4:].astype(jnp.dtype(dtypes[1]))]
    for k in range(9):
        marks = top_k_masks.__wrapped__([jnp.asarray(s) for s in scores], [k], together=True)  # traced anew
        expected = oracles.best_together([s.astype(np.float64) for s in scores], k, [np.ones(4, bool)] * 2)
        for mark, one in zip(marks, expected, strict=True):
            np.testing.assert_array_equal(mark, one)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_many_tensors_of_one_shape_are_counted_by_few_equal_kernels_on_a_tpu(platform, one_device, monkeypatch):
    """Whose compiler takes more of them in a row for a loop."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(counting, "SMALL", 16)
    rng = np.random.default_rng(7)
    scores = [rng.integers(-9, 10, (6, 7)).astype(np.float32) for _ in range(4 * counting.EQUAL + 1)]
    ks = [int(k) for k in rng.integers(0, 43, len(scores))]
    traced = jax.make_jaxpr(lambda scores: top_k_masks.__wrapped__(scores, ks))([jnp.asarray(s) for s in scores])
    for mark, s, k in zip(jax.jit(jax.extend.core.jaxpr_as_fun(traced))(*scores), scores, ks, strict=True):
        np.testing.assert_array_equal(mark, oracles.best(s, k))
    loops = [eqn.params["jaxpr"] for eqn in traced.jaxpr.eqns if eqn.primitive.name == "scan"]
    called = [eqn.params for loop in loops for eqn in loop.eqns if eqn.primitive.name == "jit"]
    kernels = collections.Counter(str(params["jaxpr"]) for params in called if params["name"] == "reaching")
    assert sum(kernels.values()) == len(scores)
    assert max(kernels.values()) == (counting.EQUAL if platform == "tpu" else len(scores))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [P("d"), slow(P(None, "d"))])
def test_equal_scores_over_eight_devices_as_on_a_tpu(kind, spec, monkeypatch):
    """Their loop, which may be left out, sums over the devices; the second list has no ties."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jax.clear_caches()
    rng = np.random.default_rng(8)
    shape = (16, 24)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    for make in (lambda: rng.integers(0, 5, shape), lambda: rng.permutation(16 * 24).reshape(shape)):
        scores = [make().astype(np.float32) for _ in range(5)]
        ks = [int(k) for k in rng.integers(0, 385, len(scores))]
        with jax.set_mesh(mesh):
            spread = jax.device_put(scores, NamedSharding(mesh, spec))
            marks = jax.jit(lambda scores, ks=ks: top_k_masks(scores, ks))(spread)
        for mark, s, k in zip(marks, scores, ks, strict=True):
            np.testing.assert_array_equal(mark, oracles.best(s, k))


def test_large_integers_keep_their_order_as_on_each_platform(monkeypatch):
    scores = [np.array([2**24, 2**24 + 1], np.int32), np.array([5, 7], np.int8)]
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        marks = top_k_masks.__wrapped__([jnp.asarray(s) for s in scores], [1], together=True)
        assert [m.tolist() for m in marks] == [[False, True], [False, False]]


@pytest.mark.parametrize(
    "dtypes", [("float32", "int32"), ("float16", "uint32"), ("int32", "uint32"), ("int8", "uint32")]
)
def test_dtypes_without_a_common_exact_order_are_refused_in_one_ranking(dtypes):
    scores = [jnp.zeros(3, d) for d in dtypes]
    with pytest.raises(ValueError, match=f"{min(dtypes)}, {max(dtypes)} have no common order that is exact"):
        top_k_masks(scores, [2], together=True)
    assert [m.sum() for m in top_k_masks(scores, [2, 1])] == [2, 1]  # each by itself


def test_a_list_of_mixed_dtypes_gives_each_tensor_its_own_k():
    rng = np.random.default_rng(2)
    scores = [
        rng.integers(0, 4, s).astype(d) for s, d in [((5, 3), np.float32), ((4,), np.int32), ((2, 6), np.float16)]
    ]
    ks = [4, 2, 12]
    for mark, s, k in zip(top_k_masks([jnp.asarray(s) for s in scores], ks), scores, ks, strict=True):
        np.testing.assert_array_equal(mark, oracles.best(s, k))


def test_empty_tensors_and_empty_lists():
    assert top_k_masks([], []) == []
    assert top_k_mask(jnp.zeros((0, 3)), 2).shape == (0, 3)
    both = top_k_masks([jnp.zeros((0,)), jnp.arange(3.0)], [1, 1])
    np.testing.assert_array_equal(both[1], [False, False, True])
    nobody = top_k_mask(jnp.arange(3.0), 3, where=jnp.zeros(3, bool))
    assert not nobody.any()


@pytest.mark.parametrize("bits_per_pass", [1, 3, 8, *map(slow, (2, 4, 5))])
def test_bits_per_pass_does_not_change_the_result(bits_per_pass):
    scores = np.random.default_rng(3).integers(-3, 4, (6, 7)).astype(np.float32)
    mask = top_k_mask(jnp.asarray(scores), 20, bits_per_pass=bits_per_pass)
    np.testing.assert_array_equal(mask, oracles.best(scores, 20))


@pytest.mark.parametrize(("platform", "bits"), [("cpu", 2), ("gpu", 3), ("tpu", 2), ("abacus", 3)])
def test_each_platform_has_its_bits_per_pass(platform, bits, monkeypatch):
    """Told by the loop in the program: as many passes as 32 bits take."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    text = str(jax.make_jaxpr(lambda s: top_k_masks.__wrapped__([s], [3]))(jnp.zeros(5)))
    assert f"length={-(-32 // bits)}" in text


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_under_vmap_each_row_has_its_own_k(platform, monkeypatch):
    """Of some rows all ties are taken: on a TPU theirs is a loop that others go on with."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    jax.clear_caches()
    scores = np.random.default_rng(4).integers(-3, 4, (5, 4, 3)).astype(np.float32)
    ks = np.array([0, 1, 5, 11, 12])
    masks = jax.vmap(lambda s, k: top_k_mask(s, k))(jnp.asarray(scores), jnp.asarray(ks))
    for mask, s, k in zip(masks, scores, ks, strict=True):
        np.testing.assert_array_equal(mask, oracles.best(s, k))


@pytest.mark.optimised
def test_eager_equals_jit():
    scores = jnp.asarray(np.random.default_rng(5).standard_normal((8, 9)), jnp.float32)
    with jax.disable_jit():
        plain = top_k_mask(scores, 13)
    np.testing.assert_array_equal(plain, top_k_mask(scores, 13))


def test_count_true():
    masks = [np.array([[True, False], [True, True]]), np.zeros(3, bool), np.ones((), bool)]
    counts = count_true([jnp.asarray(m) for m in masks])
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, [3, 0, 1])


def test_complex_scores_are_refused():
    with pytest.raises(ValueError, match="complex64"):
        top_k_mask(jnp.zeros(3, jnp.complex64), 1)


def test_a_tensor_too_large_to_count_is_refused():
    huge = jax.ShapeDtypeStruct((2**16, 2**16), jnp.int8)
    with pytest.raises(ValueError, match=str(2**32)):
        jax.eval_shape(lambda s: top_k_mask(s, 1), huge)


@pytest.mark.slow
@pytest.mark.optimised
def test_more_than_two_to_the_31_entries_are_counted():
    """Counts and indices beyond the signed 32-bit range; about 13 GB, and more where nothing is fused."""
    scores = np.zeros((2**16 + 8, 2**15), np.int8)
    scores[-1, -1], scores[2**16 + 1, 5] = 1, -1
    mask = jax.jit(lambda s: top_k_mask(s, 3))(scores)  # the one best, and the first two of 2**31 equals
    assert int(count_true([mask])[0]) == 3
    assert bool(mask[-1, -1])
    assert bool(mask[0, 0])
    assert bool(mask[0, 1])
