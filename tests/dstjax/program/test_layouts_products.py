"""What each axis of a leaf means, read from programs whose equations say it.

Products and convolutions: which axes are inputs, outputs, windows, stacks.
"""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dstjax import program
from tests.layout_reading import NHWC, conv, f32, i32, layers, one, read

# --- Products ---------------------------------------------------------------------------------------------------------


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60)
def test_an_index_is_read_from_where_it_stands_in_an_einsum(data):
    """In the data and not in the result: an input; in the result alone: an output; in both: a stack."""
    indices = data.draw(st.permutations("ijoprs"))
    words = dict(i="in", j="in", o="out", p="out", r="stack", s="stack")
    left = "".join(i for i in indices if i in "io" or data.draw(st.booleans()))
    sizes = dict(zip("ijoprsbc", data.draw(st.lists(st.integers(2, 5), min_size=8, max_size=8)), strict=True))
    right = "".join(data.draw(st.permutations("bc" + "".join(set(left) & set("ijrs")))))
    out = "".join(data.draw(st.permutations("bc" + "".join(set(left) & set("oprs")))))
    shapes = [f32(*(sizes[i] for i in text)) for text in (left, right)]
    expected = " ".join(words[i] for i in left)
    assert one(lambda w, x: jnp.einsum(f"{left},{right}->{out}", w, x), *shapes) == expected
    assert one(lambda w, x: jnp.einsum(f"{right},{left}->{out}", x, w), *shapes) == expected


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60)
def test_axes_are_followed_through_transposes_and_reshapes(data):
    """Axes are permuted, joined, split elsewhere and put back; inputs stay inputs."""
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=3, max_size=5))
    hypothesis.assume(max(sizes) > 1)
    order = data.draw(st.permutations(range(len(sizes))))
    n_inputs = data.draw(st.integers(1, len(sizes) - 1))
    inputs = int(np.prod([sizes[a] for a in order[:n_inputs]]))
    between = data.draw(st.sampled_from([(inputs, -1), (-1,), (1, inputs, -1), (inputs, -1, 1)]))

    def function(w, x):
        moved = jnp.transpose(w, order).reshape(between).reshape(inputs, -1)
        return x @ moved

    found = one(function, f32(*sizes), f32(7, inputs)).split()
    for place, a in enumerate(order):
        if sizes[a] > 1:
            assert found[a] == ("in" if place < n_inputs else "out")
    assert {"in", "out"} <= {*found}


@hypothesis.given(
    order=st.permutations(range(4)),
    groups=st.sampled_from([1, 2, 6]),
    stride=st.integers(1, 2),
    lhs_dilation=st.integers(1, 2),
    rhs_dilation=st.integers(1, 2),
)
@hypothesis.settings(max_examples=40)
def test_a_convolution_is_read_by_its_dimension_numbers(order, groups, stride, lhs_dilation, rhs_dilation):
    letters, sizes = "HWIO", dict(H=3, W=3, I=6 // groups, O=12)
    spec = "".join(letters[i] for i in order)
    words = dict(H="window", W="window", I="in", O="out")

    def function(w, x):
        return lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            [(2, 2), (2, 1)],
            lhs_dilation=(lhs_dilation, lhs_dilation),
            rhs_dilation=(rhs_dilation, rhs_dilation),
            dimension_numbers=("NCHW", spec, "NHWC"),
            feature_group_count=groups,
        )

    assert one(function, f32(*(sizes[c] for c in spec)), f32(2, 6, 8, 8)) == " ".join(words[c] for c in spec)


@hypothesis.given(
    axis=st.integers(0, 4), groups=st.sampled_from([1, 2, 4]), out=st.sampled_from([4, 8]), shared=st.booleans()
)
@hypothesis.settings(max_examples=40)
def test_layers_under_vmap_are_a_stack(axis, groups, out, shared):
    """Also where the input is the same, which shows in the next layer alone."""
    axis = 0 if shared else axis
    shapes = [(3, 3, 4 // groups, out), (3, 3, out, 2)]
    stacked = [f32(*shape[:axis], 5, *shape[axis:]) for shape in shapes]

    def function(params, x):
        def network(params, x):
            return conv(params[1], jnp.tanh(conv(params[0], x[None], groups)))

        return jax.vmap(network, in_axes=(axis, None if shared else 0))(params, x)

    words = ["window", "window", "in", "out"]
    expected = " ".join([*words[:axis], "stack", *words[axis:]])
    assert read(function, stacked, f32(*(() if shared else (5,)), 8, 8, 4)) == {"0": expected, "1": expected}


@pytest.mark.parametrize("shared", [False, True])
def test_networks_of_several_seeds_are_a_stack(shared):
    params = {"a": f32(5, 6, 8), "a_bias": f32(5, 8), "scale": f32(5, 8), "b": f32(5, 8, 3), "c": f32(5, 2, 3)}

    def network(p, x):
        h = jnp.tanh(x @ p["a"] + p["a_bias"][None])
        h = (h - h.mean(-1, keepdims=True)) * p["scale"][None]
        return lax.scan(lambda h, _: (h @ p["b"] @ p["c"].T @ jnp.ones((2, 8)), None), h, length=3)[0]

    found = read(jax.vmap(network, (0, None if shared else 0)), params, f32(*(() if shared else (5,)), 7, 6))
    assert found == dict(a="stack in out", b="stack in out", c="stack out in", a_bias=None, scale=None)


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_transposed_convolutions(transpose_kernel):
    def function(w, x):
        return lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=transpose_kernel)

    shape = (3, 3, 4, 2) if transpose_kernel else (3, 3, 2, 4)
    expected = "window window out in" if transpose_kernel else "window window in out"
    assert one(function, f32(*shape), f32(1, 5, 5, 2)) == expected


def shifted(w, x):
    """A convolution as one product over shifted copies."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    copies = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    return jnp.concatenate(copies, axis=-1) @ w.reshape(-1, w.shape[-1])


def test_shifted_copies_side_by_side_are_a_window():
    assert one(shifted, f32(3, 3, 2, 4), f32(1, 8, 8, 2)) == "window window in out"
    assert one(shifted, f32(3, 3, 1, 4), f32(1, 8, 8, 1)) == "window window in out"
    assert one(shifted, f32(18, 4), f32(1, 8, 8, 2)) == "in out"  # window and inputs are one axis


def test_ragged_products():
    def function(w, x, sizes):
        return jax.nn.relu(lax.ragged_dot(x, w, sizes))

    assert one(function, f32(9, 6, 8), f32(20, 6), i32(9)) == "stack in out"


# --- What is done to a leaf before ------------------------------------------------------------------------------------

MASK = np.eye(6, 8, dtype=np.float32)
CHANGED = {
    "converted": lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
    "reversed": lambda w: jnp.flip(jnp.squeeze(w[None], 0)),
    "masked": lambda w: w * MASK,
    "selected": lambda w: jnp.where(MASK > 0, w, 0.0),
    "noise": lambda w: w + 0.1 * jax.random.normal(jax.random.key(0), w.shape),
    "standardised": lambda w: (w - w.mean(0, keepdims=True)) / jnp.sqrt(w.var(0, keepdims=True) + 1e-5),
    "quantised": lambda w: jnp.clip(jnp.round(w / 0.1), -8, 7) * 0.1,
    "soft threshold": lambda w: jnp.sign(w) * jax.nn.relu(jnp.abs(w) - 0.1),
    "straight through": lambda w: w + lax.stop_gradient(jnp.where(jnp.abs(w) > 0.1, w, 0.0) - w),
    "largest": lambda w: jnp.where(jnp.abs(w) >= jnp.sort(jnp.abs(w).ravel())[-5], w, 0.0),
    "squared": lambda w: w**2,
    "remat": jax.checkpoint(jnp.sin),
    "jit": jax.jit(lambda w: w * 2),
    "permuted": lambda w: w[np.array([3, 1, 2, 0, 5, 4])],
    "repeated": lambda w: jnp.broadcast_to(w, (3, 6, 8))[0],
    "padded": lambda w: jnp.pad(w, ((0, 0), (1, 2)))[:, 1:9],
    "set": lambda w: w.at[2:4].set(0.0).at[0, 1].add(1.0),
    "spectral": lambda w: w / jnp.linalg.norm((w.T @ (w @ jnp.ones((8, 1)))) / 3.0),
    "orthogonal": lambda w: 1.5 * w - 0.5 * w @ (w.T @ w),
    "in a branch": lambda w: lax.cond(w[0, 0] > 0, lambda: w, lambda: 2 * w),
    "in a loop": lambda w: lax.fori_loop(0, 3, lambda _, w: 0.9 * w, w),
    "in a scan": lambda w: lax.map(lambda row: 2 * row, w),
    "while": lambda w: lax.while_loop(lambda w: jnp.max(w) > 1, lambda w: w / 2, w),
    "as heads": lambda w: w.reshape(6, 4, 2).transpose(1, 0, 2).swapaxes(0, 1).reshape(6, 8),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_changed_weight_is_still_that_weight(change):
    assert one(lambda w, x: x @ change(w), f32(6, 8), f32(3, 6)) == "in out"
    assert one(lambda w, x: x @ change(w).T, f32(6, 8), f32(3, 8)) == "out in"


def test_masks_and_noise_may_be_arguments():
    def function(p, x, masks):
        h = x @ (p["a"] * masks["a"])
        return jnp.where(masks["b"], p["b"] + 0.1 * masks["c"], 0) @ h.T

    masks = {"a": f32(6, 8), "b": jax.ShapeDtypeStruct((4, 8), jnp.bool), "c": f32(4, 8)}
    assert read(function, {"a": f32(6, 8), "b": f32(4, 8)}, f32(3, 6), masks) == {"a": "in out", "b": "out in"}


def test_weights_that_are_drawn():
    def function(p, x, key):
        w = p["mean"] + jax.nn.softplus(p["scale"]) * jax.random.normal(key, (6, 8))
        return x @ jnp.where(jax.random.bernoulli(key, 0.5, (6, 8)), w, 0)

    key = jax.eval_shape(lambda: jax.random.key(0))
    assert read(function, {"mean": f32(6, 8), "scale": f32(6, 8)}, f32(3, 6), key) == dict.fromkeys(
        ("mean", "scale"), "in out"
    )


def test_a_norm_by_the_state_of_the_power_iteration():
    def function(p, x, u):
        v = p["w"].T @ u
        v = v / jnp.linalg.norm(v)
        return x @ (p["w"] / (u @ p["w"] @ v))

    assert read(function, {"w": f32(6, 8)}, f32(3, 6), f32(6)) == {"w": "in out"}


def test_weights_scaled_by_each_example():
    """Modulated kernels, one for each example, in one convolution of groups."""

    def function(p, x, style):
        scale = style @ p["affine"]
        kernels = p["w"][None] * scale[:, None, None, :, None]
        return jax.vmap(lambda k, x: conv(k, x[None]))(kernels, x)

    found = read(function, {"affine": f32(5, 2), "w": f32(3, 3, 2, 4)}, f32(7, 8, 8, 2), f32(7, 5))
    assert found == {"affine": "in out", "w": "window window in out"}


def test_weight_norm_has_a_direction_and_a_length():
    def function(p, x):
        return x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True))

    assert read(function, {"g": f32(1, 8), "v": f32(6, 8)}, f32(2, 6)) == {"g": None, "v": "in out"}


def test_joined_and_cut_weights():
    def joined(p, x):
        return jnp.split(x @ jnp.concatenate([p["q"], p["k"].T], axis=1), 2, axis=1)

    assert read(joined, {"q": f32(6, 4), "k": f32(4, 6)}, f32(5, 6)) == {"q": "in out", "k": "out in"}
    assert one(lambda w, x: x @ w[:, :3] + x @ jnp.split(w, [5], axis=1)[1], f32(6, 8), f32(2, 6)) == "in out"
    assert one(lambda w, x: [x @ w[i] for i in range(3)], f32(3, 6, 8), f32(2, 6)) == "stack in out"
    assert one(lambda w, x: [x @ w[:, i] for i in range(3)], f32(6, 3, 8), f32(2, 6)) == "in stack out"
    pair = read(lambda p, x: layers(jnp.stack([p["a"], p["b"].T]), x), {"a": f32(6, 6), "b": f32(6, 6)}, f32(2, 6))
    assert pair == {"a": "in out", "b": "out in"}


def test_a_product_of_leaves_is_a_weight_of_low_rank():
    params = {"w": f32(6, 7), "a": f32(6, 2), "b": f32(2, 7)}
    expected = dict.fromkeys("wab", "in out")
    assert read(lambda p, x: x @ (p["w"] + 2 * p["a"] @ p["b"]), params, f32(3, 6)) == expected
    assert read(lambda p, x: x @ p["w"] + x @ p["a"] @ p["b"], params, f32(3, 6)) == expected
    chain = {"w": f32(6, 7), "a": f32(6, 2), "b": f32(3, 2), "c": f32(3, 7)}
    found = read(lambda p, x: x @ (p["w"] + p["a"] @ p["b"].T @ p["c"]), chain, f32(3, 6))
    assert found == {"w": "in out", "a": "in out", "b": "out in", "c": "in out"}
    turned = {"a": f32(2, 6), "b": f32(7, 2)}  # as Equinox has it, beside a base that is no parameter
    assert read(lambda p, w, x: (w + p["b"] @ p["a"]) @ x, turned, f32(7, 6), f32(6)) == {"a": "out in", "b": "out in"}


@pytest.mark.parametrize("n", [1, 5])
def test_a_product_of_leaves_alone_may_be_a_projection_of_learned_queries(n):
    """Which is the same program as a product of low rank: the two cannot be told apart, and the reading says so."""

    def pooled(p, x):
        q = jnp.einsum("nd,dhk->nhk", p["queries"], p["q"]) + p["q_bias"][None]
        k = jnp.einsum("sd,dhk->shk", x, p["k"])
        return jnp.einsum("hns,shk->nhk", jax.nn.softmax(jnp.einsum("nhk,shk->hns", q, k)), k)

    params = {"queries": f32(n, 16), "q": f32(16, 4, 2), "q_bias": f32(4, 2), "k": f32(16, 4, 2)}
    for found in (
        program.layouts(pooled, params, f32(7, 16)),
        program.layouts(jax.vmap(pooled, (None, 0)), params, f32(3, 7, 16)),
    ):
        assert (found["q"], found["k"], found["q_bias"]) == ("?", "in out out", None)
        assert "contracted with another leaf" in found.unread["q"]
    found = program.layouts(lambda p, x: x @ (p["a"] @ p["b"]), {"a": f32(6, 2), "b": f32(2, 7)}, f32(3, 6))
    assert dict(found) == {"a": "?", "b": "?"}


def test_leaves_that_only_multiply_each_other_cannot_be_read():
    """Which of them is the table that the other projects?"""
    params = {"positions": f32(7, 6), "project": f32(6, 16), "w": f32(16, 4)}
    found = program.layouts(lambda p, x: (x + (p["positions"] @ p["project"])[None]) @ p["w"], params, f32(3, 7, 16))
    assert dict(found) == {"positions": "?", "project": "?", "w": "in out"}
    assert {*found.unread.values()} == {"is multiplied with another leaf, and what comes of it not with data"}
    train = {"a": f32(2, 4, 5), "b": f32(5, 3, 6)}  # a tensor train, each core with inputs and outputs
    found = program.layouts(
        lambda p, x: jnp.einsum("bij,ijkl->bkl", x, jnp.einsum("ikr,rjl->ijkl", p["a"], p["b"])), train, f32(3, 2, 3)
    )
    assert "axis 2 is contracted with another leaf" in found.unread["a"]
