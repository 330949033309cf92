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

from dstjax._arrays import counting, rows
from dstjax._arrays.layout import Layout
from dstjax.selection import count_true, top_k_masks
from tests import oracles
from tests.thorough import slow

pytestmark = pytest.mark.usefixtures("one_device")

SHAPES = [(70,), (5, 3), (16, 9), (), (1025,), (0, 2), (4, 4, 4), (2, 700), (9,), (1024,), (31, 33), (3,)]

WHOLE = [shape for shape in SHAPES if 0 not in shape]  # an empty one keeps all from the ways of whole tensors


@pytest.fixture(params=["all together", slow("large ones alone"), "large ones in rows"])
def bounds(request, monkeypatch):
    """The sizes at which the ways part, brought down to those of a test."""
    if request.param != "all together":
        monkeypatch.setattr(counting, "SMALL", 600)
    if request.param == "large ones in rows":
        monkeypatch.setattr(rows, "ROW", 16)


def programs(**options):
    """The selection and the count, compiled anew, since the bounds are read while they are traced."""
    jax.clear_caches()
    select = jax.jit(lambda scores, ks, where: top_k_masks(scores, list(ks), where=where, **options))
    return select, jax.jit(lambda masks: count_true(masks))


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize(
    "dtypes", [slow(("float32",)), slow(("bfloat16",)), slow(("int32",)), ("float32", "int32", "uint32")]
)
@pytest.mark.parametrize("shapes", [WHOLE, slow(SHAPES)], ids=["whole", "with an empty one"])
def test_every_tensor_has_its_own_k(shapes, dtypes):
    select, count = programs()

    @settings(max_examples=25)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 40))
    def check(seed, values):
        rng = np.random.default_rng(seed)
        scores = [rng.integers(-values, values + 1, s).astype(d) for s, d in zip(shapes, itertools.cycle(dtypes))]
        where = [rng.random(s) < rng.choice([0.0, 0.5, 1.0]) for s in shapes]
        ks = np.array([rng.integers(0, s.size + 3) for s in scores])
        masks = select([jnp.asarray(s) for s in scores], ks, [jnp.asarray(w) for w in where])
        for mask, s, k, w in zip(masks, scores, ks, where, strict=True):
            np.testing.assert_array_equal(mask, oracles.best(s, k, w))
        np.testing.assert_array_equal(count(masks), [m.sum() for m in masks])

    check()


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize("shapes", [WHOLE, slow(SHAPES)], ids=["whole", "with an empty one"])
def test_one_k_for_all(shapes):
    select, _ = programs(together=True)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = [rng.integers(-9, 10, s).astype(np.float32) for s in shapes]
        where = [rng.random(s) < 0.6 for s in shapes]
        k = int(rng.integers(0, sum(s.size for s in scores)))
        masks = select([jnp.asarray(s) for s in scores], np.array([k]), [jnp.asarray(w) for w in where])
        for mask, expected in zip(masks, oracles.best_together(scores, [k][0], where), strict=True):
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize("shapes", [WHOLE, slow(SHAPES)], ids=["whole", "with an empty one"])
def test_under_vmap(shapes):
    jax.clear_caches()
    rng = np.random.default_rng(0)
    scores = [rng.integers(-4, 5, (3, *s)).astype(np.float32) for s in shapes]
    ks = np.array([[rng.integers(0, max(1, int(np.prod(s)))) for s in shapes] for _ in range(3)])
    masks = jax.vmap(lambda scores, ks: top_k_masks(scores, list(ks)))([jnp.asarray(s) for s in scores], ks)
    for mask, s, k in zip(masks, scores, ks.T, strict=True):
        for i in range(3):
            np.testing.assert_array_equal(mask[i], oracles.best(s[i], k[i]))


@pytest.mark.parametrize("platform", ["cpu", "cpu, not whole", "gpu", "tpu"])
@pytest.mark.parametrize("values", [2, slow(10**6)])
def test_large_and_small_stacked_and_single_as_on_each_platform(platform, values, monkeypatch):
    """The last of equal entries lies in the first row, in the last, or between; without ties all is one search."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform[:3])
    monkeypatch.setattr(counting, "SMALL", 600)
    monkeypatch.setattr(rows, "ROW", 16)
    for module in (counting, rows):
        monkeypatch.setattr(module, "LONGEST", 300)
    stack = Layout(("stack", "in", "out"))
    rest = [(7, 5), (3, 3), (11,), (2, 2), (4, 9), (5,), (8, 8), (1,), (9, 3)]
    shapes = [(30, 40), (3, 50, 16), (3, 41, 43), (4, 6, 6), (1201,), *rest]
    layouts = (None, stack, stack, stack, None, *[None] * len(rest))
    if platform != "cpu":
        layouts = (None, stack, Layout(("stack", "out", "in")), stack, None, *[None] * len(rest))
    jax.clear_caches()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scores = [rng.integers(-values, values + 1, s).astype(np.float32) for s in shapes]
        lanes = [s if layout else s[None] for s, layout in zip(scores, layouts, strict=True)]
        ks = [rng.integers(0, x[0].size + 2, len(x)) for x in lanes]
        found = top_k_masks([jnp.asarray(s) for s in scores], jnp.asarray(np.concatenate(ks)), layouts=layouts)
        for mask, x, k, layout in zip(found, lanes, ks, layouts, strict=True):
            turned = layout is not None and layout.axes[1] == "out"
            for m, one, n in zip(np.asarray(mask).reshape(x.shape), x, k, strict=True):
                best = oracles.best(one.T, n).T if turned else oracles.best(one, n)
                np.testing.assert_array_equal(m, best)


def test_rows_divide_a_tensor_and_fit_16_bits():
    assert rows.row_length(2**22) == 1024
    assert rows.row_length(512 * 512 * 9) == 1024
    assert rows.row_length(1000 * 999) == 1080
    assert rows.row_length(1000) == 1000
    assert rows.row_length(1_000_003) == 1_000_003  # a prime: all entries in one


@pytest.mark.optimised
def test_a_large_tensor_is_read_in_16_bits_and_without_sort_or_gather_of_weights():
    """What the loop of passes reads is half as wide as the keys; where none is equal nothing more is read."""
    compiled = (
        jax.jit(lambda x: top_k_masks([x], [1000])).lower(jax.ShapeDtypeStruct((2048, 512), jnp.float32)).compile()
    )
    text = compiled.as_text()
    assert re.search(r"u16\[1024,1024\]", text)
    assert " sort(" not in text
    assert not re.search(r"gather\([^)]*f32\[2048,512\]", text)


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
        return len(re.findall(r"= \(u.*\) reduce\(", compiled))

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
