"""Every method with packed weights: between mask updates the numbers of the masked network, or a refusal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import kernels
from tests import conformance
from tests.small_networks import normal, relative

X, Y = normal(20, 8, seed=1), normal(20, 4, seed=2)
LAYOUT = {"a": "in out", "b": "in out"}
DENSE = {"str", "dpf", "dcil", "top_kast", "soft_deepr", "iee", "ste", "sr_ste"}
REMEMBERING = {"snfs", "balanced_momentum", "deepr", "admm"}


def network(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def loss(function, params):
    return jnp.mean((function(params, X) - Y) ** 2)


@pytest.mark.parametrize("name", [p for p in conformance.by_kind() if p.values != ("dense",)])
def test_a_step_between_mask_updates_is_that_of_the_masked_network_or_refused(name):
    method = conformance.make(name)
    params = {"a": normal(8, 16, seed=3) / 3, "b": normal(16, 4, seed=4) / 4}
    arguments = {}
    if conformance.needs_masks(name):
        chosen = dstjax.sparsify(optax.sgd(0.1), conformance.make("static"), layout=LAYOUT)
        arguments["initial_masks"] = dstjax.get_masks(chosen.init(params))
    tx = dstjax.sparsify(optax.sgd(0.05, momentum=0.9), method, layout=LAYOUT, **arguments)
    params, state = dstjax.start(tx, params)

    def step(function, params, state, rewire):
        seen = dstjax.forward_params(params, state) if function is network else params
        gradients = jax.grad(lambda p: loss(function, p))(seen)
        extra = conformance.needed(name, gradients)
        return conformance.step(tx, params, state, gradients, rewire, **extra)

    masked = jax.jit(functools.partial(step, network), static_argnums=2)
    for t in range(1, 5):
        params, state = masked(params, state, bool(method.is_update_step(t)))
    seen = dstjax.forward_params(params, state, training=False)
    fast, packed, _ = kernels.rewrite(network, seen, state, X, product="fan_in")
    if name in DENSE | REMEMBERING:
        why = "keeps dense weights behind its masks" if name in DENSE else "remembers something of each weight"
        with pytest.raises(ValueError, match=f"method={name} {why}"):
            fast.pack_state(state)
        return
    assert not method.is_update_step(5)
    expected, expected_state = masked(params, state, False)
    packed, packed_state = jax.jit(step, static_argnums=3)(fast, packed, fast.pack_state(state), False)
    found, found_state = fast.unpack(packed), fast.unpack_state(packed_state, state)
    assert relative(expected, found) < 1e-5
    assert jax.tree.structure(found_state) == jax.tree.structure(expected_state)
    for a, b in zip(jax.tree.leaves(found_state), jax.tree.leaves(expected_state), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-4, atol=1e-6)
