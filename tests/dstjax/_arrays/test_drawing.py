"""Bits drawn for many tensors at once against those drawn one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax._arrays import drawing
from dstjax._arrays.keys import leaf_keys

SHAPES = [(7,), (3, 5), (33, 40), (), (2, 0), (1025,), (4, 256), (1200, 450)]


def draw(seeds: list[int], impl: str = "threefry2x32") -> tuple[list[jax.Array], list[jax.Array]]:
    keys = [jax.random.key(seed, impl=impl) for seed in seeds]
    found = jax.jit(lambda keys: drawing.random_bits(keys, SHAPES, [None] * len(SHAPES)))(keys)
    return found, [jax.random.bits(k, s, jnp.uint32) for k, s in zip(keys, SHAPES, strict=True)]


def assert_equal(found: list[jax.Array], expected: list[jax.Array]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)


def test_bits_drawn_together_are_those_of_each_key(one_device: None) -> None:
    assert_equal(*draw(list(range(len(SHAPES)))))
    keys = [jax.random.key(i) for i in range(4)]
    program = jax.make_jaxpr(lambda keys: drawing.random_bits(keys, SHAPES[:4], [None] * 4))(keys)
    assert "threefry2x32[" not in str(program)
    assert "random_bits[" not in str(program)
    assert sum(eqn.primitive.name in ("scan", "while") for eqn in program.eqns) == 1, program


def test_drawing_small_tensors_holds_little_more_than_their_bits(one_device: None) -> None:
    keys = [jax.random.key(i) for i in range(9)]
    shapes = [(500, 1000)] * len(keys)
    drawn = jax.jit(lambda keys: drawing.random_bits(keys, shapes, [None] * len(keys))).lower(keys).compile()
    bits = 4 * 500_000 * len(keys)
    assert drawn.memory_analysis().temp_size_in_bytes < 1.2 * bits


@pytest.mark.parametrize(("platform", "rows"), [("cpu", 2121), ("tpu", 2144)])
def test_large_tensors_are_drawn_block_by_block(
    platform: str, rows: int, one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TPU fills an array of one of few lengths."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(drawing, "SMALL", 1025)
    monkeypatch.setattr(drawing, "BLOCK", 256)
    assert_equal(*draw(list(range(len(SHAPES)))))
    keys = [jax.random.key(0)] * len(SHAPES)
    program = jax.make_jaxpr(lambda keys: drawing.random_bits(keys, SHAPES, [None] * len(SHAPES)))(keys)
    assert f"u32[{rows},256]" in str(program)


def test_bits_of_tensors_that_may_be_cut_are_drawn_one_by_one() -> None:
    assert_equal(*draw(list(range(len(SHAPES)))))


def test_other_generators_are_asked_one_by_one(one_device: None) -> None:
    assert_equal(*draw(list(range(len(SHAPES))), impl="rbg"))


def test_the_old_order_of_threefry_is_kept_where_it_is_asked_for(one_device: None) -> None:
    with jax.threefry_partitionable(False):
        assert_equal(*draw(list(range(len(SHAPES)))))


def test_a_batch_of_keys_gives_a_batch_of_bits(one_device: None) -> None:
    keys = [jax.random.split(jax.random.key(i), 3) for i in range(2)]
    shapes = [(4, 5), (6,)]
    found = jax.vmap(lambda *keys: drawing.random_bits(keys, shapes, [None, None]))(*keys)
    for of_key, bits, shape in zip(keys, found, shapes, strict=True):
        np.testing.assert_array_equal(bits, jax.vmap(lambda k, s=shape: jax.random.bits(k, s, jnp.uint32))(of_key))


@pytest.mark.parametrize("leaves", [0, 1, 5])
def test_keys_of_leaves_are_folded_one_after_another(leaves: int) -> None:
    data = jax.random.key_data(jax.random.key(3))
    found = leaf_keys(data, jnp.int32(11), leaves)
    at_step = jax.random.fold_in(jax.random.key(3), 11)
    expected = [
        [jax.random.fold_in(jax.random.fold_in(at_step, i), phase) for phase in range(2)] for i in range(leaves)
    ]
    assert len(found) == leaves
    for pair, other in zip(found, expected, strict=True):
        for a, b in zip(pair, other, strict=True):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
