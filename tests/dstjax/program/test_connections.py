"""What leads from the data to the results, against the derivatives of the networks themselves."""

import functools
import itertools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import dstjax
from dstjax._arrays.leaves import named
from dstjax.program import connections
from experiments import models
from tests import transformers
from tests.thorough import few, slow


def drawn(seed, density, **shapes):
    """Masks of some density of leaves of two or more axes, None for the others."""
    rng = np.random.default_rng(seed)
    return {n: rng.random(s) < density if len(s) > 1 else None for n, s in shapes.items()}


def shapes_of(masks, **others):
    return {n: m.shape for n, m in masks.items() if m is not None} | others


def positive(seed, shapes, masks):
    """Positive weights where the masks are set: what is positive cannot cancel, and every ReLU is open."""
    rng = np.random.default_rng(seed)
    found = {n: rng.uniform(0.5, 1.5, s).astype(np.float32) for n, s in shapes.items()}
    return {n: x if masks.get(n) is None else x * masks[n] for n, x in found.items()}


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def by_derivatives(function, params, x):
    """How the results move with the data, and how that changes with each weight."""

    def slope(params):
        moved = jax.jvp(lambda x: function(params, x), (x,), (jnp.ones_like(x),))[1]
        return sum(jnp.sum(r) for r in jax.tree.leaves(moved))

    return jax.value_and_grad(slope)(params)


def relu(x):
    return jnp.maximum(x, 0)


def mlp(p, x):
    x = relu(x @ p["a"] + p["bias"][None])
    return relu(x @ p["b"]) @ p["c"]


def residual(p, x):
    x = jnp.where(x @ p["a"] > 0, x @ p["a"], 0.0)
    x = x + relu(jnp.concatenate([x[:, :3], x[:, 3:]], axis=1) @ p["b"])
    return x.reshape(2, -1) @ p["c"]


def convolution(p, x):
    dims = ("NHWC", "HWIO", "NHWC")
    x = relu(lax.conv_general_dilated(x, p["a"], (1, 1), "SAME", rhs_dilation=(2, 2), dimension_numbers=dims))
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = relu(lax.conv_general_dilated(x, p["b"], (1, 1), "SAME", dimension_numbers=dims, feature_group_count=2))
    x = lax.conv_transpose(x, p["c"], (2, 2), "SAME", dimension_numbers=dims)
    return nn.avg_pool(x, (2, 2), (2, 2)).mean(axis=(1, 2))


def attention(p, x):
    q, k, v = (jnp.einsum("td,dhk->htk", x, p[n]) for n in "abc")
    mixed = jnp.where(jnp.tril(jnp.ones((3, 3), bool)), jnp.einsum("htk,hsk->hts", q, k), 0) @ v
    return jnp.einsum("htk,hkd->td", mixed, p["d"])


def recurrent(p, x):
    def cell(carry, x):
        h, count = carry
        h = relu(h @ p["b"] + x @ p["a"] + p["bias"])
        return (h, count + 1), h * (count > 0)

    (_, _), all_of_them = lax.scan(cell, (jnp.zeros(6), 0), x)
    return all_of_them[-1] @ p["c"]


def layers(p, x):
    x = x @ p["a"]
    x, _ = lax.scan(jax.checkpoint(lambda x, w: (relu(x @ w), None)), x, p["b"])
    return jax.jit(lambda x, w: jnp.take(x @ w.T, jnp.array([0, 2]), axis=1))(x, p["c"])


def experts(p, x):
    x = jax.vmap(lambda w, x: relu(x @ w), (0, None))(p["a"], x)
    return sum(jax.vmap(jnp.matmul)(x, p["b"]))


def sliced(p, x):
    x = lax.dynamic_slice(x @ p["a"], (0, 1), (2, 4))
    x = jnp.zeros((2, 6)).at[:, 1:5].add(x).at[:, 2].multiply(2.0)
    x = jnp.pad(jnp.cumsum(x, axis=1), ((0, 0), (1, 0)))
    return jnp.sort(jnp.split(x, [3], axis=1)[1] @ p["b"], axis=1)


CASES = {
    "mlp": (mlp, (2, 5), 0.08, dict(a=(5, 6), b=(6, 6), c=(6, 3)), dict(bias=(6,))),
    "residual": (residual, (4, 5), 0.05, dict(a=(5, 6), b=(6, 6), c=(12, 3)), {}),
    "convolution": (convolution, (2, 8, 8, 2), 0.03, dict(a=(3, 3, 2, 4), b=(3, 3, 2, 6), c=(3, 3, 6, 2)), {}),
    "attention": (attention, (3, 4), 0.2, dict(a=(4, 2, 3), b=(4, 2, 3), c=(4, 2, 3), d=(2, 3, 4)), {}),
    "recurrent": (recurrent, (3, 4), 0.2, dict(a=(4, 6), b=(6, 6), c=(6, 2)), dict(bias=(6,))),
    "layers": (layers, (2, 4), 0.12, dict(a=(4, 5), b=(3, 5, 5), c=(3, 5)), {}),
    "experts": (experts, (2, 4), 0.07, dict(a=(3, 4, 5), b=(3, 5, 2)), {}),
    "sliced": (sliced, (2, 5), 0.1, dict(a=(5, 6), b=(4, 3)), {}),
}


@few(2)
@pytest.mark.parametrize("name", CASES)
def test_weights_are_effective_where_derivatives_say_so(name):
    function, data, density, shapes, others = CASES[name]
    x = np.random.default_rng(0).uniform(0.5, 1.5, data).astype(np.float32)
    drawings = [drawn(seed, density * (1 + seed % 3), **shapes) for seed in range(12)]
    networks = [positive(seed, shapes | others, masks) for seed, masks in enumerate(drawings)]
    totals, slopes = jax.jit(jax.vmap(functools.partial(by_derivatives, function), (0, None)))(stacked(networks), x)
    found = jax.jit(jax.vmap(lambda masks: connections(function, networks[0], masks, x)))(stacked(drawings))
    assert not found.unread
    np.testing.assert_array_equal(found.collapsed, totals == 0)
    for path in shapes:
        masks = np.stack([one[path] for one in drawings])
        np.testing.assert_array_equal(found.effective[path], (slopes[path] != 0) & masks, err_msg=path)
    fates = set()
    for seed in range(12):
        one = jax.tree.map(operator.itemgetter(seed), found)
        fates.add((bool(one.collapsed), bool(one.idle)))
        assert one.broken_at or not one.collapsed or name not in ("mlp", "convolution", "experts")
    assert len(fates) > 1  # or the cases show nothing


def test_an_input_that_is_dead_in_one_group_alone():
    kernel, weights = np.ones((3, 3, 2, 6), bool), np.zeros((3, 3, 2, 6), np.float32)
    kernel[:, :, 1, :3] = False  # the second input of the first group
    dims = ("NHWC", "HWIO", "NHWC")

    def function(p, x):
        return lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=dims, feature_group_count=2)

    found = connections(function, {"w": weights}, {"w": kernel}, np.zeros((1, 4, 4, 4), np.float32))
    assert found.dead["w"] == (1, 0)
    kernel[..., 4] = False
    assert connections(function, {"w": weights}, {"w": kernel}, np.zeros((1, 4, 4, 4), np.float32)).dead["w"] == (1, 1)


def test_units_die_in_a_cascade():
    masks = {n: np.ones((4, 4), bool) for n in "abc"}
    masks["a"][:, 0] = False  # a unit without inputs, though its bias is not zero
    masks["c"][1] = False  # a unit without outputs

    def function(p, x):
        return jnp.tanh(jnp.tanh(x @ p["a"] + p["bias"]) @ p["b"]) @ p["c"]

    found = connections(function, masks | {"bias": np.zeros((1, 4))}, masks, np.zeros((1, 4), np.float32))
    assert found.dead == {"a": (0, 1), "b": (1, 1), "c": (1, 0)}
    assert {n: int(k) for n, k in found.n_effective.items()} == {"a": 12, "b": 9, "c": 12}
    assert str(found) == "active weights of every masked leaf lead from the data to the results."


def test_of_a_residual_network_a_block_may_be_idle():
    masks = {"a": np.ones((4, 4), bool), "b": np.zeros((4, 4), bool)}
    params = {n: np.zeros((4, 4), np.float32) for n in "ab"}
    found = connections(lambda p, x: x + nn.relu(x @ p["a"]) @ p["b"], params, masks, np.zeros((1, 4), np.float32))
    assert not found.collapsed
    assert found.idle == ("a", "b")
    assert found.broken_at == ("b",)
    assert str(found) == "no active weight of a, b lies on a way from the data to the results."


def test_a_table_is_looked_up_by_data():
    masks = {"table": np.arange(15).reshape(5, 3) % 3 < 2, "out": np.arange(6).reshape(3, 2) < 4}
    ids = np.zeros((2, 4), np.int32)
    found = connections(lambda p, i: p["table"][i] @ p["out"], masks, masks, ids)
    assert found.dead == {"table": (0, 1), "out": (1, 0)}
    assert not found.unread
    empty = connections(lambda p, i: p["table"][i], masks, {"table": np.zeros((5, 3), bool), "out": None}, ids)
    assert (bool(empty.collapsed), empty.broken_at) == (True, ("table",))


def test_targets_and_keys():
    masks = {"w": np.zeros((3, 2), bool)}
    x, y, key = np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32), jax.random.key(0)

    def loss(y, p, x, key):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.sum(jnp.square(jnp.where(kept, x, 0) @ p["w"] - y))

    assert connections(functools.partial(loss, y), masks, masks, x, key).collapsed
    assert not connections(functools.partial(loss, y), masks, {"w": ~masks["w"]}, x, key).collapsed
    assert not connections(lambda p, x, y: loss(y, p, x, key), masks, masks, x, y).collapsed  # the loss sees y


def test_what_cannot_be_read_connects_everything_and_is_named():
    masks = {"w": np.ones((3, 3), bool), "v": np.zeros((3, 3), bool)}

    def function(p, x):
        called = jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((1, 3), jnp.float32), x @ p["w"])
        return called[:, :1], lax.while_loop(lambda c: jnp.sum(c) < 5, lambda c: c + 1, called)

    found = connections(function, masks, masks, np.zeros((1, 3), np.float32))
    assert found.unread == ("pure_callback", "while")
    assert (int(found.n_effective["w"]), bool(found.collapsed)) == (9, False)
    assert str(found).endswith("Taken to connect everything: pure_callback, while.")


def test_under_a_trace_and_for_several_networks():
    shapes = dict(a=(3, 3), b=(3, 2))
    masks = {n: np.stack([np.ones(s, bool), np.zeros(s, bool)]) for n, s in shapes.items()}
    params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}

    @jax.jit
    @jax.vmap
    def found(masks):
        return connections(lambda p, x: jnp.cumsum(x @ p["a"], axis=1) @ p["b"], params, masks, jnp.zeros((1, 3)))

    assert found(masks).collapsed.tolist() == [False, True]
    assert found(masks).broken_at == ("a",)


def test_masks_that_do_not_fit():
    params = {"w": np.zeros((3, 2))}
    for masks, message in (({"v": params["w"] > 0}, "'v', which is no leaf"), ({"w": np.ones(3, bool)}, r"\(3,\)")):
        with pytest.raises(ValueError, match=message):
            connections(lambda p, x: x @ p["w"], params, masks, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="no data"):
        connections(lambda p: p["w"], params, {"w": params["w"] == 0})


def deep(p, x):
    for w in p.values():
        x = nn.relu(x @ w)
    return x


def collapsing(name):
    """A network and masks that are known to cut it."""
    rng = np.random.default_rng(0)
    widths = [20, 20, 300, 300, 10]
    params = {
        n: jnp.asarray(rng.uniform(0.5, 1.5, s) * (0.01 if n == "c" else 1), jnp.float32)
        for n, s in zip("abcd", itertools.pairwise(widths), strict=True)
    }
    if name == "flow":
        return params, dstjax.initial_masks.synflow(deep, params, (20,), sparsity=0.99, rounds=1, scope="global")
    if name == "magnitude":
        return params, dstjax.initial_masks.magnitude(params, sparsity=0.999, scope="global")
    return params, dstjax.sparsify(optax.sgd(0.1), dstjax.methods.static(sparsity=0.999)).init(params)


@few(2)
@pytest.mark.parametrize("name", ["flow", "magnitude", "erk"])
def test_layer_collapse(name):
    params, masks = collapsing(name)
    x = np.ones((1, 20), np.float32)
    weights = jax.tree.map(jnp.abs, dstjax.apply_masks(params, masks))
    outputs, gradients = jax.jit(jax.value_and_grad(lambda p: deep(p, x).sum()))(weights)
    assert outputs == 0
    assert not any(np.any(g) for g in jax.tree.leaves(gradients))
    found = connections(deep, params, masks, x)
    assert found.collapsed
    assert found.broken_at
    assert "the network cannot learn" in str(found)


def linen(module, *args):
    variables = jax.eval_shape(lambda *args: module.init(jax.random.key(0), *args), *args)
    params = variables.pop("params")
    rest = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), variables)
    return lambda p, *args: module.apply({"params": p, **rest}, *args), params


def test_an_lstm():
    function, params = linen(nn.RNN(nn.LSTMCell(3)), np.zeros((1, 4, 2), np.float32))
    masks = jax.tree.map(lambda s: np.zeros(s.shape, bool) if len(s.shape) > 1 else None, params)
    cell = masks["cell"]
    cell["ig"]["kernel"][0, 0] = cell["hg"]["kernel"][0, 1] = cell["io"]["kernel"][1, 2] = True
    found = connections(function, params, masks, np.zeros((1, 4, 2), np.float32))
    counts = {n: int(k) for n, k in found.n_effective.items() if k}
    # Cells 0 and 1 hold data; that of 2 holds its bias, and its output gate lets it out.
    assert counts == {"cell/ig/kernel": 1, "cell/hg/kernel": 1, "cell/io/kernel": 1}
    assert not found.unread


NETWORKS = [n if n in ("conv", "small_mlp") else slow(n) for n in models.names()]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_experiments(name):
    entry = models.MODELS[name]
    shape = (32, 32, 3) if len(entry.shape) == 3 and entry.shape[0] > 32 else entry.shape
    x = np.zeros((1, *shape), np.float32)
    model = models.make(name)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    params = variables.pop("params")
    rest = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), variables)
    masks = jax.tree.map(lambda s: np.ones(s.shape, bool) if len(s.shape) > 1 else None, params)
    found = connections(lambda p, x: model.apply({"params": p, **rest}, x, train=False), params, masks, x)
    assert not found.unread
    assert not found.collapsed
    assert not found.idle
    last = [*found.dead][-1]
    assert all(not d.outputs for d in found.dead.values()), last


@pytest.mark.parametrize("name", ["linen_scan", slow("linen"), slow("nnx"), slow("equinox")])
def test_a_transformer(name):
    way = transformers.WAYS[name]
    tokens, targets = transformers.batch(size=1)
    params = way.shapes()
    layout = dstjax.program.layouts(way.loss, params, (tokens, targets))
    masks = {p: None if layout[p] is None else np.ones(s.shape, bool) for p, s in named(params).items()}
    tree = jax.tree.unflatten(jax.tree.structure(params), [*masks.values()])
    both = stacked([tree, jax.tree.map(lambda m: m & False, tree)])
    found = jax.jit(
        jax.vmap(lambda tree: connections(lambda p, tokens: way.loss(p, (tokens, targets)), params, tree, tokens))
    )(both)
    assert not found.unread
    assert all(np.all(n[0]) and not np.any(n[1]) for n in found.n_effective.values())
