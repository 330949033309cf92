"""Multiply-adds by leaf: every count here is the product of sizes that can be read off the program."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from dstjax.program import flops
from tests.dstjax.program.counted import by_leaf, f32


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=30)
def test_a_contraction_multiplies_once_for_each_combination_of_its_indices(data):
    sizes = dict(zip("abcdef", data.draw(st.lists(st.integers(1, 7), min_size=6, max_size=6)), strict=True))
    # Each index is in both operands (batch or contracted) or in one of them and the result.
    left = "abcd"
    right = "".join(data.draw(st.permutations("abef")))
    out = "".join(data.draw(st.permutations("bcdef")))
    shapes = [f32(*(sizes[i] for i in text)) for text in (left, right)]
    found = by_leaf(lambda w, x: jnp.einsum(f"{left},{right}->{out}", w, x), *shapes)
    assert found == {"": math.prod(sizes.values()), None: 0}


@hypothesis.given(
    size=st.tuples(st.integers(6, 12), st.integers(6, 12)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 6]),
    padding=st.sampled_from(["SAME", "VALID", [(1, 0), (2, 1)]]),
)
@hypothesis.settings(max_examples=40)
def test_a_convolution_multiplies_every_tap_of_every_output(size, kernel, stride, dilation, groups, padding):
    def function(w, x):
        return lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    weight, x = f32(*kernel, 6 // groups, 12), f32(5, *size, 6)
    positions = 1
    for axis in range(2):
        reach = dilation * (kernel[axis] - 1) + 1
        padded = size[axis] + (sum(padding[axis]) if isinstance(padding, list) else 0)
        positions *= -(-size[axis] // stride) if padding == "SAME" else (padded - reach) // stride + 1
    taps = kernel[0] * kernel[1] * (6 // groups)
    assert by_leaf(function, weight, x) == {"": 5 * 12 * positions * taps, None: 0}


def test_a_transposed_convolution_multiplies_each_input_with_each_tap():
    found = by_leaf(lambda w, x: lax.conv_transpose(x, w, (2, 2), "SAME"), f32(3, 3, 4, 8), f32(1, 5, 7, 4))
    assert found == {"": 5 * 7 * 3 * 3 * 4 * 8, None: 0}


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_transposed_convolution_costs_three_times_as_much_to_train(size, padding):
    """In the gradient of the weight the image is the window, and the dilated input is as large."""

    def forward(w, x):
        return lax.conv_transpose(x, w, (2, 2), padding)

    found = by_leaf(jax.grad(lambda w, x: forward(w, x).sum(), argnums=(0, 1)), f32(3, 3, 6, 4), f32(1, size, size, 6))
    once = size * size * 3 * 3 * 6 * 4
    # The gradient of the input meets whole windows of the result alone where nothing was cut off.
    assert found == {"": 2 * once, None: once}


def test_a_strided_convolution_costs_three_times_as_much_to_train():
    def forward(w, x):
        return lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    once = 4 * 4 * 3 * 3 * 6 * 10
    found = by_leaf(jax.grad(lambda w, x: forward(w, x).sum(), argnums=(0, 1)), f32(3, 3, 6, 10), f32(1, 8, 8, 6))
    # The gradient of the input comes from the weight, that of the weight from activations alone.
    assert found == {"": 2 * once, None: once}


def layers(w, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


LOOPS = {
    "scan over a stack": (layers, 5 * 3 * 64),
    "nested": (lambda w, x: lax.scan(lambda x, _: (layers(w, x), None), x, length=4)[0], 4 * 5 * 3 * 64),
    "unrolled": (lambda w, x: layers(w, layers(w, x)), 2 * 5 * 3 * 64),
    "no rounds": (lambda w, x: lax.scan(lambda x, _: (x @ w[0], None), x, length=0)[0], 0),
    "for": (lambda w, x: lax.fori_loop(0, 5, lambda i, x: x @ w[i], x), 5 * 3 * 64),
    "while": (
        lambda w, x: lax.while_loop(lambda c: c[0] < 7, lambda c: (c[0] + 2, c[1] @ w[0]), (1, x))[1],
        3 * 3 * 64,
    ),
    "vmapped": (lambda w, x: jax.vmap(lambda x: layers(w, x[None]))(x), 5 * 3 * 64),
    "stacked in the loop": (lambda w, x: x @ lax.map(lambda w: 2 * w, w), 5 * 3 * 64),
}


@pytest.mark.parametrize(("loop", "expected"), LOOPS.values(), ids=LOOPS)
def test_loops_count_all_their_rounds(loop, expected):
    assert by_leaf(loop, f32(5, 8, 8), f32(3, 8)) == {"": expected, None: 0}


def test_joined_layers_are_each_charged_in_a_loop():
    params = [f32(8, 8), f32(8, 8)]
    assert by_leaf(lambda p, x: layers(jnp.stack(p), x), params, f32(3, 8)) == {"0": 192, "1": 192, None: 0}


@pytest.mark.parametrize(
    "loop",
    [
        lambda w, x, n: lax.fori_loop(0, n, lambda _, x: x @ w, x),
        lambda w, x, n: lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: x @ w, x),
        lambda w, x, n: lax.while_loop(lambda x: jnp.sum(x @ w) < 1, lambda x: x + 1, x),
    ],
)
def test_a_number_of_rounds_that_does_not_show_is_an_error(loop):
    with pytest.raises(ValueError, match=r"while loop cannot be counted; .*lax\.scan"):
        flops.count(loop, f32(8, 8), f32(3, 8), jax.ShapeDtypeStruct((), jnp.int32))


def test_a_loop_of_unknown_length_that_multiplies_nothing_is_none():
    def function(w, x):
        return lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: x + 1, x) @ w

    assert by_leaf(function, f32(8, 8), f32(3, 8)) == {"": 192, None: 0}


def test_a_choice_costs_its_costliest_branch():
    def function(p, x, flag):
        return lax.cond(flag, lambda: x @ p["wide"] @ p["out"], lambda: x @ p["narrow"])

    params = {"wide": f32(6, 20), "out": f32(20, 4), "narrow": f32(6, 4)}
    found = by_leaf(function, params, f32(2, 6), jax.ShapeDtypeStruct((), jnp.bool))
    assert found == {"wide": 240, "out": 160, "narrow": 0, None: 0}


def test_custom_derivatives_are_looked_into():
    @jax.custom_jvp
    def forward(w, x):
        return x @ w

    forward.defjvp(lambda primals, tangents: (forward(*primals), tangents[1] @ primals[0]))

    @jax.custom_vjp
    def other(w, x):
        return x @ w

    other.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, dy: (saved[1].T @ dy, dy @ saved[0].T))
    for function in (forward, other, jax.named_call(other, name="layer")):
        assert by_leaf(function, f32(6, 8), f32(3, 6)) == {"": 144, None: 0}
    grad = jax.grad(lambda w, x: other(w, x).sum(), argnums=(0, 1))
    assert by_leaf(grad, f32(6, 8), f32(3, 6)) == {"": 2 * 144, None: 144}


def test_sharded_work_is_that_of_all_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        lambda w, x: lax.psum(jnp.sum(x @ w), "data"), mesh=mesh, in_specs=(P(), P("data")), out_specs=P()
    )
    assert by_leaf(sharded, f32(6, 4), f32(16, 6)) == {"": 16 * 24, None: 0}


def test_training_charges_each_pass_and_keeps_the_leaf_through_the_updates():
    def loss(p, x):
        return jnp.sum(jax.nn.relu(x @ p["a"]) @ p["b"])

    def train(p, x):
        def step(p, _):
            grads = jax.grad(loss)(p, x)
            return jax.tree.map(lambda w, g: w - 0.1 * g, p, grads), None

        return lax.scan(step, p, length=5)[0]

    a, b = 4 * 6 * 8, 4 * 8 * 3
    # Forward through both, backward through b, and a gradient for each.
    assert by_leaf(train, {"a": f32(6, 8), "b": f32(8, 3)}, f32(4, 6)) == {
        "a": 5 * a,
        "b": 5 * 2 * b,
        None: 5 * (a + b),
    }


def test_nothing_is_computed_and_paths_are_those_of_the_masks():
    params = {"block": [{"kernel": f32(1 << 20, 1 << 20)}], "bias": f32(1 << 20), "hole": None}
    found = flops.count(lambda p, x: x @ p["block"][0]["kernel"] + p["bias"], params, f32(1 << 20))
    assert found == flops.Flops({"bias": 0, "block/0/kernel": 1 << 40}, 0)


def test_a_multiply_add_is_two_operations_and_density_scales_it():
    def function(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    found = flops.count(lambda p, x: function(p["w"], x), {"w": f32(3, 3, 16, 32)}, f32(1, 14, 14, 16))
    assert found.dense() == 1_806_336
    assert found.sparse({"w": 0.1}) == pytest.approx(180_633.6)  # the short form of the tables
    assert found.sparse({}) == found.dense()
    assert flops.Flops({"w": 10, "v": 5}, 3).sparse({"w": 0.5, "v": 0.0}) == 2 * (5 + 0 + 3)


@pytest.mark.parametrize(
    ("densities", "message"),
    [
        ({"v": 0.5}, r"'v' is no leaf; .*w"),
        ({"w": 1.5}, r"density of 'w'=1\.5"),
        ({"w": float("nan")}, "density of 'w'"),
    ],
)
def test_densities_are_of_leaves_and_shares(densities, message):
    with pytest.raises(ValueError, match=message):
        flops.Flops({"w": 10}, 0).sparse(densities)


def test_what_cannot_be_looked_into_is_an_error():
    def kernel(w, x, out):
        out[...] = x[...] @ w[...]

    call = pl.pallas_call(kernel, out_shape=f32(8, 8), interpret=True)
    callback = functools.partial(jax.pure_callback, lambda w, x: np.asarray(x) @ np.asarray(w), f32(8, 8))
    for function, name in ((call, "pallas_call"), (callback, "pure_callback")):
        with pytest.raises(ValueError, match=f"'{name}' cannot be counted"):
            flops.count(function, f32(8, 8), f32(8, 8))
