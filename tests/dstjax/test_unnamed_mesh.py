"""Arrays on a mesh of Explicit axes that no context names: all goes as on one device, as with optax alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dstjax
from dstjax import initial_masks, methods
from tests import conformance
from tests.dstjax.test_structures_sharded import LAYOUTS, REFUSED, STRUCTURES, on_mesh, on_one_device
from tests.thorough import few

# What draws, and what keeps dense weights, beside one method that does neither.
QUICK = ["rigl", "deepr", "lset", "sr_ste"]


def on_eight(tree, *specs):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    return {n: jax.device_put(x, NamedSharding(mesh, s)) for (n, x), s in zip(tree.items(), specs, strict=True)}


def params_of():
    draw = np.random.default_rng(0).standard_normal
    return {name: np.asarray(draw(shape), np.float32) for name, shape in (("first", (8, 32)), ("last", (32, 4)))}


def assert_same_masks(found, expected):
    for a, b in zip(jax.tree.leaves(dstjax.get_masks(found)), jax.tree.leaves(dstjax.get_masks(expected)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [p for p in conformance.by_kind(quick=QUICK) if p.values != ("dense",)])
def test_every_way_to_begin_and_both_ways_to_update(name):
    arguments = {"layout": {"first": "in out", "last": "in out"}}
    if conformance.needs_masks(name):
        chosen = dstjax.sparsify(optax.sgd(0.1), conformance.make("static"), **arguments)
        arguments["initial_masks"] = dstjax.get_masks(chosen.init(params_of()))
    tx = dstjax.sparsify(optax.adam(0.01), conformance.make(name), **arguments)
    expected = tx.init(jax.tree.map(jnp.asarray, params_of()))
    params = on_eight(params_of(), P(None, "b"), P("a"))
    for state in (tx.init(params), jax.jit(tx.init)(params), dstjax.start(tx, params)[1]):
        assert_same_masks(state, expected)
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    update = jax.jit(tx.update, static_argnames="rewire")
    for _ in range(2):
        _, state = update(grads, state, params, **conformance.needed(name, grads))
    for rewire in (False, True):
        extra = conformance.needed(name, grads)
        _, outside = tx.update(grads, state, params, rewire=rewire, **extra)
        assert_same_masks(outside, update(grads, state, params, rewire=rewire, **extra)[1])
    assert dstjax.check_sparse(dstjax.apply_masks(params, state), state)


@few(2)
@pytest.mark.parametrize(
    ("structure", "layout"), [(s, layout) for s in STRUCTURES for layout in LAYOUTS if (s, layout) not in REFUSED]
)
def test_structures(structure, layout):
    found = on_mesh(structure, lambda tree: on_eight(tree, *LAYOUTS[layout][::-1]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(on_one_device(structure)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_masks_drawn_alone():
    params = on_eight(params_of(), P(None, "b"), P("a"))
    key = jax.random.key_data(jax.random.key(3))
    found = initial_masks.random_masks(key, list(params.values()), [50, 20])
    expected = initial_masks.random_masks(key, list(params_of().values()), [50, 20])
    for a, b, x in zip(found, expected, params.values(), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding.is_equivalent_to(x.sharding, 2)


def test_the_key_is_that_of_a_named_mesh():
    params = on_eight(params_of(), P(None, "b"), P("a"))
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(sparsity=0.5, update_period=2, end_step=8), seed=5)
    with jax.set_mesh(params["first"].sharding.mesh):
        expected = tx.init(params)
    for a, b in zip(jax.tree.leaves(tx.init(params)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
