"""Channel groups: what of which leaves can only be removed together, read off the program alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dstjax import program
from tests.layout_reading import conv, f32, i32


def members(found, path, axis, index):
    """What goes with an index, as {(path, axis): indices}."""
    group = found.of[path][axis][index]
    assert group >= 0, "it stays"
    return {(m.path, m.axis): m.indices for m in found.members(int(group))}


def stays(found, path, axis):
    return bool((found.of[path][axis] < 0).all())


def test_a_hidden_unit_is_a_group_and_inputs_and_results_stay():
    def mlp(p, x):
        return jax.nn.relu(x @ p["a"] + p["b"][None]) @ p["c"]

    found = program.channels(mlp, {"a": f32(4, 3), "b": f32(3), "c": f32(3, 2)}, f32(5, 4))
    assert found.n_groups == 3
    assert members(found, "a", 1, 2) == {("a", 1): (2,), ("b", 0): (2,), ("c", 0): (2,)}
    assert stays(found, "a", 0)
    assert stays(found, "c", 1)


def test_a_residual_sum_joins_all_that_it_adds_up():
    def residual(p, x):
        h = x @ p["in"]
        for name in ("a", "b"):
            h = h + jnp.tanh(h @ p[name])
        return h @ p["out"]

    found = program.channels(residual, {"in": f32(4, 6), "a": f32(6, 6), "b": f32(6, 6), "out": f32(6, 2)}, f32(5, 4))
    assert found.n_groups == 6
    axes = {("in", 1), ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("out", 0)}
    assert members(found, "a", 1, 4) == dict.fromkeys(axes, (4,))


def test_flattening_joins_what_comes_of_a_channel():
    def flat(p, x):
        return conv(p["k"], x).reshape(x.shape[0], -1) @ p["w"]

    found = program.channels(flat, {"k": f32(3, 3, 2, 5), "w": f32(20, 3)}, f32(7, 2, 2, 2))
    assert members(found, "k", 3, 1) == {("k", 3): (1,), ("w", 0): (1, 6, 11, 16)}


def test_splitting_an_axis_joins_what_is_in_a_part_such_as_a_head():
    def attention(p, x):
        q, k, v = ((x @ p[n]).reshape(5, 4, 3) for n in "qkv")
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k)), v)
        return mixed.reshape(5, 12) @ p["o"]

    found = program.channels(attention, {**{n: f32(6, 12) for n in "qkv"}, "o": f32(12, 6)}, f32(5, 6))
    assert found.n_groups == 4
    head = (3, 4, 5)
    assert members(found, "q", 1, 4) == {("q", 1): head, ("k", 1): head, ("v", 1): head, ("o", 0): head}


def test_a_loop_over_layers_removes_a_channel_of_all_of_them():
    def looped(p, x):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w["u"]) @ w["d"], None), x @ p["in"], p["w"])[0] @ p["out"]

    params = {"in": f32(3, 4), "out": f32(4, 2), "w": {"u": f32(6, 4, 5), "d": f32(6, 5, 4)}}
    found = program.channels(looped, params, f32(2, 3))
    assert found.n_groups == 4 + 5
    assert members(found, "w/u", 2, 3) == {("w/u", 2): (3,), ("w/d", 1): (3,)}
    assert stays(found, "w/u", 0)


def test_a_function_that_is_called_twice_has_two_sets_of_units():
    @jax.jit
    def layer(w, x):
        return jnp.tanh(x @ w)

    def twice(p, x):
        return layer(p["b"], layer(p["a"], x)) @ p["c"]

    found = program.channels(twice, {"a": f32(4, 4), "b": f32(4, 4), "c": f32(4, 2)}, f32(3, 4))
    assert members(found, "a", 1, 0) == {("a", 1): (0,), ("b", 0): (0,)}
    assert members(found, "b", 1, 0) == {("b", 1): (0,), ("c", 0): (0,)}


def test_a_leaf_that_is_used_twice_is_one_leaf():
    def tied(p, x):
        return jnp.tanh(x @ p["w"]) @ p["w"].T

    found = program.channels(tied, {"w": f32(4, 3)}, f32(2, 4))
    assert members(found, "w", 1, 2) == {("w", 1): (2,)}
    assert stays(found, "w", 0)


def test_what_is_repeated_along_an_axis_joins_nothing():
    def gated(p, x):
        return (x @ p["a"] * (x @ p["gate"])[:, None]) @ p["b"]

    found = program.channels(gated, {"a": f32(4, 3), "b": f32(3, 2), "gate": f32(4)}, f32(5, 4))
    assert found.n_groups == 3
    assert stays(found, "gate", 0)


def test_concatenated_channels_stay_apart():
    def dense(p, x):
        h = jnp.concatenate([x @ p["a"], jnp.flip(x @ p["b"], -1)], axis=-1)
        left, right = jnp.split(h, [4], axis=-1)
        return left @ p["c"] + right @ p["d"]

    params = {"a": f32(2, 3), "b": f32(2, 3), "c": f32(4, 2), "d": f32(2, 2)}
    found = program.channels(dense, params, f32(5, 2))
    assert members(found, "b", 1, 2) == {("b", 1): (2,), ("c", 0): (3,)}
    assert members(found, "b", 1, 0) == {("b", 1): (0,), ("d", 0): (1,)}


def test_a_grouped_convolution_loses_groups_as_a_whole():
    def grouped(p, x):
        return jnp.sum(conv(p["b"], conv(p["a"], x), groups=3), axis=(1, 2)) @ p["c"]

    params = {"a": f32(1, 1, 2, 6), "b": f32(3, 3, 2, 9), "c": f32(9, 2)}
    found = program.channels(grouped, params, f32(4, 5, 5, 2))
    assert found.n_groups == 3
    assert members(found, "a", 3, 2) == {("a", 3): (2, 3), ("b", 3): (3, 4, 5), ("c", 0): (3, 4, 5)}
    depthwise = {"a": f32(1, 1, 2, 3), "b": f32(3, 3, 1, 3), "c": f32(3, 2)}
    assert program.channels(grouped, depthwise, f32(4, 5, 5, 2)).n_groups == 3


def test_loops_and_branches_are_looked_into():
    def function(p, x, n):
        h = x @ p["in"]
        h = lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["w"])), (0, h))[1]
        h = lax.cond(n > 2, lambda h: h @ p["a"], lambda h: h[:, ::-1] @ p["b"], h)
        return h @ p["out"]

    params = {"in": f32(3, 4), "w": f32(4, 4), "a": f32(4, 5), "b": f32(4, 5), "out": f32(5, 2)}
    found = program.channels(function, params, f32(2, 3), i32())
    assert members(found, "w", 1, 0) == {
        ("in", 1): (0,),
        ("w", 0): (0,),
        ("w", 1): (0,),
        ("a", 0): (0,),
        ("b", 0): (3,),
    }
    assert members(found, "a", 1, 2) == {("a", 1): (2,), ("b", 1): (2,), ("out", 0): (2,)}


def test_what_cannot_be_looked_into_keeps_its_operands_and_is_named():
    def function(p, x):
        h = x @ p["a"]
        return (
            jnp.real(jnp.fft.fft(h)) @ p["b"] + jnp.cumsum(x @ p["c"], axis=1) @ p["d"] + jnp.tanh(x @ p["e"]) @ p["f"]
        )

    params = {n: f32(4, 3) if n in "ace" else f32(3, 2) for n in "abcdef"}
    found = program.channels(function, params, f32(5, 4))
    assert found.n_groups == 3
    assert found.fixed == {
        "goes through the primitive 'fft', which cannot be looked into": ("a",),
        "goes through 'cumsum' along the axis": ("c",),
    }


def test_a_custom_kernel_keeps_its_operands_and_is_named():
    pl = pytest.importorskip("jax.experimental.pallas")

    def kernel(x_ref, o_ref):
        o_ref[...] = x_ref[...] * 2

    def function(p, x):
        h = x @ p["a"]
        doubled = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(h.shape, h.dtype), interpret=True)(h)
        return doubled @ p["b"]

    found = program.channels(function, {"a": f32(4, 3), "b": f32(3, 2)}, f32(5, 4))
    assert found.n_groups == 0
    (why,) = found.fixed
    assert "pallas_call" in why


def test_an_index_that_is_taken_alone_stays_unless_only_its_shape_is_asked_for():
    def function(p, x, shape_only):
        h = x @ p["a"]
        first = h[:, 0]
        return jnp.tanh(h) @ p["b"] + (jnp.zeros(first.shape) if shape_only else first)[:, None]

    params = {"a": f32(4, 3), "b": f32(3, 2)}
    found = program.channels(functools.partial(function, shape_only=False), params, f32(5, 4))
    assert found.of["a"][1].tolist() == [-1, 0, 1]
    assert found.fixed == {"has an index that is taken alone": ("a",)}
    assert program.channels(functools.partial(function, shape_only=True), params, f32(5, 4)).n_groups == 3


def test_a_leaf_that_is_not_used_stays():
    found = program.channels(lambda p, x: x @ p["a"], {"a": f32(4, 3), "other": f32(7)}, f32(2, 4))
    assert stays(found, "other", 0)
    assert found.fixed == {"is not used by the program": ("other",)}


@pytest.mark.parametrize("by", [jax.jit, lambda f: jax.vmap(f, (None, 0)), lambda f: jax.grad(f, argnums=1)])
def test_the_program_may_be_transformed(by):
    def energy(p, x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]))

    found = program.channels(by(energy), {"a": f32(4, 3), "b": f32(3, 2)}, f32(5, 4))
    assert members(found, "a", 1, 1) == {("a", 1): (1,), ("b", 0): (1,)}


def test_a_program_that_branches_on_values_is_refused():
    def branching(p, x, train):
        return x @ p if train else p

    with pytest.raises(ValueError, match="branches on values"):
        program.channels(branching, f32(4, 3), f32(2, 4), i32())
    assert program.channels(functools.partial(branching, train=True), f32(4, 3), f32(2, 4)).n_groups == 0


def test_masks_leave_groups_out_and_never_an_axis_empty():
    params = {"a": f32(4, 3), "b": None, "c": f32(3, 2)}
    found = program.channels(lambda p, x: jnp.tanh(x @ p["a"]) @ p["c"], params, f32(5, 4))
    masks = found.masks([0, 2])
    np.testing.assert_array_equal(masks["a"], [[False, True, False]] * 4)
    np.testing.assert_array_equal(masks["c"], [[False] * 2, [True] * 2, [False] * 2])
    assert masks["b"] is None
    with pytest.raises(ValueError, match="axis 1 of 'a' would become empty"):
        found.masks(range(3))
