"""Leaves and networks of many billions of weights, as shapes: counted exactly, or refused in a line."""

import jax
import jax.numpy as jnp
import optax
import pytest

import dstjax
from dstjax import methods

TIMES = dict(sparsity=0.9, update_period=2, end_step=10)
STACK = {"w": jax.ShapeDtypeStruct((80, 8192, 28672), jnp.bfloat16)}  # 1.9e10: a 70-billion network's, scanned


def shapes(method, params, layout=None):
    tx = dstjax.sparsify(optax.sgd(0.1), method, layout=layout)
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    return updates, state


@pytest.mark.parametrize("name", ["rigl", "set", "dst_ee", "srigl", "mest"])
def test_a_leaf_beyond_32_bits_that_holds_layers(name):
    updates, state = shapes(methods.get(name, **TIMES), STACK, "stack in out")
    assert updates["w"].shape == STACK["w"].shape
    assert state.targets.shape == (80,)


@pytest.mark.parametrize("method", [methods.rigl(**TIMES), methods.gmp(**TIMES), methods.static(sparsity=0.5)])
def test_a_layer_beyond_32_bits_is_refused(method):
    with pytest.raises(ValueError, match=r"(counted|entries|weights).*(layout=|split)"):
        shapes(method, {"w": jax.ShapeDtypeStruct((2**17, 2**17), jnp.bfloat16)})


def needed(method, grads):
    return dict(full_gradient=grads) if "full_gradient" in method.needs else {}


@pytest.mark.parametrize(
    "method",
    [
        methods.rigl(**TIMES, scope="global"),
        methods.snfs(**TIMES),
        methods.dpf(**TIMES),
        methods.dcil(**TIMES),
        methods.one_shot(sparsity=0.9, prune_step=2, scope="global"),
        methods.gmp(**TIMES, scope="global"),
    ],
    ids=lambda method: method.name,
)
def test_one_ranking_of_more_than_32_bits_of_weights(method):
    tx = dstjax.sparsify(optax.sgd(0.1), method, layout="stack in out")
    state = jax.eval_shape(tx.init, STACK)
    _, after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **needed(method, g)), STACK, state, STACK)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


@pytest.mark.parametrize(
    "method",
    [methods.granet(**TIMES), methods.dsr(**TIMES)],
    ids=lambda method: method.name,
)
def test_what_adds_up_layers_otherwise_says_where_it_ends(method):
    tx = dstjax.sparsify(optax.sgd(0.1), method, layout="stack in out")
    state = jax.eval_shape(tx.init, STACK)
    with pytest.raises(ValueError, match=r"18,790,481,920 weights together; 32 bits hold less"):
        jax.eval_shape(tx.update, STACK, state, STACK)
    small = {"w": jax.ShapeDtypeStruct((8, 2**14, 2**13), jnp.bfloat16)}  # 2**30
    state = jax.eval_shape(tx.init, small)
    jax.eval_shape(tx.update, small, state, small)
