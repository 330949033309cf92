"""Subsets that are drawn together, against bits and choices of single tensors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstjax._arrays import drawing, random_subsets, rows
from dstjax._arrays.drawing import random_bits
from dstjax._arrays.layout import Layout
from dstjax._arrays.selection import top_k_masks
from dstjax._engine import draw
from dstjax._engine.draw import random_masks
from tests.thorough import slow

SHAPES = [(5, 7), (3, 3, 8, 16), (2048,), (3, 300), (1,), (2, 3, 200)]
STACKS = [0, 0, 0, 1, 0, 2]  # leading axes that number lanes
LANES = [1, 1, 1, 3, 1, 6]


def one_by_one(keys, ks):
    """The highest bits of each lane, as a NumPy sort finds them."""
    found, lane = [], 0
    for key, shape, lanes in zip(keys, SHAPES, LANES, strict=True):
        bits = np.asarray(jax.random.bits(key, shape, jnp.uint32)).reshape(lanes, -1)
        mask = np.zeros(bits.shape, bool)
        for row, marks in zip(bits, mask, strict=True):
            marks[np.argsort(-row.astype(np.int64), kind="stable")[: ks[lane]]] = True
            lane += 1
        found.append(mask.reshape(shape))
    return found


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@settings(max_examples=8)
@example([0] * 13, 0)
@example([35, 1152, 2048, 300, 300, 300, 1, *[200] * 6], 1)  # all there are
@given(st.lists(st.integers(0, 200), min_size=13, max_size=13), st.integers(0, 2**31 - 1))
def test_subsets_are_those_of_single_tensors(platform, ks, seed):
    ks = np.minimum(ks, np.repeat([int(np.prod(s)) // n for s, n in zip(SHAPES, LANES, strict=True)], LANES))
    keys = [jax.random.key(seed + i) for i in range(len(SHAPES))]
    for found, expected in zip(subsets(platform)(keys, ks), one_by_one(keys, ks), strict=True):
        np.testing.assert_array_equal(found, expected)


@functools.cache
def subsets(platform):
    """The compiled function; of a platform as the compiler of a single device is told."""

    def run(keys, ks):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: platform)
            return random_subsets.random_subsets(keys, SHAPES, STACKS, ks)

    jax.clear_caches()
    return jax.jit(run)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_of_equal_bits_the_first_are_taken(platform, monkeypatch):
    """Bits of one value: all are tied."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    threefry = drawing._threefry
    monkeypatch.setattr(drawing, "_threefry", lambda *a: threefry(*a) & jnp.uint32(1) | jnp.uint32(1))
    jax.clear_caches()
    keys = [jax.random.key(i) for i in range(3)]
    shapes, ks = [(40, 50), (7,), (3, 500)], [1025, 3, 0, 500, 7]
    found = jax.jit(lambda k: random_subsets.random_subsets(keys, shapes, [0, 0, 1], k))(jnp.array(ks))
    lanes = [np.asarray(x).reshape(n, -1) for x, n in zip(found, (1, 1, 3), strict=True)]
    for row, k in zip([row for x in lanes for row in x], ks, strict=True):
        np.testing.assert_array_equal(row, np.arange(len(row)) < k)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3)), min_size=1, max_size=5))
def test_rows_hold_the_bits_of_each_key_and_zeros_behind_them(tensors):
    sizes, lanes = zip(*tensors, strict=True)
    keys = [jax.random.key(i) for i in range(len(tensors))]
    found, first = np.asarray(drawing.random_rows(keys, sizes, lanes)), 0
    for key, size, n in zip(keys, sizes, lanes, strict=True):
        bits = np.asarray(jax.random.bits(key, (n, size), jnp.uint32))
        count = -(-size // rows.WIDTH)
        for lane in range(n):
            row = found[first : first + count].reshape(-1)
            np.testing.assert_array_equal(row[:size], bits[lane])
            assert not row[size:].any()
            first += count
    assert len(found) - first < drawing.BLOCK // rows.WIDTH


SHAPE_OF = {"a": (24, 40), "b": (3, 16, 200), "c": (3, 3, 8, 8), "d": (12, 5)}
LAYOUTS = tuple(Layout(tuple(words.split())) for words in ("in out", "stack out in", "out in window window", "in out"))


def masks_of(leaves, counts):
    return random_masks(jnp.array([3, 4], jnp.uint32), leaves, counts, layouts=LAYOUTS)


@pytest.mark.parametrize("platform", ["cpu", slow("tpu")])
def test_first_masks_do_not_depend_on_whether_leaves_are_drawn_together(platform, one_device, monkeypatch):
    """Axes are stored in other orders, and a leaf is a stack of layers."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    leaves, counts = [jax.ShapeDtypeStruct(s, jnp.float32) for s in SHAPE_OF.values()], [96, 32, 64, 320, 57, 6]
    asked = []
    together = random_subsets.random_subsets
    monkeypatch.setattr(random_subsets, "random_subsets", lambda *args: asked.append(args) or together(*args))
    jax.clear_caches()
    found = masks_of(leaves, counts)
    assert len(asked) == 1
    monkeypatch.setattr(random_subsets, "MOST", sum(leaf.size for leaf in leaves) - 1)
    jax.clear_caches()
    for a, b in zip(found, masks_of(leaves, counts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(asked) == 1


def test_leaves_that_may_be_cut_and_lanes_that_fill_little_of_a_row_are_drawn_by_themselves(one_device):
    key = jax.random.key(0)
    assert draw._is_joined(key, (3, 5), None, None)
    stack = Layout(("stack", "in", "out"))
    assert not draw._is_joined(key, (50, 4, 4), None, stack)
    assert draw._is_joined(key, (50, 40, 4), None, stack)
    assert not draw._is_joined(key, (0, 4), None, None)
    assert not draw._is_joined(jax.random.key(0, impl="rbg"), (3, 5), None, None)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    assert not draw._is_joined(key, (16, 5), jax.NamedSharding(mesh, jax.P("d")), None)


def test_each_of_several_keys_draws_its_own(one_device):
    data = jax.random.key_data(jax.random.split(jax.random.key(1), 3))
    leaves = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((30, 40), (50,))]
    together = jax.vmap(lambda key: random_masks(key, leaves, [100, 7]))(data)
    for i in range(3):
        for mask, alone in zip(together, random_masks(data[i], leaves, [100, 7]), strict=True):
            np.testing.assert_array_equal(mask[i], alone)


def test_bits_and_choice_are_the_same_functions(one_device):
    keys = [jax.random.key(i) for i in range(2)]
    shapes = [(70, 30), (6, 7)]
    found = random_subsets.random_subsets(keys, shapes, [0, 0], jnp.array([500, 9]))
    expected = top_k_masks(random_bits(keys, shapes, [None, None]), [500, 9])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
