"""Names and axes of PyTorch against its documented formulas in NumPy, and masks as torch.nn.utils.prune keeps them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dstjax
from dstjax import exchange, layouts, methods
from tests import trees

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 6, 3)), jnp.float32)


# --- The formulas of PyTorch's documentation, for one sample, channels first --------------------------------------


def linear(w, b, x):
    return w @ x + b


def conv2d(w, b, x):
    """Cross-correlation: out[o, i, j] = b[o] + sum of w[o, c, k, l] x[c, i + k, j + l], without padding."""
    (outs, _, kh, kw), (_, h, width) = w.shape, x.shape
    out = np.zeros((outs, h - kh + 1, width - kw + 1))
    for i, j in np.ndindex(*out.shape[1:]):
        out[:, i, j] = np.einsum("ockl,ckl->o", w, x[:, i : i + kh, j : j + kw]) + b
    return out


def conv_transpose2d(w, b, x, stride):
    """Spreads each input over the output: out[o, s i + k, s j + l] += w[c, o, k, l] x[c, i, j]."""
    (_, outs, kh, kw), (_, h, width) = w.shape, x.shape
    out = np.zeros((outs, (h - 1) * stride + kh, (width - 1) * stride + kw))
    for i, j in np.ndindex(h, width):
        out[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += np.einsum("cokl,c->okl", w, x[:, i, j])
    return out + b[:, None, None]


def batch_norm(w, b, mean, var, x):
    shape = (-1,) + (1,) * (x.ndim - 1)
    return (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5) * w.reshape(shape) + b.reshape(shape)


def layer_norm(w, b, x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * w + b


def variables_of(module, *inputs):
    """Variables whose numbers are all different."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 1.0, s.shape), s.dtype), shapes)


def assert_round_trip(state_dict, variables, masks=None, **arguments):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    found, flags = exchange.from_torch(state_dict, shapes, **arguments)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    trees.assert_same(found, jax.device_get(variables))
    for name, mask in trees.names(flags).items():
        np.testing.assert_array_equal(mask, trees.names(masks)[name])
    assert trees.names(flags).keys() == trees.names(masks or {}).keys()


def channels_first(x):
    return np.moveaxis(np.asarray(x, np.float64), -1, 0)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 2), padding="VALID")(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.ConvTranspose(5, (2, 3), strides=(2, 2), padding="VALID")(x)
        x = nn.LayerNorm()(x.mean(axis=(1, 2)))
        return nn.Dense(3)(x)


def test_a_network_computes_the_same_by_the_formulas_of_pytorch():
    variables = variables_of(Network(), X)
    state = exchange.to_torch(variables)
    assert {n: x.shape for n, x in state.items()} == {
        "BatchNorm_0.weight": (4,),
        "BatchNorm_0.bias": (4,),
        "BatchNorm_0.running_mean": (4,),
        "BatchNorm_0.running_var": (4,),
        "Conv_0.weight": (4, 3, 3, 2),
        "Conv_0.bias": (4,),
        "ConvTranspose_0.weight": (4, 5, 2, 3),
        "ConvTranspose_0.bias": (5,),
        "LayerNorm_0.weight": (5,),
        "LayerNorm_0.bias": (5,),
        "Dense_0.weight": (3, 5),
        "Dense_0.bias": (3,),
    }
    assert all(x.flags.c_contiguous for x in state.values())
    part = lambda module, *names: [state[f"{module}.{n}"].astype(np.float64) for n in names]  # noqa: E731
    for sample, expected in zip(X, Network().apply(variables, X), strict=True):
        y = conv2d(*part("Conv_0", "weight", "bias"), channels_first(sample))
        y = batch_norm(*part("BatchNorm_0", "weight", "bias", "running_mean", "running_var"), y)
        y = conv_transpose2d(*part("ConvTranspose_0", "weight", "bias"), y, stride=2)
        y = layer_norm(*part("LayerNorm_0", "weight", "bias"), y.mean(axis=(1, 2)))
        np.testing.assert_allclose(linear(*part("Dense_0", "weight", "bias"), y), expected, rtol=2e-4)
    assert_round_trip(state, variables)
    assert_round_trip({**state, "BatchNorm_0.num_batches_tracked": np.int64(3)}, variables)
    only = exchange.to_torch(variables["params"])
    assert {*state} - {*only} == {"BatchNorm_0.running_mean", "BatchNorm_0.running_var"}
    assert_round_trip(only, variables["params"])


def test_a_transposed_kernel_is_not_turned_round():
    module = nn.ConvTranspose(5, (2, 3), strides=(2, 2), padding="VALID", transpose_kernel=True)
    variables = {"params": {"ConvTranspose_0": variables_of(module, X)["params"]}}
    layout = {"ConvTranspose_0/kernel": "window window out in"}
    state = exchange.to_torch(variables, layout=layout)
    weight, bias = state["ConvTranspose_0.weight"], state["ConvTranspose_0.bias"]
    assert weight.shape == (3, 5, 2, 3)
    expected = module.apply({"params": variables["params"]["ConvTranspose_0"]}, X)[0]
    found = conv_transpose2d(weight.astype(np.float64), bias, channels_first(X[0]), stride=2)
    np.testing.assert_allclose(found, channels_first(expected), rtol=1e-4)
    assert_round_trip(state, variables, layout=layout)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 4)(tokens)
        return nn.MultiHeadDotProductAttention(num_heads=2)(x)


def test_heads_become_one_axis_and_tables_stay():
    variables = variables_of(Attention(), jnp.zeros((1, 3), int))
    state = exchange.to_torch(variables)
    attention = variables["params"]["MultiHeadDotProductAttention_0"]
    name = "MultiHeadDotProductAttention_0"
    assert state["Embed_0.weight"].shape == (7, 4)
    assert state[f"{name}.query.weight"].shape == (4, 4)
    assert state[f"{name}.query.bias"].shape == (4,)
    x = np.arange(4.0, dtype=np.float32)
    query = np.einsum("i,ihd->hd", x, attention["query"]["kernel"]) + attention["query"]["bias"]
    found = linear(state[f"{name}.query.weight"], state[f"{name}.query.bias"], x)
    np.testing.assert_allclose(found, query.ravel(), rtol=1e-5)
    out = np.einsum("hd,hdo->o", query, attention["out"]["kernel"])
    np.testing.assert_allclose(linear(state[f"{name}.out.weight"], 0, query.ravel()), out, rtol=1e-5)
    assert_round_trip(state, variables)


def test_masks_travel_as_pytorch_keeps_them():
    variables = variables_of(Network(), X)
    params, opt_state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5)), variables["params"])
    variables = {**variables, "params": params}
    masks = dstjax.get_masks(opt_state)
    for given in (opt_state, masks, {"params": masks}):
        state = exchange.to_torch(variables, given)
        pruned = {n.removesuffix("_mask") for n in state if n.endswith("_mask")}
        assert pruned == {"Conv_0.weight", "ConvTranspose_0.weight", "Dense_0.weight"}
        for name in pruned:
            assert name not in state
            mask, weight = state[f"{name}_mask"], state[f"{name}_orig"]
            assert (mask.dtype, mask.shape) == (weight.dtype, weight.shape)
            np.testing.assert_array_equal(weight * mask, weight)
            np.testing.assert_array_equal(mask, weight != 0)
        np.testing.assert_array_equal(state["Dense_0.weight_mask"], np.asarray(masks["Dense_0"]["kernel"]).T)
        assert_round_trip(state, variables, {"params": masks})
    dense = {
        n: np.ones_like(x) if n.endswith("_orig") else x for n, x in state.items()
    }  # as torch keeps what it pruned
    found, flags = exchange.from_torch(dense, variables)
    assert dstjax.check_sparse(found["params"], flags["params"])
    np.testing.assert_array_equal(found["params"]["Dense_0"]["kernel"], masks["Dense_0"]["kernel"])
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5), initial_masks=flags["params"])
    trees.assert_same(dstjax.get_masks(tx.init(found["params"])), masks)


def test_nnx_and_other_names():
    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.conv, self.norm = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
            self.up, self.head = nnx.ConvTranspose(4, 2, (2, 2), rngs=rngs), nnx.Linear(2, 5, rngs=rngs)

    variables = nnx.state(Model(), (nnx.Param, nnx.BatchStat))
    names = {r"^conv\.": "features.0.", "^norm": "features.1", "^head": "fc"}
    state = exchange.to_torch(variables, names=names)
    assert {"features.0.weight", "features.1.running_var", "up.weight", "fc.bias"} <= {*state}
    kernel = np.asarray(variables["up"]["kernel"][...])
    np.testing.assert_array_equal(state["up.weight"], kernel[::-1, ::-1].transpose(2, 3, 0, 1))
    found, _ = exchange.from_torch(state, variables, names=names)
    trees.assert_same(jax.tree.leaves(found), jax.device_get(jax.tree.leaves(variables)))
    assert layouts.torch("features/0/weight", jax.ShapeDtypeStruct((4, 3, 3, 3), "f4")) == "out in window window"


class Tensor:
    """A stand-in for a tensor that needs a gradient and lies on a device."""

    def __init__(self, x, ready=False):
        self.x, self.ready = x, ready

    def detach(self):
        return Tensor(self.x)

    def cpu(self):
        return Tensor(self.x, ready=True)

    def __array__(self, dtype=None, copy=None):
        assert self.ready, "a tensor that needs a gradient is no array"
        return np.array(self.x, dtype)


def test_tensors_are_read():
    variables = {"fc": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}
    state = {n: Tensor(x) for n, x in exchange.to_torch(variables).items()}
    assert_round_trip(state, variables)


def test_what_is_refused():
    dense = {"fc": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}
    state = exchange.to_torch(dense)
    with pytest.raises(ValueError, match=r"leaf 'hidden' has no counterpart in PyTorch by its name; expected one of"):
        exchange.to_torch({"hidden": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"leaves 'a/kernel' and 'a/scale' would both be 'a.weight'; tell them apart"):
        exchange.to_torch({"a": {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}})
    with pytest.raises(
        ValueError, match=r"leaf 'dense/kernel' of shape \(3, 2, 2\) stacks 3 layers, which no layer of"
    ):
        exchange.to_torch({"dense": {"kernel": jnp.ones((3, 2, 2))}})
    with pytest.raises(ValueError, match=r"axes of leaf 'mix/kernel' of shape \(3, 2, 2\) is not known; expected one"):
        exchange.to_torch({"mix": {"kernel": jnp.ones((3, 2, 2))}})
    with pytest.raises(ValueError, match=r"lacks \['fc.bias'\] and has \['fc1.bias'\] besides; names= maps"):
        exchange.from_torch({"fc.weight": state["fc.weight"], "fc1.bias": state["fc.bias"]}, dense)
    with pytest.raises(ValueError, match=r"'fc.weight' of the state_dict has shape \(2, 3\) .*; expected \(3, 2\)"):
        exchange.from_torch({**state, "fc.weight": state["fc.weight"].T}, dense)
    with pytest.raises(ValueError, match=r"'fc.weight' of the state_dict has .* float64; expected .* float32"):
        exchange.from_torch({**state, "fc.weight": state["fc.weight"].astype(np.float64)}, dense)
    for names in ({"(": "x"}, {"fc": 1}):
        with pytest.raises(ValueError, match=r"names=.* is no regular expression"):
            exchange.to_torch(dense, names=names)
    for wrong in (np.full((3, 2), 0.5), np.ones((2, 3))):
        pruned = {"fc.weight_orig": state["fc.weight"], "fc.weight_mask": wrong, "fc.bias": state["fc.bias"]}
        with pytest.raises(ValueError, match=r"'fc.weight_mask' of shape .* is no mask of 'fc.weight_orig'.*zeros and"):
            exchange.from_torch(pruned, dense)
    with pytest.raises(ValueError, match="outside its mask"):
        exchange.to_torch(dense, {"fc": {"kernel": jnp.zeros((2, 3), bool), "bias": None}})
