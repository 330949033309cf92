"""The same two lines in five frameworks: a small network trains, stays sparse, and its loss falls.

The two lines are ``tx = dstjax.sparsify(...)`` and ``dstjax.apply_masks``; the rest is each framework's own loop.
"""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import dstjax
from dstjax import methods
from tests import trees
from tests.thorough import slow

STEPS = 24
FEATURES, HIDDEN, CLASSES = 12, 24, 3
METHOD = dict(sparsity=0.8, update_period=5, end_step=20, drop_fraction=0.4, drop_schedule="constant")


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, FEATURES)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(np.argmax(x[:, :CLASSES], axis=1))


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def method():
    return methods.dst_ee(**METHOD, coefficient=1e-3)


def assert_trained(losses, params, opt_state, kernels=2):
    assert losses[-1] < 0.7 * losses[0]
    assert all(np.isfinite(losses))
    assert dstjax.check_sparse(params, opt_state)
    masks = jax.tree.leaves(dstjax.get_masks(opt_state))
    assert len(masks) == kernels
    report = dstjax.summary(params, opt_state)
    size = FEATURES * HIDDEN + HIDDEN * CLASSES
    assert sum(row.active for row in report.masked) == size - int(0.8 * size)
    assert sum(row.size for row in report.masked) == size
    assert float(dstjax.metrics.exploration_rate(opt_state)) > 0.2  # the masks have moved


def test_plain_dict():
    x, y = data()
    k1, k2 = jax.random.split(jax.random.key(0))
    params = {
        "in": {"w": 0.3 * jax.random.normal(k1, (FEATURES, HIDDEN)), "b": jnp.zeros(HIDDEN)},
        "out": {"w": 0.3 * jax.random.normal(k2, (HIDDEN, CLASSES)), "b": jnp.zeros(CLASSES)},
    }

    def loss(params):
        hidden = jax.nn.relu(x @ params["in"]["w"] + params["in"]["b"][None])
        return cross_entropy(hidden @ params["out"]["w"] + params["out"]["b"][None], y)

    tx = dstjax.sparsify(optax.adam(0.05), method())
    opt_state = tx.init(params)
    params = dstjax.apply_masks(params, opt_state)

    @jax.jit
    def step(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    losses = []
    for _ in range(STEPS):
        params, opt_state, value = step(params, opt_state)
        losses.append(float(value))
    assert_trained(losses, params, opt_state)
    assert trees.names(dstjax.get_masks(opt_state)).keys() == {"in/w", "out/w"}


def test_flax_linen():
    x, y = data()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(HIDDEN)(x))
            return nn.Dense(CLASSES)(x)

    net = Net()
    params = net.init(jax.random.key(0), x)["params"]
    tx = dstjax.sparsify(optax.adam(0.05), method())
    state = TrainState.create(apply_fn=net.apply, params=params, tx=tx)
    state = state.replace(params=dstjax.apply_masks(state.params, state.opt_state))

    @jax.jit
    def step(state):
        value, grads = jax.value_and_grad(lambda p: cross_entropy(state.apply_fn({"params": p}, x), y))(state.params)
        return state.apply_gradients(grads=grads), value

    losses = []
    for _ in range(STEPS):
        state, value = step(state)
        losses.append(float(value))
    assert_trained(losses, state.params, state.opt_state)
    assert trees.names(dstjax.get_masks(state.opt_state)).keys() == {"Dense_0/kernel", "Dense_1/kernel"}


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(FEATURES, HIDDEN, rngs=rngs)
        self.last = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)))


@pytest.mark.parametrize("host_decides", [False, slow(True)])
def test_flax_nnx(host_decides):
    x, y = data()
    model = NnxNet(nnx.Rngs(0))
    rule = method()
    optimizer = nnx.Optimizer(model, dstjax.sparsify(optax.adam(0.05), rule), wrt=nnx.Param)
    nnx.update(model, dstjax.apply_masks(nnx.state(model, nnx.Param), optimizer.opt_state))

    @nnx.jit(static_argnames="rewire")
    def step(model, optimizer, rewire=None):
        value, grads = nnx.value_and_grad(lambda m: cross_entropy(m(x), y))(model)
        optimizer.update(model, grads, rewire=rewire)
        return value

    losses = []
    for t in range(1, STEPS + 1):
        losses.append(float(step(model, optimizer, rule.is_update_step(t) if host_decides else None)))
    params = nnx.state(model, nnx.Param)
    assert_trained(losses, params, optimizer.opt_state)
    masks = dstjax.get_masks(optimizer.opt_state)
    assert masks["first"]["kernel"].get_value().shape == (FEATURES, HIDDEN)
    assert len(trees.names(masks)) == 2


def test_equinox():
    x, y = data()
    model = eqx.nn.MLP(FEATURES, CLASSES, HIDDEN, depth=1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = dstjax.sparsify(optax.adam(0.05), method())
    opt_state = tx.init(params)
    params = dstjax.apply_masks(params, opt_state)

    @eqx.filter_jit
    def step(params, opt_state):
        def loss(params):
            return cross_entropy(jax.vmap(eqx.combine(params, static))(x), y)

        value, grads = eqx.filter_value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return eqx.apply_updates(params, updates), opt_state, value

    losses = []
    for _ in range(STEPS):
        params, opt_state, value = step(params, opt_state)
        losses.append(float(value))
    assert_trained(losses, params, opt_state)
    masks = dstjax.get_masks(opt_state)
    assert isinstance(masks, eqx.nn.MLP)
    assert masks.layers[0].weight.dtype == bool
    assert masks.layers[0].bias is None


def test_haiku():
    x, y = data()
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([HIDDEN, CLASSES])(x)))
    params = net.init(jax.random.key(0), x)
    tx = dstjax.sparsify(optax.adam(0.05), method())
    opt_state = tx.init(params)
    params = dstjax.apply_masks(params, opt_state)

    @jax.jit
    def step(params, opt_state):
        value, grads = jax.value_and_grad(lambda p: cross_entropy(net.apply(p, x), y))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    losses = []
    for _ in range(STEPS):
        params, opt_state, value = step(params, opt_state)
        losses.append(float(value))
    assert_trained(losses, params, opt_state)
    assert trees.names(dstjax.get_masks(opt_state)).keys() == {"mlp/~/linear_0/w", "mlp/~/linear_1/w"}


def test_set_masks_in_every_kind_of_tree():
    """A transplant into trees of frameworks: State of NNX, modules of Equinox."""
    for params in (
        nnx.state(NnxNet(nnx.Rngs(0)), nnx.Param),
        eqx.filter(eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0)), eqx.is_array),
    ):
        state = dstjax.sparsify(optax.adam(0.1), method()).init(params)
        flipped = jax.tree.map(lambda m: m[::-1], dstjax.get_masks(state))
        new = dstjax.set_masks(state, flipped)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(dstjax.get_masks(new)), jax.tree.leaves(flipped), strict=True):
            np.testing.assert_array_equal(a, b)
