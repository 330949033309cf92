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

from dstjax.masks import zero_outside
from dstjax.program import flops


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def by_leaf(function, params, *args):
    """The multiply-adds by leaf, those of no leaf under None."""
    found = flops.count(function, params, *args)
    return {**found.multiply_adds, None: found.other}


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


MASK = np.eye(6, 8, dtype=np.float32)
MOVED = {
    "transposed": lambda w: w.T.reshape(8, 6).transpose(1, 0),
    "reshaped": lambda w: w.reshape(2, 3, 8).reshape(6, 8),
    "converted": lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
    "reversed": lambda w: jnp.flip(jnp.squeeze(w[None], 0)),
    "masked": lambda w: w * MASK,
    "selected": lambda w: jnp.where(MASK > 0, w, 0.0),
    "zero outside": lambda w: zero_outside(w, jnp.asarray(MASK > 0)),
    "scaled": lambda w: w / jnp.sqrt(jnp.sum(w**2)),
    "standardised, then masked": lambda w: (w - w.mean(0, keepdims=True)) / w.std(0, keepdims=True) * MASK,
    "shifted, then selected": lambda w: jnp.where(MASK > 0, w + 1, 0),
    "frozen": lax.stop_gradient,
    "hyperbolic": lambda w: jnp.sinh(jnp.arctan(w)),
    "written into": lambda w: w.at[np.arange(3), np.arange(3)].set(0),
    "summed over nothing": lambda w: w.reshape(1, 6, 8, 1).sum((0, 3)),
    "quantised": lambda w: jnp.clip(jnp.round(w / 0.1), -8, 7) * 0.1,
    "soft threshold": lambda w: jnp.sign(w) * jax.nn.relu(jnp.abs(w) - 0.1),
    "straight through": lambda w: w + lax.stop_gradient(jnp.where(jnp.abs(w) > 0.1, w, 0.0) - w),
    "remat": jax.checkpoint(jnp.sin),
    "jit": jax.jit(lambda w: w * 2),
    "permuted": lambda w: w[np.array([3, 1, 2, 0, 5, 4])],
    "batched": lambda w: jnp.broadcast_to(w, (1, 6, 8))[0],
}


@pytest.mark.parametrize("move", MOVED.values(), ids=MOVED)
def test_a_weight_feeds_the_product_through_whatever_is_done_to_its_elements(move):
    assert by_leaf(lambda p, x: x @ move(p["w"]), {"w": f32(6, 8)}, f32(3, 6)) == {"w": 3 * 6 * 8, None: 0}


NO_SAVING = {  # not zero where the weight is
    "standardised": lambda w: (w - w.mean(0, keepdims=True)) / w.std(0, keepdims=True),
    "shifted": lambda w: w + 0.5,
    "exponential": jnp.exp,
    "inverse": lambda w: 1 / w,
    "clipped from above zero": lambda w: jnp.clip(w, 0.5, 8),
    "filled": lambda w: jnp.where(MASK > 0, w, 1.0),
    "diagonal": lambda w: w.at[np.arange(3), np.arange(3)].set(1),
    "low rank added": lambda w: w + (w @ w.T) @ w,
}


@pytest.mark.parametrize("move", NO_SAVING.values(), ids=NO_SAVING)
def test_what_fills_the_zeros_of_a_weight_is_nobodys_saving(move):
    before = by_leaf(lambda p, x: move(p["w"]), {"w": f32(6, 8)}, f32(3, 6))
    found = by_leaf(lambda p, x: x @ move(p["w"]), {"w": f32(6, 8)}, f32(3, 6))
    assert found["w"] == before["w"]
    assert found[None] == before[None] + 3 * 6 * 8


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_tables_that_are_added_feed_nothing_at_any_batch(batch, masked):
    """With a batch of one the table is as large as what it is added to."""

    def network(p, m, x):
        h = x @ p["emb"] + p["pos"][None]
        for name in ("a", "b"):
            up = p[name] * m[name] if masked else p[name]
            h = h + jax.nn.relu(h @ up) @ up.T
        scores = jax.nn.softmax(h @ h.swapaxes(1, 2) + p["relative"])
        return scores @ h

    params = {"emb": f32(3, 8), "pos": f32(16, 8), "relative": f32(1, 16, 16), "a": f32(8, 12), "b": f32(8, 12)}
    found = by_leaf(network, params, {"a": f32(8, 12), "b": f32(8, 12)}, f32(batch, 16, 3))
    block, pairs = batch * 16 * 8 * 12 * 2, batch * 2 * 16 * 16 * 8
    assert found == {"emb": batch * 16 * 24, "pos": 0, "relative": 0, "a": block, "b": block, None: pairs}


def test_masks_that_come_as_arguments_leave_the_weight_its_own():
    def function(p, masks, x):
        return jax.nn.relu(x @ (p["a"] * masks["a"])) @ jnp.where(masks["b"], p["b"], 0)

    masks = {"a": f32(6, 8), "b": jax.ShapeDtypeStruct((8, 2), jnp.bool)}
    found = by_leaf(function, {"a": f32(6, 8), "b": f32(8, 2)}, masks, f32(3, 6))
    assert found == {"a": 3 * 48, "b": 3 * 16, None: 0}


def test_a_part_of_a_weight_counts_as_that_part():
    assert by_leaf(lambda w, x: x @ w[:, :3] + x @ w[:, 5:], f32(6, 8), f32(2, 6)) == {"": 2 * 6 * (3 + 3), None: 0}


def test_joined_weights_share_by_their_number_of_elements():
    def fused(p, x):
        return x @ jnp.concatenate([p["q"], p["k"], p["v"]], axis=1)

    params = {"q": f32(6, 4), "k": f32(6, 8), "v": f32(6, 4)}
    assert by_leaf(fused, params, f32(5, 6)) == {"q": 5 * 24, "k": 5 * 48, "v": 5 * 24, None: 0}
    stacked = by_leaf(lambda p, x: jnp.stack([p["q"], p["v"]]) @ x, {"q": f32(6, 4), "v": f32(6, 4)}, f32(4, 2))
    assert stacked == {"q": 48, "v": 48, None: 0}


def test_zeros_that_fill_a_weight_up_are_nobodys_saving():
    assert by_leaf(lambda w, x: x @ jnp.pad(w, ((0, 2), (0, 0))), f32(6, 8), f32(1, 8)) == {"": 48, None: 16}


def test_a_cut_through_joined_weights_is_in_doubt_and_dense():
    def function(p, x):
        flat = jnp.concatenate([p["a"].ravel(), p["b"].ravel()])
        return x @ flat[:48].reshape(6, 8)

    assert by_leaf(function, {"a": f32(6, 8), "b": f32(6)}, f32(1, 6)) == {"a": 0, "b": 0, None: 48}


def test_of_two_leaves_the_larger_feeds_and_neither_of_two_equal_ones():
    def norm(p, x):
        return x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True))

    assert by_leaf(norm, {"g": f32(1, 8), "v": f32(6, 8)}, f32(1, 6)) == {"g": 0, "v": 48, None: 0}
    assert by_leaf(lambda p, x: x @ (p["a"] + p["b"]), {"a": f32(6, 8), "b": f32(6, 8)}, f32(1, 6))[None] == 48

    def deltas(p, x):  # of a weight that all layers of a stack share
        return lax.scan(lambda h, d: (jnp.tanh(h @ (p["w"] + d)), None), x, p["d"])[0]

    assert by_leaf(deltas, {"w": f32(8, 8), "d": f32(3, 8, 8)}, f32(1, 8)) == {"w": 0, "d": 0, None: 3 * 64}


def test_a_leaf_used_twice_is_charged_twice():
    def tied(p, tokens):
        return jnp.tanh(p["table"][tokens] @ p["w"]) @ p["table"].T

    tokens = jax.ShapeDtypeStruct((3,), jnp.int32)
    found = by_leaf(tied, {"table": f32(50, 8), "w": f32(8, 8)}, tokens)
    # The look-up multiplies nothing, and what it returns is an activation.
    assert found == {"table": 3 * 50 * 8, "w": 3 * 64, None: 0}
    assert by_leaf(lambda w, x: jnp.tanh(x @ w) @ w, f32(8, 8), f32(3, 8)) == {"": 2 * 3 * 64, None: 0}


@pytest.mark.parametrize("shape", [(8,), (5, 8)])
def test_scales_and_biases_of_activations_feed_nothing(shape):
    def network(p, x):
        x = x * jnp.broadcast_to(p["scale"], x.shape) + jnp.broadcast_to(p["bias"], x.shape)
        return jax.nn.relu(x) @ p["w"]

    found = by_leaf(network, {"scale": f32(8), "bias": f32(8), "w": f32(8, 4)}, f32(*shape))
    assert found == {"scale": 0, "bias": 0, "w": math.prod(shape) * 4, None: 0}


def test_the_products_of_attention_are_fed_by_no_leaf():
    def attention(p, x):
        q, k, v = (x @ p[name] * p["scale"] for name in "qkv")
        return jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v

    params = {**{name: f32(16, 8) for name in "qkv"}, "scale": f32()}
    found = by_leaf(attention, params, f32(2, 5, 16))
    assert found == {**dict.fromkeys("qkv", 2 * 5 * 16 * 8), "scale": 0, None: 2 * 2 * 5 * 5 * 8}


def test_experts_picked_by_the_data_are_charged_to_their_leaf():
    picked = by_leaf(
        lambda w, x, e: jnp.einsum("bi,bio->bo", x, w[e]),
        f32(9, 6, 8),
        f32(4, 6),
        jax.ShapeDtypeStruct((4,), jnp.int32),
    )
    assert picked == {"": 4 * 6 * 8, None: 0}
    ragged = by_leaf(lax_ragged, f32(9, 6, 8), f32(20, 6), jax.ShapeDtypeStruct((9,), jnp.int32))
    assert ragged == {"": 20 * 6 * 8, None: 0}


def lax_ragged(w, x, sizes):
    return lax.ragged_dot(x, w, sizes)


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
