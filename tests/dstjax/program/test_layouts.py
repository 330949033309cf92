"""What each axis of a leaf means, read from programs whose equations say it."""

import pickle

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

import dstjax.layouts
from dstjax import program

NHWC = ("NHWC", "HWIO", "NHWC")


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def read(function, params, *args):
    return dict(program.layouts(function, params, *args))


def one(function, leaf, *args):
    """The layout of a single leaf."""
    return read(function, leaf, *args)[""]


def conv(w, x, groups=1):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=groups)


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


# --- Tables and other leaves that are no weights ----------------------------------------------------------------------

LOOK_UPS = {
    "index": lambda e, t: e[t],
    "take": lambda e, t: jnp.take(e, t, axis=0),
    "one-hot": lambda e, t: jax.nn.one_hot(t, 24) @ e,
    "vmapped": lambda e, t: jax.vmap(lambda t: e[t])(t),
    "dynamic slice": lambda e, t: jax.vmap(lambda t: lax.dynamic_index_in_dim(e, t, keepdims=False))(t),
    "scaled": lambda e, t: e[t] * np.sqrt(16.0),
}


@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
def test_rows_that_data_pick_are_looked_up(look_up):
    params = {"e": f32(24, 16), "w": f32(16, 4), "pos": f32(7, 16)}

    def function(p, tokens):
        return jnp.tanh((look_up(p["e"], tokens) + p["pos"]) @ p["w"])

    tokens = i32(7)
    assert read(function, params, tokens) == {"e": "lookup out", "pos": None, "w": "in out"}
    batch = read(jax.vmap(function, (None, 0)), params, i32(3, 7))
    assert batch == {"e": "lookup out", "pos": None, "w": "in out"}
    seeds = read(jax.vmap(function, (0, None)), {"e": f32(5, 24, 16), "w": f32(5, 16, 4), "pos": f32(5, 7, 16)}, tokens)
    assert seeds == {"e": "stack lookup out", "pos": None, "w": "stack in out"}


def test_a_batch_may_be_closed_over():
    tokens, x = np.ones((3, 7), np.int32), np.ones((3, 6), np.float32)
    params = {"e": f32(24, 16), "pos": f32(9, 16), "w": f32(16, 4), "v": f32(6, 4)}

    def function(p):
        h = p["e"][tokens] + p["pos"][jnp.arange(7)][None]
        return h @ p["w"], p["e"][tokens[0]] @ p["w"], x @ p["v"]

    assert read(function, params) == {"e": "lookup out", "pos": None, "v": "in out", "w": "in out"}
    assert one(lambda w: x @ w[np.array([4, 0, 2, 3, 1, 1])], f32(5, 8)) == "in out"


def test_two_factors_of_a_recommender_are_looked_up():
    def score(p, users, items):
        return jnp.einsum("bd,bd->b", p["u"][users], p["v"][items])

    assert read(score, {"u": f32(9, 4), "v": f32(8, 4)}, i32(5), i32(5)) == {"u": "lookup out", "v": "lookup out"}


def test_a_table_that_gives_the_logits_too_has_two_uses():
    found = program.layouts(lambda p, t: jnp.tanh(p["e"][t]) @ p["e"].T, {"e": f32(24, 16)}, i32(7))
    assert dict(found) == {"e": "?"}
    assert found.unread == {"e": "two uses that disagree: 'lookup out' and 'out in'"}
    both = program.layouts(lambda w, x: jnp.tanh(x @ w) @ w.T, f32(6, 8), f32(3, 6))
    assert both.unread == {"": "two uses that disagree: 'in out' and 'out in'"}
    assert one(lambda w, x: jnp.tanh(x @ w) @ w, f32(8, 8), f32(3, 8)) == "in out"


def test_an_axis_that_is_in_part_an_input_cannot_be_said():
    def function(w, x):  # blocks along the diagonal, out of one axis
        return jnp.einsum("bni,nio->bno", x.reshape(3, 2, 3), w.reshape(2, 3, 8))

    found = program.layouts(function, f32(6, 8), f32(3, 6))
    assert found.unread == {"": "axis 0 is in part 'in' and in part 'stack'"}
    gone = program.layouts(lambda w, x: x @ w.mean(0), f32(4, 6, 8), f32(3, 6))
    assert gone.unread == {"": "axis 0 is gone before the product"}


def test_what_is_only_added_or_scales_is_no_weight():
    params = {"pos": f32(1, 7, 16), "cls": f32(1, 1, 16), "scale": f32(8, 16), "bias": f32(1, 1, 16), "w": f32(16, 4)}

    def function(p, x):
        x = jnp.concatenate([jnp.broadcast_to(p["cls"], (3, 1, 16)), x + p["pos"]], axis=1)
        x = (x - x.mean(-1, keepdims=True)) * p["scale"][None] + p["bias"]
        return jnp.tanh(x @ p["w"]) + sum(jnp.sum(leaf**2) for leaf in p.values())

    assert read(function, params, f32(3, 7, 16)) == dict(pos=None, cls=None, scale=None, bias=None, w="in out")


def attention(q, k, v, bias):
    return jax.nn.softmax(
        jnp.einsum("...qhd,...khd->...hqk", q, k) + jnp.broadcast_to(bias, (*q.shape[:-3], 4, 7, 7))
    ) @ v.swapaxes(-2, -3)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_attention_multiplies_data_with_data(batch):
    params = {"q": f32(16, 4, 2), "k": f32(16, 4, 2), "v": f32(4, 16, 2), "o": f32(4, 2, 16), "bias": f32(4, 7, 7)}

    def function(p, x):
        q, k = (jnp.einsum("...sd,dhk->...shk", x, p[name]) for name in "qk")
        v = jnp.einsum("...sd,hdk->...shk", x, p["v"])
        return jnp.einsum("...hsk,hkd->...sd", attention(q, k, v, p["bias"]), p["o"])

    found = read(function, params, f32(*batch, 7, 16))
    assert found == dict(q="in out out", k="in out out", v="out in out", o="in in out", bias=None)


def test_learned_queries_are_data_to_the_leaf_that_projects_them():
    def function(p, x):
        queries = jnp.broadcast_to(p["queries"], (3, 5, 16)) @ p["q"]
        return jax.nn.softmax(queries @ (x @ p["k"]).swapaxes(1, 2)) @ x

    params = {"queries": f32(5, 16), "q": f32(16, 8), "k": f32(16, 8)}
    expected = {"queries": None, "q": "in out", "k": "in out"}
    assert read(function, params, f32(3, 7, 16)) == expected

    def pooled(p, x):
        return jax.nn.softmax((jnp.tile(p["queries"], (3, 1, 1)) @ p["q"]) @ (x @ p["k"]).swapaxes(1, 2)) @ x

    assert read(pooled, {**params, "queries": f32(1, 1, 16)}, f32(3, 7, 16)) == expected


def test_experts_are_a_stack_however_they_are_picked():
    params = {"gate": f32(16, 5), "up": f32(5, 16, 32), "down": f32(5, 32, 16)}
    expected = {"gate": "in out", "up": "stack in out", "down": "stack in out"}

    def dense(p, x):  # each expert sees each token
        gates = jax.nn.softmax(x @ p["gate"])
        return jnp.einsum("te,etd->td", gates, jax.nn.relu(jnp.einsum("td,edf->etf", x, p["up"])) @ p["down"])

    def dispatched(p, x):
        best = jax.nn.one_hot(jnp.argmax(x @ p["gate"], -1), 5)
        hidden = jnp.einsum("te,td,edf->etf", best, x, p["up"])
        return jnp.einsum("te,etd->td", best, jax.nn.relu(hidden) @ p["down"])

    def slots(p, x):
        best = jax.nn.one_hot(jnp.argmax(x @ p["gate"], -1), 5)
        place = jax.nn.one_hot((jnp.cumsum(best, 0) * best).sum(1).astype(int), 4)
        send = best[:, :, None] * place[:, None]
        hidden = jax.nn.relu(jnp.einsum("ecd,edf->ecf", jnp.einsum("tec,td->ecd", send, x), p["up"]))
        return jnp.einsum("tec,ecd->td", send, jnp.einsum("ecf,efd->ecd", hidden, p["down"]))

    def picked(p, x):
        best = jnp.argmax(x @ p["gate"], -1)
        hidden = jax.nn.relu(jnp.einsum("td,tdf->tf", x, p["up"][best]))
        return jnp.einsum("tf,tfd->td", hidden, p["down"][best])

    for function in (dense, dispatched, slots, picked):
        assert read(function, params, f32(7, 16)) == expected, function.__name__


def multi_query(p, x):
    q, k, v = jnp.einsum("bsd,dhk->bshk", x, p["q"]), x @ p["k"], x @ p["v"]
    return jnp.einsum("bhqt,btk->bqhk", jax.nn.softmax(jnp.einsum("bqhk,btk->bhqt", q, k)), v)


def selective(p, x):
    """A state space whose step, inputs and outputs come from the data, as in Mamba."""

    def step(h, x):
        decay = jnp.exp(jax.nn.softplus(x @ p["dt"])[..., None] * -jnp.exp(p["a"])[None])
        h = decay * h + x[..., None] * (x @ p["b"])[:, None]
        return h, jnp.einsum("bdn,bn->bd", h, x @ p["c"])

    return lax.scan(step, jnp.zeros((3, 6, 4)), x.swapaxes(0, 1))[1]


def spectral_layer(p, x):
    """A product for each frequency, as in Fourier neural operators."""
    frequencies = jnp.einsum("bsi,sio->bso", jnp.fft.rfft(x, axis=1), p["re"] + 1j * p["im"])
    return jnp.fft.irfft(frequencies, axis=1)


def short_convolution(p, x):
    taps = [jnp.pad(x, ((0, 0), (i, 0), (0, 0)))[:, :7] * p["taps"][i][None, None] for i in range(3)]
    return sum(taps) @ p["w"]


def equilibrium(p, x):
    def body(z):
        return jnp.tanh(z @ p["w"] + x @ p["u"] + p["b"])

    return lax.while_loop(lambda z: jnp.sum(z) > 1, body, jnp.zeros((3, 8)))


def drawn_twice(p, x):  # the codebook of a quantiser: distances, then rows
    nearest = jnp.argmin(jnp.sum(p["c"] ** 2, -1)[None] - 2 * (x @ p["w"]) @ p["c"].T, -1)
    return p["c"][nearest] @ p["v"]


LAYERS = {
    "multi-query attention": (multi_query, dict(q="in out out", k="in out", v="in out"), "6,4,8 6,8 6,8", (3, 7, 6)),
    "state space": (
        selective,
        dict(dt="in out", a=None, b="in out", c="in out"),
        "6,6 6,4 6,4 6,4",
        (3, 7, 6),
    ),
    "Fourier": (spectral_layer, dict(re="stack in out", im="stack in out"), "4,6,8 4,6,8", (3, 7, 6)),
    "taps": (short_convolution, dict(taps=None, w="in out"), "3,6 6,4", (3, 7, 6)),
    "equilibrium": (equilibrium, dict(w="in out", u="in out", b=None), "8,8 6,8 1,8", (3, 6)),
    "codebook": (drawn_twice, dict(c="?", w="in out", v="in out"), "9,8 6,8 8,2", (3, 6)),
    "bilinear": (lambda p, x: jnp.einsum("bi,ijo,bj->bo", x, p["w"], x), dict(w="in in out"), "6,6,8", (3, 6)),
    "Kronecker": (lambda p, x: x @ jnp.kron(p["a"], p["b"]), dict(a="in out", b="in out"), "2,4 3,5", (3, 6)),
    "blocks": (
        lambda p, x: jnp.einsum("bnq,nqp->bpn", x.reshape(3, 2, 3), p["w"]).reshape(3, -1) @ p["v"],
        dict(w="stack in out", v="in out"),
        "2,3,4 8,5",
        (3, 6),
    ),
    "tokens mixed": (
        lambda p, x: x.swapaxes(1, 2) @ p["w"] @ p["v"],
        dict(w="in out", v="in out"),
        "7,9 9,7",
        (3, 7, 6),
    ),
    "gram penalty": (
        lambda p, x: (x @ p["w"], jnp.sum((p["w"].T @ p["w"] - jnp.eye(8)) ** 2)),
        dict(w="in out"),
        "6,8",
        (3, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_the_field(name):
    function, expected, shapes, x = LAYERS[name]
    leaves = [f32(*map(int, shape.split(","))) for shape in shapes.split()]
    assert read(function, dict(zip(expected, leaves, strict=True)), f32(*x)) == expected


# --- Loops and calls --------------------------------------------------------------------------------------------------


def layers(w, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


LOOPS = {
    "scan": layers,
    "remat": lambda w, x: lax.scan(jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, w)[0],
    "nested": lambda w, x: lax.scan(lambda x, _: (layers(w, x), None), x, length=4)[0],
    "for": lambda w, x: lax.fori_loop(0, 5, lambda i, x: x @ w[i], x),
    "counted by scan": lambda w, x: lax.scan(lambda x, i: (x @ w[i], None), x, jnp.arange(5))[0],
    "while": lambda w, x: lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] @ w[c[0]]), (0, x))[1],
    "vmapped": lambda w, x: jax.vmap(lambda x: layers(w, x[None]))(x),
    "changed in a loop": lambda w, x: layers(lax.map(lambda w: 2 * w, w), x),
    "branch": lambda w, x: lax.cond(x[0, 0] > 0, lambda: layers(w, x), lambda: layers(2 * w, x)),
    "picked by data": lambda w, x: x @ w[jnp.argmax(x[0, :5])],
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_layers_of_a_loop_are_a_stack(loop):
    assert one(loop, f32(5, 8, 8), f32(3, 8)) == "stack in out"


def test_a_scan_over_time_has_its_weights_outside():
    def function(p, x):
        def step(h, x):
            h = jnp.tanh(x @ p["x"] + h @ p["h"].T + p["bias"])
            return h, h @ p["y"]

        return lax.scan(step, jnp.broadcast_to(p["start"], (3, 8)), x)[1]

    params = {"x": f32(6, 8), "h": f32(8, 8), "y": f32(8, 2), "bias": f32(1, 8), "start": f32(1, 8)}
    assert read(function, params, f32(9, 3, 6)) == dict(x="in out", h="out in", y="in out", bias=None, start=None)


def test_custom_derivatives_and_shards_are_looked_into():
    @jax.custom_vjp
    def product(w, x):
        return x @ w

    product.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, dy: (saved[1].T @ dy, dy @ saved[0].T))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = dict(mesh=mesh, in_specs=(P(None, "data"), P()), out_specs=P(None, "data"))
    for function in (product, jax.named_call(product, name="layer"), jax.shard_map(product, **specs)):
        assert one(function, f32(6, 16), f32(3, 6)) == "in out"


def test_what_cannot_be_looked_into_is_named():
    def kernel(w, x, out):
        out[...] = x[...] @ w[...]

    def opaque(p, x):
        call = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((3, 8), jnp.float32))
        return jnp.tanh(call(p["w"], x) + p["bias"]) @ p["v"]

    found = program.layouts(opaque, {"w": f32(6, 8), "v": f32(8, 2), "bias": f32(1, 8)}, f32(3, 6))
    assert dict(found) == {"w": "?", "v": "in out", "bias": None}
    assert found.unread == {"w": "goes into primitive 'pallas_call', which cannot be looked into"}
    foreign = program.layouts(lambda w, x: x @ jnp.fft.fft(w).real + jnp.sum(w), f32(6, 8), f32(3, 6))
    assert "'fft'" in foreign.unread[""]


def test_a_gradient_has_the_transpose_too():
    found = program.layouts(
        jax.grad(lambda p, x: jnp.sum(jnp.tanh(x @ p["a"]) @ p["b"])), {"a": f32(6, 8), "b": f32(8, 2)}, f32(3, 6)
    )
    assert dict(found) == {"a": "in out", "b": "?"}
    assert found.unread["b"] == "two uses that disagree: 'in out' and 'out in'"


# --- The value --------------------------------------------------------------------------------------------------------


def example():
    params = {"a": f32(20, 30), "b": f32(30), "e": f32(9, 20), "v": f32(5, 30)}
    return program.layouts(lambda p, t: jnp.tanh(p["e"][t] @ p["a"] + p["b"][None]) @ p["v"].T, params, i32(4))


def test_layouts_are_a_value():
    found = example()
    assert found == example() == {"a": "in out", "b": None, "e": "lookup out", "v": "out in"}
    assert hash(found) == hash(example())
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({found, example()}) == 1
    assert list(found) == ["a", "b", "e", "v"]
    assert found("v", f32(5, 30)) == "out in"
    assert found("other", f32(5, 30)) == "?"
    with pytest.raises(AttributeError):
        found.entries = ()
    lines = str(found).splitlines()
    assert lines[0] == "Layouts of 4 leaves"
    assert lines[2].split() == ["b", "(30,)", "no", "weight"]
    assert lines[4].split() == ["v", "(5,", "30)", "out", "in"]


def test_layouts_are_a_preset():
    found = example()
    leaves = {"a": f32(20, 30), "b": f32(30), "e": f32(9, 20), "v": f32(5, 30), "more/kernel": f32(3, 4)}
    layouts = dstjax.layouts.read(found, leaves)
    assert {path: layout and str(layout) for path, layout in layouts.items()} == {**found, "more/kernel": "in out"}
    assert str(dstjax.layouts.read([{"v": "in out"}, found], leaves)["v"]) == "in out"
    assert hash(dstjax.layouts.preset_of([{"v": "in out"}, found]))


def test_a_layout_that_contradicts_is_refused_leaf_by_leaf():
    found = example()
    found.check()
    found.check({"a": "in out", "e": "in out", "v": None})
    found.check([found, "in out"])
    with pytest.raises(ValueError, match=r"contradicts the program: 'v' is 'out in', not 'in out'\.$"):
        found.check("in out")
    with pytest.raises(ValueError, match=r"'a' is 'in out', not 'out in'; 'e' is 'lookup out', not 'out in'\.$"):
        found.check({"a|e": "out in"})
    with pytest.raises(ValueError, match="match no leaf"):
        found.check({"kernel": "in out"})
    table = program.layouts(
        lambda p, x: (x + p["pos"][None]) @ p["w"], {"pos": f32(7, 16), "w": f32(16, 4)}, f32(3, 7, 16)
    )
    with pytest.raises(ValueError, match=r"'pos' is no weight, not 'lookup out'\.$"):
        table.check({"pos": "lookup out"})
    tied = program.layouts(lambda p, t: p["e"][t] @ p["e"].T, {"e": f32(24, 16)}, i32(7))
    tied.check({"e": "out in"})
    assert "?  (two uses" in str(tied)


def test_nothing_is_computed_and_holes_are_left_out():
    params = {"block": [{"kernel": f32(1 << 20, 1 << 20)}], "bias": f32(1 << 20), "hole": None}
    assert read(lambda p, x: x @ p["block"][0]["kernel"] + p["bias"], params, f32(1 << 20)) == {
        "bias": None,
        "block/0/kernel": "in out",
    }
