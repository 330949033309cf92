"""Many runs in one program: the branch stays a branch, and each run is the one of its seed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.population import vmap_axes
from tests import trees

SEEDS = np.array([0, 3, 11])
MOVING = dict(sparsity=0.7, update_period=3, end_step=10, drop_fraction=0.5, drop_schedule="constant")


def transform(seed, name="dst_ee"):
    return dstjax.sparsify(optax.adam(0.05), methods.get(name, **MOVING), seed=seed, track=["exploration", "error"])


WRAPPERS = {
    "itself": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "inside another tree": lambda tx: optax.named_chain(("a", optax.chain(optax.clip(1.0), tx))),
}


def population(wrap, name):
    """States of all seeds, a step for all of them, and the axes."""
    params = trees.everything()
    init = lambda seed: wrap(transform(seed, name)).init(params)  # noqa: E731
    axes = vmap_axes(jax.eval_shape(init, 0))
    states = jax.vmap(init, out_axes=axes)(jnp.asarray(SEEDS))
    tx = wrap(transform(0, name))  # the seed is in the states

    def one(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.vmap(one, in_axes=(0, axes, None), out_axes=(0, axes))
    start = jax.vmap(lambda s: dstjax.apply_masks(params, s), in_axes=(axes,))(states)
    return start, states, step


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_branch_stays_a_branch(wrapper):
    start, states, step = population(WRAPPERS[wrapper], "rigl")
    grads = trees.like(trees.everything(), 0)
    assert "cond[" in str(jax.make_jaxpr(step)(start, states, grads))


def test_a_batched_step_has_no_branch():
    """What the axes are for: without them every step would pay for a mask update."""
    params = trees.everything()
    tx = transform(0, "rigl")
    states = jax.vmap(lambda seed: transform(seed, "rigl").init(params))(jnp.asarray(SEEDS))
    text = str(jax.make_jaxpr(jax.vmap(lambda s: tx.update(params, s, params)))(states))
    assert "cond[" not in text


@pytest.mark.parametrize("name", ["set", "dst_ee"])
def test_each_run_is_the_one_of_its_seed(name):
    params, states, step = population(WRAPPERS["chain"], name)
    step = jax.jit(step)
    alone = []
    for seed in SEEDS:
        tx = WRAPPERS["chain"](transform(int(seed), name))
        state = tx.init(trees.everything())
        alone.append([tx, dstjax.apply_masks(trees.everything(), state), state])
    for t in range(1, 8):
        grads = trees.like(trees.everything(), t)
        params, states = step(params, states, grads)
        for run in alone:
            updates, run[2] = run[0].update(grads, run[2], run[1])
            run[1] = optax.apply_updates(run[1], updates)
    assert optax.tree.get(states, "step").shape == ()
    for i, (_, own, state) in enumerate(alone):
        for a, b in zip(
            jax.tree.leaves(dstjax.get_masks(states)), jax.tree.leaves(dstjax.get_masks(state)), strict=True
        ):
            np.testing.assert_array_equal(a[i], b)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)
