"""The same network gives the same sparsity however it is written: a transformer four ways, for 200 steps.

In float64, so that only what is meant can differ, and not how XLA adds up a gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import layouts, methods, program
from dstjax.structures import fan_in, n_m
from tests import thorough, transformers
from tests.transformers import LAYERS, WAYS

STEPS = thorough.examples(200) // 20 * 20  # all in make slow
MASKED = [(str(i), name) for i in range(LAYERS) for name in ("query", "key", "value", "out", "up", "down")] + [
    (None, "head")
]
SHARED = {"update_period": 20, "end_step": 180}
METHODS = {
    "rigl": methods.rigl(sparsity=0.8, **SHARED),
    "rigl_uniform": methods.rigl(sparsity=0.8, distribution="uniform", **SHARED),
    "rigl_2_4": methods.rigl(sparsity=0.5, structure=n_m(2, 4), **SHARED),
    "dst_ee": methods.dst_ee(sparsity=0.9, **SHARED),
    "snfs": methods.snfs(sparsity=0.8, **SHARED),
    "srigl": methods.srigl(sparsity=0.8, **SHARED),
    "fan_in": methods.rigl(sparsity=0.8, structure=fan_in(0.0), **SHARED),
    "gmp": methods.gmp(sparsity=0.8, **SHARED),
    "gmp_uniform": methods.gmp(sparsity=0.8, distribution="uniform", **SHARED),
    "set": methods.set(sparsity=0.8, **SHARED),
}
DENSE_START = ("gmp", "gmp_uniform")
PRESETS = {"linen": layouts.flax, "linen_scan": layouts.flax, "nnx": layouts.flax, "equinox": layouts.equinox}


def first_masks(name):
    """Canonical masks that the written-out network begins with."""
    way = next(iter(WAYS.values()))
    tx = dstjax.sparsify(optax.sgd(0.1), METHODS[name])
    return way.canonical(dstjax.get_masks(tx.init(way.params(transformers.weights()))))


def of_way(way, masks):
    """Canonical masks as a tree of this way, None at dense leaves."""
    every = {key: masks.get(key, jnp.zeros(w.shape, bool)) for key, w in transformers.weights().items()}
    tree = way.params(every)
    return jax.tree.map(lambda m: m if m.any() else None, tree)


def run(way, name, layout):
    """Trains; returns the canonical masks after each mask update, and the last parameters."""
    method = METHODS[name]
    masks = None if name in DENSE_START else of_way(way, first_masks(name))
    tx = dstjax.sparsify(optax.sgd(0.01, momentum=0.9), method, layout=layout, initial_masks=masks)
    params = jax.tree.map(lambda w: w.astype(jnp.float64), way.params(transformers.weights()))
    params, state = dstjax.start(tx, params)
    batches = [transformers.batch(seed) for seed in range(8)]
    batches = jax.tree.map(lambda *xs: jnp.stack(xs), *batches)

    def step(carry, i):
        params, state = carry
        grads = jax.grad(way.loss)(params, jax.tree.map(lambda x: x[i % 8], batches))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def period(carry, start):
        return jax.lax.scan(step, carry, start + jnp.arange(20))[0]

    carry, seen = (params, state), []
    for start in range(0, STEPS, 20):
        carry = period(carry, start)
        seen.append(way.canonical(dstjax.get_masks(carry[1])))
    return seen, carry


def read_from_program(name):
    way = WAYS[name]
    return program.layouts(way.loss, way.shapes(), transformers.batch())


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def reference(name):
    with jax.enable_x64(True):
        return run(WAYS["linen"], name, None)[0]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        (name, way) if (name, way) == ("rigl", "equinox") else thorough.slow(name, way)
        for name in METHODS
        for way in WAYS
        if way != "linen"
    ],
)
def test_the_same_masks_layer_by_layer(name, way):
    layout = read_from_program(way) if way == "linen_scan" else PRESETS[way]
    found, (params, state) = run(WAYS[way], name, layout)
    for mine, theirs in zip(found, reference(name), strict=True):
        mine = {key: m for key, m in mine.items() if m is not None}
        assert sorted(mine, key=str) == sorted(MASKED, key=str)
        for key in MASKED:
            if name == "set":  # draws at random, from other keys in another tree
                assert int(mine[key].sum()) == int(theirs[key].sum())
            else:
                np.testing.assert_array_equal(mine[key], theirs[key], err_msg=str(key))
    assert dstjax.check_sparse(params, state)
