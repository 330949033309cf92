"""What the program says of whole networks, against what the names of their leaves say."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dstjax
from dstjax import program
from dstjax._arrays import leaves
from experiments import models
from tests import transformers
from tests.thorough import few, slow


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def named(params):
    """What the presets say of leaves, without those that they do not know."""
    found = dstjax.layouts.read(None, leaves.named(params))
    return {path: None if layout is None else str(layout) for path, layout in found.items() if layout != "?"}


def assert_agree(found, params, unknown=()):
    """The program reads every leaf, and the presets say the same of all but the leaves named here."""
    expected = named(params)
    assert not found.unread
    assert {path: layout for path, layout in found.items() if path in expected} == expected
    assert {*found} - {*expected} == {*unknown}
    found.check()


def linen(module, *args, **options):
    """Parameters by their shapes, and layouts as a forward pass has them."""
    variables = jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, **options), *args)
    params = variables.pop("params")

    def forward(params, rest, *args):
        return module.apply({"params": params, **rest}, *args, **options, mutable=True, rngs=jax.random.key(0))

    return params, program.layouts(forward, params, variables, *args)


# --- Networks of the experiments --------------------------------------------------------------------------------------


# The slow ones have the layers of others in other sizes.
@few(4)
@pytest.mark.parametrize("name", [slow(n) if n in ("resnet50_cifar", "vgg16") else n for n in models.names()])
def test_networks_of_the_experiments(name):
    x = f32(2, *models.MODELS[name].shape)
    params, found = linen(models.make(name), x, train=True)
    assert_agree(found, params)
    for (path, layout), shape in zip(found.items(), found.shapes, strict=True):
        assert (layout is not None) == path.endswith("kernel")
        assert layout is None or len(str(layout).split()) == len(shape)


def seeds(tree):
    return jax.tree.map(lambda leaf: f32(3, *leaf.shape), tree)


@pytest.mark.parametrize("name", ["conv", "mobilenet_v1"])
@pytest.mark.parametrize("shared", [False, True])
def test_networks_of_several_seeds(name, shared):
    model, x = models.make(name), f32(2, *models.MODELS[name].shape)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    params = variables.pop("params")

    def forward(params, rest, x):
        return model.apply({"params": params, **rest}, x, train=False)

    alone = program.layouts(forward, params, variables, x)
    axes = (0, 0, None if shared else 0)
    found = program.layouts(jax.vmap(forward, axes), seeds(params), seeds(variables), x if shared else seeds(x))
    assert found == {path: layout and f"stack {layout}" for path, layout in alone.items()}


# --- One transformer written four ways --------------------------------------------------------------------------------

KERNELS = {"query", "key", "value", "out", "up", "down"}


@pytest.mark.parametrize("name", transformers.WAYS)
def test_a_transformer(name):
    way = transformers.WAYS[name]
    found = program.layouts(way.loss, way.shapes(), jax.eval_shape(transformers.batch))
    assert_agree(found, way.shapes())
    # By name and layer: kernels are weights, the embedding is a table, the rest are none.
    leaves, structure = jax.tree_util.tree_flatten(way.shapes())
    filled = structure.unflatten([np.full(leaf.shape, i) for i, leaf in enumerate(leaves)])
    said = {where: [*found.values()][int(array.flat[0])] for where, array in way.canonical(filled).items()}
    for (layer, leaf), layout in said.items():
        words = {None} if layout is None else set(layout.split())
        if leaf in KERNELS:
            assert words == {"in", "out"} | ({"stack"} if way.is_stacked else set()), (layer, leaf)
        else:
            assert words == {"embed": {"lookup", "out"}, "head": {"in", "out"}}.get(leaf, {None}), (layer, leaf)
    assert {layer for layer, _ in said} == {None, *map(str, range(transformers.LAYERS))}


@pytest.mark.parametrize("name", transformers.WAYS)
def test_transformers_of_several_seeds_on_one_batch(name):
    way, batch = transformers.WAYS[name], jax.eval_shape(transformers.batch)
    alone = program.layouts(way.loss, way.shapes(), batch)
    found = program.layouts(jax.vmap(way.loss, (0, None)), seeds(way.shapes()), batch)
    assert found == {path: layout and f"stack {layout}" for path, layout in alone.items()}


@pytest.fixture(scope="module")
def written_out():
    way = transformers.WAYS["linen"]
    loss, gradient = jax.jit(jax.value_and_grad(way.loss))(way.params(transformers.weights()), transformers.batch())
    return loss, way.canonical(gradient)


@few(2)
@pytest.mark.parametrize("name", [name for name in transformers.WAYS if name != "linen"])
def test_the_four_transformers_are_one_network(name, written_out):
    way, weights = transformers.WAYS[name], transformers.weights()
    params = way.params(weights)
    assert way.canonical(params).keys() == weights.keys()
    for where, array in way.canonical(params).items():
        np.testing.assert_array_equal(array, weights[where])
    loss, gradient = jax.jit(jax.value_and_grad(way.loss))(params, transformers.batch())
    np.testing.assert_allclose(loss, written_out[0], rtol=1e-5)
    found = way.canonical(gradient)
    assert found.keys() == weights.keys()
    for where, expected in written_out[1].items():
        np.testing.assert_allclose(found[where], expected, atol=1e-5)
        assert np.any(expected) or where[1] == "key/bias"


# --- Flax Linen -------------------------------------------------------------------------------------------------------


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        down = nn.relu(nn.GroupNorm(2, name="norm")(nn.Conv(4, (3, 3), name="conv_in")(x)))
        low = nn.relu(nn.Conv(8, (3, 3), (2, 2), name="conv_low")(down))
        up = nn.ConvTranspose(4, (2, 2), (2, 2), name="conv_up")(low)
        both = jnp.concatenate([up, jax.image.resize(down, up.shape, "nearest")], axis=-1)
        return nn.Conv(3, (1, 1), name="conv_out")(both)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.SpectralNorm(nn.Dense(5, name="dense_0"))(x, update_stats=True)
        return nn.WeightNorm(nn.Dense(4, name="dense_1"))(x)


LINEN = {
    "attention": (nn.MultiHeadDotProductAttention(4, qkv_features=8), f32(2, 7, 6)),
    "one head": (nn.MultiHeadDotProductAttention(1, qkv_features=8), f32(2, 7, 6)),
    "heads of one": (nn.MultiHeadDotProductAttention(8, qkv_features=8), f32(2, 7, 6)),
    "lstm": (nn.RNN(nn.LSTMCell(5)), f32(2, 7, 6)),
    "fused lstm": (nn.RNN(nn.OptimizedLSTMCell(5)), f32(2, 7, 6)),
    "gru": (nn.RNN(nn.GRUCell(5)), f32(2, 7, 6)),
    "unet": (UNet(), f32(2, 8, 8, 3)),
    "normed": (Normed(), f32(2, 6)),
    "depthwise": (nn.Conv(6, (3, 3), feature_group_count=6, name="conv"), f32(2, 8, 8, 6)),
    "circular": (nn.Conv(6, (3,), padding="CIRCULAR", name="conv"), f32(2, 8, 6)),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
    module, x = LINEN[name]
    params, found = linen(module, x)
    if name in ("depthwise", "circular"):
        assert [*found.values()] == [None, " ".join([*["window"] * (len(x.shape) - 2), "in", "out"])]
    else:
        assert_agree(found, params)


def test_a_dense_layer_over_several_axes():
    _, found = linen(nn.DenseGeneral((2, 3), axis=(1, 3)), f32(2, 4, 5, 6))
    assert dict(found) == {"bias": None, "kernel": "in in out out"}
    _, found = linen(nn.DenseGeneral(3, axis=-1, batch_dims=(0,)), f32(4, 5, 6))
    assert found["kernel"] == "stack in out"
    _, found = linen(nn.ConvLocal(3, (2, 2)), f32(2, 5, 5, 6))  # a convolution that shares no weights
    assert found["kernel"] == "stack stack in out"


# --- Haiku ------------------------------------------------------------------------------------------------------------


def haiku_networks(x, tokens):
    image = hk.Conv2D(4, 3)(x)
    image = hk.DepthwiseConv2D(2, 3)(image)
    image = hk.Conv2DTranspose(4, 3, stride=2)(hk.BatchNorm(True, True, 0.9)(image, is_training=True))
    flat = hk.nets.MLP([8, 5])(image.reshape(2, -1))
    text = hk.Embed(11, 8)(tokens)
    text = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling())(text, text, text)
    steps, _ = hk.dynamic_unroll(hk.LSTM(5), text.swapaxes(0, 1), hk.LSTM(5).initial_state(2))
    return flat + hk.LayerNorm(-1, True, True)(steps[-1])


def test_haiku():
    network = hk.transform_with_state(haiku_networks)
    x, tokens = f32(2, 4, 4, 3), jax.ShapeDtypeStruct((2, 7), jnp.int32)
    params, state = jax.eval_shape(network.init, jax.random.key(0), x, tokens)
    found = program.layouts(lambda p, s, x, t: network.apply(p, s, None, x, t), params, state, x, tokens)
    known = {path: layout for path, layout in found.items() if "transpose" not in path}
    assert not found.unread
    assert known == {path: layout for path, layout in named(params).items() if path in known}
    assert found["conv2_d_transpose/w"] == "window window out in"
    assert found["embed/embeddings"] == "lookup out"


# --- Equinox ----------------------------------------------------------------------------------------------------------


def equinox(model, *args):
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return params, program.layouts(lambda p, *a: jax.vmap(eqx.combine(p, static))(*a), params, *args)


class Recurrent(eqx.Module):
    lstm: eqx.nn.LSTMCell
    gru: eqx.nn.GRUCell
    linear: eqx.nn.Linear

    def __call__(self, x):
        def step(carry, x):
            first, second = carry
            first = self.lstm(x, first)
            return (first, self.gru(first[0], second)), None

        carry, _ = jax.lax.scan(step, ((jnp.zeros(5), jnp.zeros(5)), jnp.zeros(5)), x)
        return self.linear(carry[1])


def keys(n):
    return jax.random.split(jax.random.key(0), n)


def test_equinox_recurrent():
    a, b, c = keys(3)
    model = Recurrent(eqx.nn.LSTMCell(6, 5, key=a), eqx.nn.GRUCell(5, 5, key=b), eqx.nn.Linear(5, 2, key=c))
    params, found = equinox(model, f32(2, 7, 6))
    assert_agree(found, params)
    assert found["lstm/weight_hh"] == "out in"


def test_equinox_convolutions():
    a, b, c, d = keys(4)
    layers = [
        eqx.nn.Conv2d(3, 4, 3, key=a),
        eqx.nn.GroupNorm(2, 4),
        eqx.nn.Conv2d(4, 8, 3, groups=4, key=b),
        eqx.nn.ConvTranspose2d(8, 4, 3, key=c),
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(4 * 6 * 6, 2, key=d),
    ]
    params, found = equinox(eqx.nn.Sequential(layers), f32(2, 3, 8, 8))
    assert not found.unread
    assert [layout for layout in found.values() if layout] == [*["out in window window"] * 3, "out in"]
    assert named(params).items() <= {**found}.items()


# --- What no framework has a layer for --------------------------------------------------------------------------------


def test_a_graph_network():
    """Messages along the edges, summed at the receivers."""
    params = {
        "embed": f32(9, 6),
        "edge": {"kernel": f32(12, 8), "bias": f32(8)},
        "node": {"kernel": f32(14, 6), "bias": f32(6)},
        "attention": f32(2, 4),
    }

    def function(p, kinds, senders, receivers):
        x = p["embed"][kinds]
        for _ in range(2):
            pair = jnp.concatenate([x[senders], x[receivers]], axis=1)
            messages = jnp.tanh(pair @ p["edge"]["kernel"] + p["edge"]["bias"][None])
            weight = jnp.einsum("ehd,hd->eh", messages.reshape(-1, 2, 4), p["attention"]).mean(1, keepdims=True)
            summed = jax.ops.segment_sum(messages * weight, receivers, num_segments=5)
            x = jnp.concatenate([x, summed], axis=1) @ p["node"]["kernel"] + p["node"]["bias"][None]
        return x

    edges = jax.ShapeDtypeStruct((13,), jnp.int32)
    found = program.layouts(function, params, jax.ShapeDtypeStruct((5,), jnp.int32), edges, edges)
    assert_agree(found, params, unknown=["attention"])
    assert found["attention"] is None  # a vector for each head
    assert found["embed"] == "lookup out"


def test_experts_of_nnx():
    """Experts made by vmap, all of which see each token, and one that is picked by its index."""

    @nnx.split_rngs(splits=5)
    @nnx.vmap(in_axes=0, out_axes=0)
    def experts(rngs):
        return nnx.Linear(6, 8, rngs=rngs)

    graph, params = nnx.split(nnx.eval_shape(lambda: nnx.Dict(experts=experts(nnx.Rngs(0)))), nnx.Param)

    def function(params, x):
        model = nnx.merge(graph, params)
        return nnx.vmap(lambda expert, x: expert(x), in_axes=(0, 0))(model.experts, x)

    found = program.layouts(function, params, f32(5, 7, 6))
    assert {path.split("/")[1]: layout for path, layout in found.items()} == {"bias": None, "kernel": "stack in out"}
    assert named(params).items() <= {**found}.items()
    method = dstjax.methods.srigl(sparsity=0.5, end_step=200)
    state = dstjax.sparsify(optax.sgd(0.1), method, layout=found).init(
        jax.tree.map(lambda x: jnp.ones(x.shape), params)
    )
    (mask,) = jax.tree.leaves(dstjax.get_masks(state))
    assert len({*np.asarray(mask.sum(1)).reshape(-1).tolist()}) == 1  # equally many inputs: the layout was taken


@pytest.mark.parametrize("box", [nnx.Param, nn.Partitioned], ids=lambda c: c.__name__)
def test_leaves_in_boxes_have_the_names_that_sparsify_asks_for(box):
    def boxed(x):
        return box(x) if box is nnx.Param else box(x, names=(None, None))

    params = {"m": {"w": boxed(jnp.ones((16, 8)))}, "m/w": boxed(jnp.ones((4, 8)))}

    def network(p, x):
        return jnp.tanh(x @ jax.tree.leaves(p["m"])[0]) @ jax.tree.leaves(p["m/w"])[0].T

    found = program.layouts(network, params, f32(2, 16))
    assert {**found} == {"m/w": "in out", "m//w": "out in"}
    tx = dstjax.sparsify(optax.sgd(0.1), dstjax.methods.srigl(sparsity=0.75, end_step=200), layout=found)
    inward, outward = (np.asarray(m) for m in jax.tree.leaves(dstjax.get_masks(tx.init(params))))
    assert len({*inward.sum(0).tolist()}) == len({*outward.sum(1).tolist()}) == 1
    with pytest.raises(ValueError, match=r"the layout is that of other leaves: \['m/w', 'm//w'\]; expected some of"):
        tx.init({"other": jnp.ones((4, 4))})
