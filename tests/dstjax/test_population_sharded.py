"""Populations spread over devices: each run is the one of its seed, and no run waits for another."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dstjax
from dstjax import methods
from tests import trees

SEEDS = np.arange(8)
HYPERPARAMETERS = {
    "dst_ee": dict(sparsity=0.7, update_period=3, end_step=10, drop_fraction=0.5),
    "dsr": dict(sparsity=0.7, update_period=2, end_step=10, threshold=0.2),
    "srigl": dict(sparsity=0.7, update_period=3, end_step=10),
    "str": dict(sparsity=0.7, s_init=-2.0, end_step=6),
}
AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
QUICK = {("dst_ee", "explicit")}
COLLECTIVES = r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("


def transform(name, seed):
    track = () if name == "str" else ("exploration", "survival", "error")
    return dstjax.sparsify(optax.adam(0.05), methods.get(name, **HYPERPARAMETERS[name]), seed=seed, track=track)


def trained(name, seed, steps=7):
    """The masks and parameters of one run, begun and trained in one program."""
    params = trees.few()
    tx = transform(name, seed)
    state = tx.init(jax.tree.map(lambda w: w + 0.01 * seed, params))
    params = dstjax.apply_masks(jax.tree.map(lambda w: w + 0.01 * seed, params), state)

    def step(carry, _):
        params, state = carry
        slope = jax.tree.map(jnp.cos, dstjax.forward_params(params, state))
        updates, state = tx.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), None

    params, state = jax.lax.scan(step, (params, state), None, length=steps)[0]
    return dstjax.get_masks(state), params


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.slow)
        for name in HYPERPARAMETERS
        for kind in AXES
    ],
)
def test_one_network_a_device(name, kind):
    """Within ``shard_map``, whose types say what varies over the devices."""
    mesh = jax.make_mesh((8,), ("seed",), axis_types=(AXES[kind],))
    with jax.set_mesh(mesh):

        def one(seed):
            return jax.tree.map(lambda x: x[None], trained(name, seed[0]))

        seeds = jax.device_put(SEEDS, NamedSharding(mesh, P("seed")))
        program = jax.jit(jax.shard_map(one, in_specs=P("seed"), out_specs=P("seed")))
        masks, params = jax.device_get(program(seeds))
        assert not re.search(COLLECTIVES, program.lower(seeds).compile().as_text())
    alone = jax.jit(trained, static_argnums=0)
    for seed in (0, 5):
        own_masks, own = alone(name, seed)
        for a, b in zip(jax.tree.leaves(masks), jax.tree.leaves(own_masks), strict=True):
            np.testing.assert_array_equal(a[seed], b)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(a[seed], b, rtol=1e-4, atol=1e-5)


def test_seeds_of_a_vmap_over_devices():
    name, params = "dst_ee", trees.few()
    tx = transform(name, 0)
    axes = dstjax.vmap_axes(jax.eval_shape(tx.init, params))

    def update(params, state):
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        return optax.apply_updates(params, updates), state

    def run(seeds):
        states = jax.jit(jax.vmap(lambda seed: transform(name, seed).init(params), out_axes=axes))(seeds)
        runs = jax.jit(jax.vmap(lambda s: dstjax.apply_masks(params, s), in_axes=(axes,)))(states)
        step = jax.jit(jax.vmap(update, in_axes=(0, axes), out_axes=(0, axes)))
        for _ in range(4):
            runs, states = step(runs, states)
        masks = jax.vmap(dstjax.get_masks, in_axes=(axes,))(states)
        return jax.device_get(masks), runs, step.lower(runs, states).compile().as_text()

    mesh = jax.make_mesh((8,), ("seed",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        masks, runs, text = run(jax.device_put(SEEDS, NamedSharding(mesh, P("seed"))))
        assert {len(x.sharding.device_set) for x in jax.tree.leaves(runs)} == {8}
    assert not re.search(COLLECTIVES, text)
    assert len(re.findall(r" conditional\(", text)) == 1
    for a, b in zip(jax.tree.leaves(masks), jax.tree.leaves(run(jnp.asarray(SEEDS))[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_when_vmap_over_explicit_axes_becomes_possible():
    """Fails as soon as jax batches a loop that begins with a number over an Explicit axis.

    Then docs/scaling.md need no longer send populations to Auto axes, and the test above can have both kinds.
    """
    mesh = jax.make_mesh((8,), ("seed",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(np.ones((8, 4), np.float32), NamedSharding(mesh, P("seed")))
        looped = lambda x: jax.lax.fori_loop(0, 3, lambda _, total: total + jnp.sum(x), jnp.zeros(()))  # noqa: E731
        for function in (looped, lambda x: dstjax.selection.top_k_mask(x, 2)):
            with pytest.raises(ValueError, match=r"Resource axis: seed of .* is not found in mesh"):
                jax.eval_shape(jax.vmap(function), x)
