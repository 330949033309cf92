"""Random groups removed from every network of the experiments and from the ways to write a transformer, U-Net, ...

The smaller network has the results and gradients of the masked one, and the FLOPs of a network defined that small.
Compiled as users compile: where activations tie, as zeros do in max pooling, XLA without optimisations rounds the
gradient of one and the same network in two ways.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dstjax
from dstjax._arrays.trees import path_name
from dstjax.program import flops
from experiments import models
from tests.small_networks import NETWORKS, normal, pruned, relative, relative_to_all
from tests.transformers import WAYS, batch, weights

pytestmark = [pytest.mark.slow, pytest.mark.optimised]

SMALL = {  # name -> sizes, shape, classes; None: its own
    "conv": ((8, 12, 16), None, None),
    "efficientnet_b0": (None, (32, 32, 3), 10),
    "large_mlp": ((64, 32), None, None),
    "lenet5_caffe": ((6, 10, 20), None, None),
    "link_mlp": (None, None, None),
    "mlp": (None, None, None),
    "mobilenet_v1": (None, (32, 32, 3), 10),
    "resnet50": ((4, 4, 8, 8), (64, 64, 3), 10),
    "resnet50_cifar": ((4, 4, 8, 8), None, 10),
    "resnet56": ((4, 6, 8), None, None),
    "set_mlp": ((40, 20, 40), None, None),
    "small_cnn": ((8, 12, 16), None, None),
    "small_mlp": (None, None, None),
    "vgg16": ((8, 8, 16, 16, 16), None, 10),
    "vgg19": ((8, 8, 16, 16, 16), None, 10),
    "vit": ((16, 24, 24), None, None),
    "wrn22_2": ((4, 6, 8), None, None),
}


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.RNN(nn.OptimizedLSTMCell(12))(x)
        return nn.Dense(3)(nn.RNN(nn.GRUCell(8))(x)[:, -1])


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        def block(width, x):
            return nn.relu(nn.GroupNorm(2)(nn.Conv(width, (3, 3))(x)))

        first = block(8, x)
        second = block(16, nn.max_pool(first, (2, 2), (2, 2)))
        x = block(16, nn.avg_pool(second, (2, 2), (2, 2)))
        x = block(16, jnp.concatenate([nn.ConvTranspose(16, (2, 2), (2, 2))(x), second], -1))
        x = jax.image.resize(x, (*first.shape[:3], x.shape[-1]), "nearest")
        return nn.Conv(2, (1, 1))(block(8, jnp.concatenate([x, first], -1)))


def experts(p, x):
    gates = jax.nn.softmax(x @ p["gate"])
    hidden = jax.nn.gelu(jnp.einsum("bd,edh->beh", x, p["up"]) + p["bias"][None])
    return jnp.einsum("be,bed->bd", gates, jnp.einsum("beh,ehd->bed", hidden, p["down"])) @ p["head"]


def of_module(module, x, **options):
    forward = functools.partial(module.apply, **options)
    variables = jax.jit(functools.partial(module.init, **options))(jax.random.key(0), x)
    # Biases that are not zero and statistics that are not one, as after some training.
    rng = np.random.default_rng(2)
    moved = jax.tree.map(
        lambda a: a + jnp.asarray(rng.uniform(0, 0.1, a.shape), a.dtype) if a.ndim == 1 else a, variables
    )
    return forward, moved, x


def of_zoo(name):
    sizes, shape, classes = SMALL[name]
    module = models.make(name, sizes=sizes, classes=classes)
    return of_module(module, normal(2, *(shape or models.MODELS[name].shape)), train=False)


OTHERS = {
    "experts": lambda: (
        experts,
        {
            "gate": normal(6, 3),
            "up": normal(3, 6, 8),
            "bias": normal(3, 8),
            "down": normal(3, 8, 6),
            "head": normal(6, 2),
        },
        normal(4, 6),
    ),
    "recurrent": lambda: of_module(Recurrent(), normal(2, 5, 4)),
    "u_net": lambda: of_module(UNet(), normal(2, 8, 8, 3)),
    **{
        f"transformer, {n}": functools.partial(lambda w: (w.loss, w.params(weights()), batch()), w)
        for n, w in WAYS.items()
    },
    **{f"small, {n}": functools.partial(NETWORKS.get, n) for n in NETWORKS},
}


def slopes(function):
    def loss(p, x):
        y = function(p, x)
        return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.grad(loss, has_aux=True))


def check(function, params, x, share, gradients=True):
    found, gone, masks, masked = pruned(function, params, x, share, seed=int(share * 10))
    assert gone
    smaller, fewer, report = dstjax.compact(function, params, masks, x, check=False)
    kept = {"/".join(path): axes for path, axes in report.cuts.keep.items()}
    for path, axes in found.of.items():
        for groups, keep in zip(axes, kept[path], strict=True):
            left = keep[np.isin(groups, list(gone))].any()
            assert not left or any(path in leaves for leaves in report.kept.values()), f"{path} has units left"
    if not gradients:
        assert relative(jax.jit(function)(masked, x), smaller(fewer, x)) < 1e-5
    else:
        (expected, results), (mine, found_results) = slopes(function)(masked, x), slopes(smaller)(fewer, x)
        assert relative(results, found_results) < 1e-5
        assert relative_to_all(report.cut_state(expected), mine) < 1e-5
    assert report.flops[1] < report.flops[0]
    return report


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_results_and_gradients_stay(name, share):
    function, params, x = of_zoo(name) if name in SMALL else OTHERS[name]()
    check(function, params, x, share, gradients=share == 0.5)


@pytest.mark.parametrize(("name", "sizes"), [("mlp", (30, 20)), ("conv", (8, 12, 16))])
def test_flops_are_those_of_a_network_defined_that_small(name, sizes):
    """Removing the first half of every width leaves the network of half the sizes."""
    function, params, x = of_module(models.make(name, sizes=sizes), normal(2, *models.MODELS[name].shape), train=False)
    found = dstjax.program.channels(function, params, x)
    first = {int(g) for axes in found.of.values() for groups in axes for g in groups[: len(groups) // 2]} - {-1}
    report = dstjax.compact(function, params, found.masks(first), x, check=False)[2]
    half = models.make(name, sizes=tuple(n // 2 for n in sizes))
    shapes = jax.eval_shape(functools.partial(half.init, train=False), jax.random.key(0), x)
    wanted = flops.count(functools.partial(half.apply, train=False), shapes, x)
    assert report.flops[1] == wanted.dense()
    widths = {path: shape[-1] for path, shape in ((r.path, r.after) for r in report.rows) if path.endswith("kernel")}
    flat = [(path_name(path), leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)]
    assert widths == {path: shape[-1] for path, shape in flat if path.endswith("kernel")}
