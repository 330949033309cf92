"""Optimisers that add to their state at the first update, as ``optax.monitor`` does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from tests.thorough import slow

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 24).reshape(6, 4), "b": jnp.zeros(4)}
X, Y = jnp.linspace(0.0, 1.0, 12).reshape(2, 6), jnp.ones((2, 4))
ORDERS = ["skip", slow("step_then_update"), slow("update_then_step")]


def monitored(**measures):
    return optax.chain(optax.monitor({"norm": optax.tree.norm, **measures}), optax.adam(0.01))


def follow(tx, steps=5, **options):
    def loss(params):
        return jnp.mean((X @ params["w"] + params["b"][None] - Y) ** 2)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(loss)(dstjax.forward_params(params, state))
        updates, state = tx.update(gradients, state, params, **options)
        return optax.apply_updates(params, updates), state

    state = tx.init(PARAMS)
    params = dstjax.apply_masks(PARAMS, state)
    for _ in range(steps):
        params, state = step(params, state)
        assert dstjax.check_sparse(params, state)
    return params, state


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("guard", ["pass", slow("skip")])
def test_a_monitor_changes_nothing(order, guard):
    method = dstjax.methods.rigl(sparsity=0.5, update_period=2, end_step=4, update_order=order)
    tx, plain = (dstjax.sparsify(o, method, on_nonfinite=guard) for o in (monitored(), optax.adam(0.01)))
    (params, state), (expected, _) = follow(tx), follow(plain)
    for name, x in params.items():
        np.testing.assert_array_equal(x, expected[name])
    assert optax.tree.get(state, "norm") > 0


@pytest.mark.parametrize("name", ["top_kast", slow("dpf")])
def test_behind_a_view_a_measure_may_look_like_a_moment(name):
    method = dstjax.methods.get(name, sparsity=0.5, update_period=2, end_step=8)
    tx = dstjax.sparsify(monitored(updates=lambda updates: updates), method)
    _, state = follow(tx)
    assert np.any(optax.tree.get(state, "updates")["w"])


def test_when_the_host_decides():
    method = dstjax.methods.rigl(sparsity=0.5, update_period=2, end_step=4)
    _, state = follow(dstjax.sparsify(monitored(), method), steps=2, rewire=True)
    assert int(optax.tree.get(state, "count")) == 2
