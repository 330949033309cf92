"""Replacing the state of an inner optimiser while it runs, and what that must not change."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax._arrays.trees import path_name
from dstjax._engine.replay import Replay
from tests import trees
from tests.thorough import few, slow

MOVING = dict(sparsity=0.7, update_period=3, end_step=100, drop_fraction=0.5)
ENTRY_BY_ENTRY = {
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw after a clip": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    "lion": optax.lion(0.01),
    "rmsprop": optax.rmsprop(0.01, initial_scale=0.5, centered=True),
    "adagrad": optax.adagrad(0.1, initial_accumulator_value=0.3),
    "amsgrad": optax.amsgrad(0.1),
    "in a branch": optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2).gradient_transformation(),
}
AS_A_WHOLE = {
    "lamb": optax.lamb(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=1000),
    "clip after": optax.chain(optax.sgd(0.1, momentum=0.9), optax.clip_by_global_norm(1.0)),
}


def reads_entrywise(inner):
    params = {"a": jnp.ones((4, 6)), "b": jnp.ones(4)}
    state = inner.init(params)
    moments = [np.ndim(x) > 0 for x in jax.tree.leaves(state)]
    return Replay.of(inner.update, params, state, params).is_entrywise(moments)


@pytest.mark.parametrize("name", ENTRY_BY_ENTRY)
def test_moments_that_are_read_entry_by_entry(name):
    assert reads_entrywise(ENTRY_BY_ENTRY[name])


@pytest.mark.parametrize("name", AS_A_WHOLE)
def test_moments_that_are_read_as_a_whole(name):
    assert not reads_entrywise(AS_A_WHOLE[name])


@pytest.mark.parametrize(
    ("entrywise", "read"),
    [
        (True, lambda m: jnp.where(m > 0, m, -m)),
        (True, lambda m: jax.jit(lambda x: 2 * x)(m)),
        (False, lambda m: jax.jit(lambda x: x - x.mean())(m)),
        (False, lambda m: m[::-1]),
        (False, lambda m: m + m.sum()),
        (False, lambda m: m.T @ m),
        (False, lambda m: m * jnp.cumsum(m, axis=0)),
        (True, lambda m: jnp.ones_like(m) * 3.0),
    ],
)
def test_what_is_read_in_the_next_step_does_not_count(entrywise, read):
    """The new moment is what counts: how it came about, and what reads the old one, does not."""

    def update(gradient, moment):
        moment = moment * jnp.sum(gradient) + gradient
        return read(moment), moment

    square = jnp.ones((4, 4))
    assert Replay.of(update, square, square).is_entrywise([True]) is entrywise


def test_a_replaced_leaf_is_what_updates_read():
    def update(gradient, moment):
        moment = {"m": 0.5 * moment["m"] + gradient, "t": moment["t"]}
        return 2 * moment["m"], moment

    run = Replay.of(update, jnp.ones(3), {"m": jnp.ones(3), "t": jnp.ones(())})
    updates, state = run.run([lambda x: x + 10, lambda x: x + 1])
    np.testing.assert_array_equal(state["m"], [11.5] * 3)
    np.testing.assert_array_equal(updates, [23.0] * 3)
    assert state["t"] == 2  # not computed by the function, so replaced at its end
    plain, same = run.run([None, None])
    np.testing.assert_array_equal(plain, [3.0] * 3)
    assert (same["m"][0], same["t"]) == (1.5, 1)


# After what reads all gradients, in a branch of its own, and as a whole; moments that are not zero follow below.
QUICK = {"adamw after a clip", "in a branch", "lamb"}


@few(2)
@pytest.mark.parametrize("name", [n if n in QUICK else slow(n) for n in (*ENTRY_BY_ENTRY, *AS_A_WHOLE)])
def test_the_branch_does_what_a_host_does(name):
    """The masks bit for bit, weights and moments of active weights up to rounding; grown weights start at zero."""
    inner = (ENTRY_BY_ENTRY | AS_A_WHOLE)[name]
    tx = dstjax.sparsify(inner, methods.rigl(**MOVING))
    params = trees.few()
    inside = outside = tx.init(params)
    params = other = dstjax.apply_masks(params, inside)
    steps = {r: jax.jit(lambda g, s, p, r=r: tx.update(g, s, p, rewire=r)) for r in (None, True, False)}
    for t in range(1, 10):
        gradients = trees.like(params, t)
        before = dstjax.get_masks(inside)
        updates, inside = steps[None](gradients, inside, params)
        params = optax.apply_updates(params, updates)
        updates, outside = steps[t % 3 == 0](gradients, outside, other)
        other = optax.apply_updates(other, updates)
        dstjax.check_sparse(params, inside)
        for n, mask in trees.names(dstjax.get_masks(inside)).items():
            np.testing.assert_array_equal(mask, trees.names(dstjax.get_masks(outside))[n])
            np.testing.assert_allclose(trees.names(params)[n], trees.names(other)[n], rtol=1e-5, atol=1e-7)
            if t % 3 == 0:
                grown = np.asarray(mask & ~trees.names(before)[n])
                assert grown.any()
                assert not trees.names(params)[n][grown].any()
                for moment in moments_of(n, mask.shape, inside.inner_state):
                    assert not moment[grown | ~np.asarray(mask)].any()


def test_the_first_step_may_be_a_mask_update():
    """Moments that do not start at zero do so for inactive weights, before any step has masked them."""
    tx = dstjax.sparsify(ENTRY_BY_ENTRY["adagrad"], methods.rigl(**MOVING | dict(update_period=1)))
    params = trees.few()
    state = tx.init(params)
    params, before = dstjax.apply_masks(params, state), dstjax.get_masks(state)
    _, state = jax.jit(tx.update)(trees.like(params, 0), state, params)
    for n, mask in trees.names(dstjax.get_masks(state)).items():
        stays = np.asarray(mask & trees.names(before)[n])
        assert np.asarray(mask & ~trees.names(before)[n]).any()
        for moment in moments_of(n, mask.shape, state.inner_state):
            np.testing.assert_array_equal(moment, np.where(stays, np.float32(0.3), 0))


def moments_of(name, shape, inner_state):
    flat = jax.tree_util.tree_flatten_with_path(inner_state)[0]
    found = [np.asarray(x) for path, x in flat if path_name(path).endswith(name) and np.shape(x) == shape]
    assert found
    return found


@pytest.mark.optimised
@pytest.mark.parametrize("inner", ["sgd", "adamw after a clip"])
def test_a_branch_copies_no_mask(inner):
    """Masks that were read after the branch as they were before it would be copied in each step, changed or not."""
    tx = dstjax.sparsify(ENTRY_BY_ENTRY[inner], methods.rigl(**MOVING))
    params = {"kernel": jnp.ones((24, 5)), "other": jnp.ones((16, 3))}
    state = tx.init(params)

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    text = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile().as_text()
    branches = re.search(r"conditional\(.*branch_computations=\{%([\w.\-]+)", text[text.index("\nENTRY") :])
    assert branches
    without_update = text[text.index(f"\n%{branches[1]} ") :].split("\n}")[0]
    assert "u8[3,5]" in without_update
    assert "copy(" not in without_update
