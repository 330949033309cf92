"""Many runs in one program: the branch stays a branch, and each run is the one of its seed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.loops import vmap_axes
from tests import trees
from tests.thorough import few, slow

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
    params = trees.few()
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
    grads = trees.like(trees.few(), 0)
    assert "cond[" in str(jax.make_jaxpr(step)(start, states, grads))


def test_a_batched_step_has_no_branch():
    """What the axes are for: without them every step would pay for a mask update."""
    params = trees.few()
    tx = transform(0, "rigl")
    states = jax.vmap(lambda seed: transform(seed, "rigl").init(params))(jnp.asarray(SEEDS))
    text = str(jax.make_jaxpr(jax.vmap(lambda s: tx.update(params, s, params)))(states))
    assert "cond[" not in text


@pytest.mark.parametrize("name", [slow("set"), "dst_ee"])
def test_each_run_is_the_one_of_its_seed(name):
    params, states, step = population(WRAPPERS["chain"], name)
    step = jax.jit(step)
    alone = []
    for seed in SEEDS:
        tx = WRAPPERS["chain"](transform(int(seed), name))
        state = tx.init(trees.few())
        alone.append([tx, dstjax.apply_masks(trees.few(), state), state])
    for t in range(1, 8):
        grads = trees.like(trees.few(), t)
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


# --- Memory and views -------------------------------------------------------------------------------------------------

# What lives beside the weights: averages of them, numbers of all leaves, a second set of weights, and views.
REMEMBERING = {
    "snfs": dict(MOVING, update_period=2),
    "dsr": dict(sparsity=0.7, update_period=2, end_step=10, threshold=0.2),
    "top_kast": dict(sparsity=0.7, update_period=2, end_step=10),
    "str": dict(sparsity=0.7, s_init=-2.0, end_step=6),
    "iee": dict(sparsity=0.7, update_period=4, end_step=9, drop_fraction=0.5),
}


def remembering(name, seed):
    method = methods.get(name, **REMEMBERING[name])
    return optax.chain(optax.clip(1.0), dstjax.sparsify(optax.adam(0.05), method, seed=seed))


@few(2)
@pytest.mark.parametrize("name", ["snfs", "str", "iee", *map(slow, ("dsr", "top_kast"))])
def test_memory_and_views_of_each_run(name):
    """The views of a population are those of its runs, and the branch is still one."""
    seeds = SEEDS[:2]
    params = trees.few()
    tx = remembering(name, 0)
    axes = vmap_axes(jax.eval_shape(lambda seed: remembering(name, seed).init(params), 0))
    states = jax.vmap(lambda seed: remembering(name, seed).init(params), out_axes=axes)(jnp.asarray(seeds))
    runs = jax.vmap(lambda s: dstjax.apply_masks(params, s), in_axes=(axes,))(states)

    def one(params, state, noise):
        seen = dstjax.forward_params(params, state)
        updates, state = tx.update(jax.tree.map(jnp.add, seen, noise), state, params)
        params = optax.apply_updates(params, updates)
        return params, state, dstjax.forward_params(params, state, training=False)

    step = jax.vmap(one, in_axes=(0, axes, None), out_axes=(0, axes, 0))
    if name != "str":  # every step of it is an update
        assert "cond[" in str(jax.make_jaxpr(step)(runs, states, params))
    step, single = jax.jit(step), jax.jit(one)
    alone = []
    for seed in seeds:
        state = remembering(name, int(seed)).init(params)
        alone.append([dstjax.apply_masks(params, state), state, None])
    for t in range(1, 7):
        noise = trees.like(params, t)
        runs, states, seen = step(runs, states, noise)
        for i, run in enumerate(alone):
            run[:] = single(run[0], run[1], noise)
            for a, b in zip(jax.tree.leaves(dstjax.get_masks(states)), jax.tree.leaves(dstjax.get_masks(run[1])),
                            strict=True):  # fmt: skip
                np.testing.assert_array_equal(a[i], b)
            both = ((runs, seen), (run[0], run[2])), (memory_of(states), memory_of(run[1]))
            for a, b in both:
                for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
                    np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-5)
    assert optax.tree.get(states, "step").shape == ()
    for i in range(len(seeds)):
        lane = jax.tree.map(lambda a, x, i=i: x if a is None else x[i], axes, states, is_leaf=lambda a: a is None)
        assert dstjax.check_sparse(jax.tree.map(lambda x, i=i: x[i], runs), lane)


def memory_of(states):
    """What the method remembers besides masks, as numbers."""
    state = dstjax.state.find(states)
    return [x for x in jax.tree.leaves((state.memory, state.view)) if jnp.issubdtype(x.dtype, jnp.floating)]
