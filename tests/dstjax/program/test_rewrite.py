"""Programs rewritten to multiply by active blocks alone: results, gradients and training of the masked dense ones."""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import kernels, methods
from dstjax.program.kernels import products
from dstjax.structures import block
from tests.small_networks import normal, relative
from tests.thorough import few, slow


def einsum(p, x):
    return jax.nn.relu(jnp.einsum("bi,io->ob", x, p["w"]).T)


def under_jit_and_checkpoint(p, x):
    return jax.checkpoint(jax.jit(lambda w, x: jnp.tanh(x @ w)))(p["w"], x)


def transposed(p, x):
    return x @ p["w"].T


def heads(p, x):
    """One array of (inputs, heads, size), multiplied as it is and flat."""
    return jnp.einsum("bi,ihd->bhd", x, p["w"]).reshape(len(x), -1) + x @ p["w"].reshape(8, -1)


def experts(p, x):
    return jnp.einsum("bi,eio->ebo", x, p["w"])


def scanned(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]


def recurrent(p, x):
    return jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p["w"]), x)


def branching(p, x):
    return jax.lax.cond(x[0, 0] > 0, lambda w: x @ w, lambda w: 2 * x @ w, p["w"])


def in_bfloat16(p, x):
    return (x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)).astype(jnp.float32)


PROGRAMS = {
    einsum: ((8, 12), "in out"),
    under_jit_and_checkpoint: ((8, 12), "in out"),
    transposed: ((12, 8), "out in"),
    heads: ((8, 2, 6), "in out out"),
    experts: ((3, 8, 12), "stack in out"),
    scanned: ((3, 8, 8), "stack in out"),
    recurrent: ((8, 8), "in out"),
    branching: ((8, 12), "in out"),
    in_bfloat16: ((8, 12), "in out"),
}
QUICK = (einsum, heads, scanned)


def mask_of(shape, layout):
    """Balanced blocks of 4 inputs by 2 outputs at half of the weights."""
    params = {"w": jnp.ones(shape)}
    method = methods.static(sparsity=0.5, distribution="uniform", structure=block(4, 2, balanced=True))
    return dstjax.get_masks(dstjax.sparsify(optax.sgd(0.1), method, layout=layout).init(params))


@few(2)
@pytest.mark.parametrize("function", [f if f in QUICK else slow(f) for f in PROGRAMS], ids=lambda f: f.__name__)
def test_rewritten_programs_compute_the_same_with_the_same_gradients(function):
    shape, layout = PROGRAMS[function]
    masks = mask_of(shape, layout)
    params, x = dstjax.masks.apply({"w": normal(*shape)}, masks), normal(5, 8, seed=3)
    fast, packed, report = kernels.rewrite(function, params, masks, x, product="block", block=(4, 2), check=False)
    assert report.chosen == {"w": "block"}
    assert packed["w"].size == params["w"].size // 2
    near = 1e-2 if function is in_bfloat16 else 1e-5

    def both(function, params):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(function(p, x)))))(params)

    value, gradient = both(fast, packed)
    expected, dense = both(function, params)
    assert abs(value - expected) < near * 10
    assert relative(fast.pack(dense), gradient) < near
    assert relative(params, fast.unpack(packed)) == 0


def unread(p, x):
    return x @ p["w"] + jnp.sum(p["w"])


def backward(p, x):
    return (x @ p["w"]) @ p["w"].T


def convolved(p, x):
    return jax.lax.conv_general_dilated(x[None, None], p["w"], (1, 1), "SAME")


def returned(p, x):
    return x @ p["w"], p["w"]


def looked_up(p, x):
    return p["w"][jnp.argmax(x, 1)]


def alone(p, x):
    return x * 2


@pytest.mark.parametrize(
    ("function", "shape", "why"),
    [
        (unread, (8, 12), "goes into 'reduce_sum'"),
        (backward, (8, 12), "along other axes than its inputs|not known"),
        (convolved, (1, 1, 3, 3), "kernel of a convolution"),
        (returned, (8, 12), "is a result of the program"),
        (looked_up, (8, 12), "table that is looked up"),
        (alone, (8, 12), "not known|in no product"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_what_cannot_be_rewritten_stays_dense_and_is_named(function, shape, why):
    params = {"w": normal(*shape)}
    masks, x = {"w": jnp.ones(shape, bool)}, normal(5, 8, seed=3)
    fast, packed, report = kernels.rewrite(function, params, masks, x)
    assert report.chosen == {"w": "dense"}
    assert packed["w"].shape == shape
    with pytest.raises(ValueError, match=why):
        kernels.rewrite(function, params, masks, x, product="block")
    assert report.why["w"] in str(report)
    for a, b in zip(jax.tree.leaves(fast(packed, x)), jax.tree.leaves(function(params, x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_experts_that_all_see_all_tokens_stay_dense():
    """They are multiplied over their inputs, but no expert has tokens of its own."""

    def function(p, x):
        return jnp.einsum("td,edf->etf", x, p["w"])

    params, masks = {"w": normal(3, 8, 12)}, {"w": jnp.ones((3, 8, 12), bool)}
    _, _, report = kernels.rewrite(function, params, masks, normal(5, 8, seed=3), layout={"w": "stack in out"})
    assert report.why == {"w": "has layers that the product does not go through one by one"}


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(jax.nn.relu(nn.Dense(16)(x)))


MODEL = Perceptron()
X, Y = normal(20, 8, seed=1), normal(20, 4, seed=2)


def started(**extra):
    """A network with balanced blocks, in the middle of its first mask period."""
    method = methods.rigl(
        **dict(sparsity=0.5, distribution="uniform", drop_fraction=0.5, update_period=4, end_step=30) | extra,
        structure=block(4, 2, balanced=True),
    )
    tx = dstjax.sparsify(optax.adamw(0.01), method, track=("exploration",))
    params, opt_state = dstjax.start(tx, MODEL.init(jax.random.key(0), X)["params"])
    return method, tx, params, opt_state


def network(params, x):
    return MODEL.apply({"params": params}, x)


def test_training_between_mask_updates_is_that_of_the_masked_network():
    """Twelve steps, three mask updates: the same weights, moments and masks; the packed step is compiled once."""
    method, tx, params, opt_state = started()
    traces = []

    def loss(function, params):
        return jnp.mean((function(params, X) - Y) ** 2)

    @functools.partial(jax.jit, static_argnames="rewire")
    def dense_step(params, opt_state, rewire):
        gradients = jax.grad(functools.partial(loss, network))(params)
        updates, opt_state = tx.update(gradients, opt_state, params, rewire=rewire)
        return optax.apply_updates(params, updates), opt_state

    @jax.jit
    def packed_step(fast, packed, opt_state):
        traces.append(1)
        gradients = jax.grad(functools.partial(loss, fast))(packed)
        updates, opt_state = tx.update(gradients, opt_state, packed, rewire=False)
        return optax.apply_updates(packed, updates), opt_state

    expected, expected_state = params, opt_state
    fast, packed, report = kernels.rewrite(network, params, opt_state, X, product="block", block=(4, 2))
    assert {*report.chosen.values()} == {"block"}
    packed_state = fast.pack_state(opt_state)
    first = dstjax.get_masks(opt_state)
    for t in range(1, 13):
        expected, expected_state = dense_step(expected, expected_state, bool(method.is_update_step(t)))
        if method.is_update_step(t):
            opt_state = fast.unpack_state(packed_state, opt_state)
            params, opt_state = dense_step(fast.unpack(packed), opt_state, True)
            fast = fast.moved(opt_state)
            packed, packed_state = fast.pack(params), fast.pack_state(opt_state)
        else:
            packed, packed_state = packed_step(fast, packed, packed_state)
    back = fast.unpack_state(packed_state, opt_state)
    assert relative(expected, fast.unpack(packed)) < 1e-4
    assert jax.tree.structure(back) == jax.tree.structure(expected_state)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(expected_state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-3, atol=1e-5)
    masks = dstjax.get_masks(back)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(masks), strict=True))
    assert len(traces) == 1, "balanced masks move without a new program"
    assert dstjax.check_sparse(fast.unpack(packed), back)


def test_auto_measures_each_leaf_and_takes_the_fastest(monkeypatch):
    monkeypatch.setattr(products, "_SECONDS", 0.02)
    _, _, params, opt_state = started()
    fast, packed, report = kernels.rewrite(network, params, opt_state, X[:1], derivative=False)
    for path, times in report.seconds.items():
        assert {"dense", "block", "fan_in", "csr"} <= {*times}
        assert report.chosen[path] == min(times, key=times.get)
        assert report.rows[path] == 1
        assert f"csr {times['dense'] / times['csr']:.3g}" in str(report)
    assert relative(network(params, X), fast(packed, X)) < 1e-5, "other arguments are traced anew"
    again = kernels.rewrite(network, params, opt_state, X[:1], product=report.chosen)[2]
    assert again.chosen == report.chosen
    assert not again.seconds, "what was measured once can be said"


@pytest.mark.parametrize("product", ["csr", "fan_in"])
def test_single_weights(product):
    """Of another number for each output; a product of scipy has no derivative, and says so."""
    params = {"w": normal(8, 12)}
    masks = {"w": jnp.asarray(np.random.default_rng(0).random((8, 12)) < 0.4)}
    params, x = dstjax.masks.apply(params, masks), normal(5, 8, seed=3)
    fast, packed, _ = kernels.rewrite(einsum, params, masks, x, product=product)
    assert relative(einsum(params, x), fast(packed, x)) < 1e-5
    assert relative(params, fast.unpack(packed)) == 0
    if product == "csr":
        assert packed["w"].size == masks["w"].sum()
        with pytest.raises(ValueError, match="has no derivative"):
            jax.grad(lambda p: fast(p, x).sum())(packed)


def test_weights_of_eight_bits_stay_dense():
    params, x = {"w": jnp.ones((8, 8), jnp.float8_e4m3fn)}, jnp.ones((1, 8), jnp.float8_e4m3fn)
    masks = {"w": jnp.ones((8, 8), bool)}
    report = kernels.rewrite(lambda p, x: x @ p["w"], params, masks, x)[2]
    assert report.why == {"w": "there is no product of weights of float8_e4m3fn"}
    with pytest.raises(ValueError, match="product='block' fits no masked leaf: w there is no product"):
        kernels.rewrite(lambda p, x: x @ p["w"], params, masks, x, product="block")


def test_the_names_of_the_docs_can_be_imported():
    kernels_again, latency_again = (importlib.import_module(f"dstjax.{name}") for name in ("kernels", "latency"))
    assert kernels_again is dstjax.kernels
    assert latency_again is dstjax.latency
