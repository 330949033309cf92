"""Tensors that are counted together, and large ones in rows: the same masks, in few kernels."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstjax._arrays import counting, shards
from dstjax.selection import count_true, top_k_masks
from tests import oracles
from tests.thorough import slow

pytestmark = pytest.mark.usefixtures("one_device")

SHAPES = [(70,), (5, 3), (16, 9), (), (1025,), (0, 2), (4, 4, 4), (2, 700), (9,), (1024,), (31, 33), (3,)]


@pytest.fixture(params=["all together", slow("large ones alone"), "large ones in rows"])
def bounds(request, monkeypatch):
    """The sizes at which the ways part, brought down to those of a test."""
    if request.param != "all together":
        monkeypatch.setattr(counting, "SMALL", 600)
    if request.param == "large ones in rows":
        monkeypatch.setattr(shards, "_LARGE", 900)


def programs(**options):
    """The selection and the count, compiled anew, since the bounds are read while they are traced."""
    jax.clear_caches()
    select = jax.jit(lambda scores, ks, where: top_k_masks(scores, list(ks), where=where, **options))
    return select, jax.jit(lambda masks: count_true(masks))


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize(
    "dtypes", [slow(("float32",)), slow(("bfloat16",)), slow(("int32",)), ("float32", "int32", "uint32")]
)
def test_every_tensor_has_its_own_k(dtypes):
    select, count = programs()

    @settings(max_examples=25)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 40))
    def check(seed, values):
        rng = np.random.default_rng(seed)
        scores = [rng.integers(-values, values + 1, s).astype(d) for s, d in zip(SHAPES, itertools.cycle(dtypes))]
        where = [rng.random(s) < rng.choice([0.0, 0.5, 1.0]) for s in SHAPES]
        ks = np.array([rng.integers(0, s.size + 3) for s in scores])
        masks = select([jnp.asarray(s) for s in scores], ks, [jnp.asarray(w) for w in where])
        for mask, s, k, w in zip(masks, scores, ks, where, strict=True):
            np.testing.assert_array_equal(mask, oracles.best(s, k, w))
        np.testing.assert_array_equal(count(masks), [m.sum() for m in masks])

    check()


@pytest.mark.usefixtures("bounds")
def test_one_k_for_all():
    select, _ = programs(together=True)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = [rng.integers(-9, 10, s).astype(np.float32) for s in SHAPES]
        where = [rng.random(s) < 0.6 for s in SHAPES]
        k = int(rng.integers(0, sum(s.size for s in scores)))
        masks = select([jnp.asarray(s) for s in scores], np.array([k]), [jnp.asarray(w) for w in where])
        for mask, expected in zip(masks, oracles.best_together(scores, [k][0], where), strict=True):
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.usefixtures("bounds")
def test_under_vmap():
    jax.clear_caches()
    rng = np.random.default_rng(0)
    scores = [rng.integers(-4, 5, (3, *s)).astype(np.float32) for s in SHAPES]
    ks = np.array([[rng.integers(0, max(1, int(np.prod(s)))) for s in SHAPES] for _ in range(3)])
    masks = jax.vmap(lambda scores, ks: top_k_masks(scores, list(ks)))([jnp.asarray(s) for s in scores], ks)
    for mask, s, k in zip(masks, scores, ks.T, strict=True):
        for i in range(3):
            np.testing.assert_array_equal(mask[i], oracles.best(s[i], k[i]))


@pytest.mark.parametrize("bits_per_pass", [1, 3])
def test_bits_per_pass(bits_per_pass):
    select, _ = programs(bits_per_pass=bits_per_pass)
    scores = [np.random.default_rng(1).integers(-3, 4, s).astype(np.float32) for s in SHAPES]
    ks = np.array([s.size // 3 for s in scores])
    for mask, s, k in zip(select([jnp.asarray(s) for s in scores], ks, None), scores, ks, strict=True):
        np.testing.assert_array_equal(mask, oracles.best(s, k))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, bool])
def test_bits_of_bytes_and_booleans(dtype):
    rng = np.random.default_rng(2)
    masks = [rng.integers(0, 2 if dtype is bool else 128, s).astype(dtype) for s in SHAPES]
    expected = [np.unpackbits(m.astype(np.uint8).reshape(-1)).sum() for m in masks]
    np.testing.assert_array_equal(count_true([jnp.asarray(m) for m in masks]), expected)


@pytest.mark.optimised
def test_many_small_tensors_take_the_kernels_of_few():
    """The reductions in the compiled text: one a loop for all small tensors, where a few have one each."""

    def reductions(n):
        scores = [jax.ShapeDtypeStruct((8, i), jnp.float32) for i in range(100, 100 + n)]
        compiled = jax.jit(lambda s: top_k_masks(s, [3] * n)).lower(scores).compile().as_text()
        return len(re.findall(r"= \([^=]*\) reduce\(", compiled))

    few = counting.MANY - 1
    assert reductions(few) >= few
    many = 2 * counting.MANY
    assert reductions(many) < few
    with jax.set_mesh(None):  # in a process of several devices a jit may still cut them
        assert reductions(many) >= many


def test_tensors_without_entries():
    empty = [jnp.zeros((0, i)) for i in range(counting.MANY + 1)]
    assert [m.shape for m in top_k_masks(empty, [1] * len(empty))] == [x.shape for x in empty]
    assert count_true([x.astype(bool) for x in empty]).tolist() == [0] * len(empty)


@pytest.mark.optimised
def test_a_number_is_unseen_by_the_compiler():
    """A kernel that reads at an unseen place holds no constant place, so that it can serve all."""

    def read(x):
        return [x[at] for at in counting.unseen([1, 5, 2])]

    np.testing.assert_array_equal(jax.jit(read)(jnp.arange(8.0)), [1, 5, 2])
    text = jax.jit(read).lower(jnp.arange(8.0)).compile().as_text()
    assert "slice={" not in text
    assert functools.reduce(max, [int(n) for n in re.findall(r"dynamic_slice_sizes=\{(\d+)\}", text)], 0) == 1
