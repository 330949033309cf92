"""Which leaf feeds a product, whatever is done to it on the way, and which products nobody may call sparse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dstjax.masks import zero_outside
from tests.dstjax.program.counted import by_leaf, f32

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
