"""Optimisers whose state changes its structure, as that of ``optax.monitor`` does; and updates of another tree."""

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


def like(params):
    return jax.tree.map(jnp.zeros_like, params)


def optimiser(init, update):
    """Updates are the gradients; ``update(gradients, state)`` gives the new state."""
    return optax.GradientTransformation(init, lambda g, state, params=None: (g, update(g, state)))


# What a state becomes at its first update.
CHANGING = {
    "grows": optimiser(lambda p: {}, lambda g, s: {"m": g}),
    "shrinks": optimiser(lambda p: {"m": like(p), "once": jnp.ones(3)}, lambda g, s: {"m": g}),
    "nothing becomes something": optimiser(lambda p: {"m": None}, lambda g, s: {"m": g}),
    "something becomes nothing": optimiser(lambda p: {"m": like(p)}, lambda g, s: {"m": None}),
    "sums become moments": optimiser(lambda p: {"m": jax.tree.map(jnp.sum, p)}, lambda g, s: {"m": g}),
    "moments become sums": optimiser(lambda p: {"m": like(p)}, lambda g, s: {"m": jax.tree.map(jnp.sum, g)}),
    "a history": optimiser(
        lambda p: {"h": jnp.zeros((0, 6, 4))}, lambda g, s: {"h": jnp.concatenate([s["h"], g["w"][None]])}
    ),
    "another container": optimiser(lambda p: {"m": (like(p),)}, lambda g, s: {"m": [g]}),
    "another name": optimiser(lambda p: {"m": like(p)}, lambda g, s: {"n": g}),
}


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize("method", ["rigl", slow("dpf"), slow("top_kast")])
@pytest.mark.parametrize("guard", ["pass", slow("skip")])
def test_a_state_may_change_its_structure(kind, method, guard):
    """Two traced steps leave the state that the optimiser itself would leave, leaf by leaf."""
    chosen = dstjax.methods.get(method, sparsity=0.5, update_period=2, end_step=8)
    tx = dstjax.sparsify(CHANGING[kind], chosen, on_nonfinite=guard)
    state = jax.eval_shape(tx.init, PARAMS)
    alone = jax.eval_shape(CHANGING[kind].init, PARAMS)
    for _ in range(2):
        updates, state = jax.eval_shape(tx.update, PARAMS, state, PARAMS)
        alone = jax.eval_shape(CHANGING[kind].update, PARAMS, alone, PARAMS)[1]
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)
        assert jax.tree.map(jnp.shape, state.inner_state) == jax.tree.map(jnp.shape, alone)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (lambda g: ({"w": g["w"]}, ()), "updates for another tree than that of its gradients; missing: b"),
        (lambda g: (list(g.values()), ()), "another tree than that of its gradients; missing: b, w; unexpected: 0, 1"),
        (lambda g: (None, ()), "another tree than that of its gradients; missing: b, w"),
        (lambda g: g, "returned a dict; expected a pair, of the updates and its new state"),
        (lambda g: (g, (), ()), "returned 3 things; expected a pair"),
    ],
)
@pytest.mark.parametrize("method", ["rigl", "dpf"])
def test_updates_of_another_tree_are_refused(returned, expected, method):
    inner = optax.GradientTransformation(lambda params: (), lambda g, state, params=None: returned(g))
    tx = dstjax.sparsify(inner, dstjax.methods.get(method, sparsity=0.5, update_period=2, end_step=8))
    state = jax.eval_shape(tx.init, PARAMS)
    with pytest.raises(ValueError, match=expected):
        jax.eval_shape(tx.update, PARAMS, state, PARAMS)
