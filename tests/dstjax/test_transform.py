"""The contract of ``sparsify``: what update returns, what the inner optimiser sees, who decides."""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import trees
from tests.conformance import ORDERS, started
from tests.trees import masked_leaves

EVERY_OTHER = dict(sparsity=0.7, update_period=2, drop_fraction=0.5, drop_schedule="constant")


class Seen(NamedTuple):
    """State of an optimiser that remembers what it was given."""

    updates: dict
    params: dict
    calls: jax.Array


def recorder(heard=None):
    """Plain descent that keeps the gradients and parameters of its last call in its state."""

    def init(params):
        return Seen(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.array, params), jnp.int32(0))

    def update(updates, state, params=None, **extra_args):
        if heard is not None:
            heard.append(extra_args)
        return jax.tree.map(lambda g: -0.1 * g, updates), Seen(updates, params, state.calls + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def test_the_snippet_of_the_readme():
    def loss_fn(params, batch):
        return jnp.mean((batch @ params["kernel"] + params["bias"][None]) ** 2)

    params = {"kernel": jnp.ones((8, 16)), "bias": jnp.ones(16)}
    batch = jnp.ones((4, 8))
    method = methods.dst_ee(sparsity=0.9, update_period=3, end_step=75_000, coefficient=1e-3)
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method)

    opt_state = tx.init(params)
    params = dstjax.apply_masks(params, opt_state)

    @jax.jit
    def train_step(params, opt_state, batch):
        grads = jax.grad(loss_fn)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    before = loss_fn(params, batch)
    for _ in range(8):
        params, opt_state = train_step(params, opt_state, batch)
        assert int((params["kernel"] != 0).sum()) <= 128 - 115
        assert int(dstjax.get_masks(opt_state)["kernel"].sum()) == 128 - 115
        assert dstjax.check_sparse(params, opt_state)
    assert loss_fn(params, batch) < before


def test_the_signature_is_the_conventional_one():
    """MultiSteps passes params by keyword, others by position; anything unknown must find a way through."""
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5))
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    parameters = inspect.signature(tx.update).parameters
    assert [*parameters] == ["updates", "state", "params", "rewire", "value", "extra_args"]
    assert parameters["params"].default is None
    assert parameters["rewire"].kind is parameters["value"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["extra_args"].kind is inspect.Parameter.VAR_KEYWORD
    signature = inspect.signature(dstjax.sparsify).parameters
    assert [*signature][:2] == ["inner", "method"]
    assert signature["seed"].default == 0


def test_extra_arguments_reach_the_inner_optimiser():
    heard = []
    tx = dstjax.sparsify(recorder(heard), methods.rigl(**EVERY_OTHER))
    params, state = started(tx)
    _, state = tx.update(params, state, params, value=3.0, batch_size=7, rewire=False)
    assert heard == [{"value": 3.0, "batch_size": 7}]
    tx.update(params, state, params, rewire=False)
    assert heard[1:] == [{}]  # a value that nobody gave is not passed on as None


def test_value_reaches_what_needs_it():
    inner = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    tx = dstjax.sparsify(inner, methods.rigl(**EVERY_OTHER))
    params, state = started(tx)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        updates, state = tx.update(params, state, params, value=value)
        params = optax.apply_updates(params, updates)
    assert float(state.inner_state[1].scale) < 1.0
    dstjax.check_sparse(params, state)


@pytest.mark.parametrize("order", ORDERS)
def test_the_inner_optimiser_sees_masked_gradients_and_sparse_parameters(order):
    tx = dstjax.sparsify(recorder(), methods.rigl(**EVERY_OTHER, update_order=order))
    params, state = started(tx)
    for t in range(1, 7):
        before = dstjax.get_masks(state)
        grads = trees.like(params, t)
        updates, state = tx.update(grads, state, params)
        active = dstjax.get_masks(state) if order == "update_then_step" else before
        if order == "skip" and t % 2 == 0:
            assert int(state.inner_state.calls) == t  # it counts, and moves nothing
            params = optax.apply_updates(params, updates)
            continue
        # As it saw them, before the moments of moved weights were reset: the recorder's copies are moments too.
        resets = order == "step_then_update" and t % 2 == 0
        for part, source in ((state.inner_state.updates, grads), (state.inner_state.params, params)):
            seen, source = trees.names(part), trees.names(source)
            for n in trees.DENSE:
                np.testing.assert_array_equal(seen[n], source[n])
            for n, m in trees.names(active).items():
                m = m & trees.names(dstjax.get_masks(state))[n] if resets else m
                np.testing.assert_array_equal(seen[n], np.where(m, source[n], 0))
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("order", ORDERS)
def test_an_update_takes_every_inactive_weight_to_zero(order):
    """Also from parameters that were never masked: the update of an inactive weight is its negative."""
    tx = dstjax.sparsify(optax.adamw(0.1), methods.rigl(**EVERY_OTHER, update_order=order))
    params = trees.everything()
    state = tx.init(params)
    for t in range(4):
        updates, state = tx.update(trees.like(params, t), state, params)
        for (u, m), (w, _) in zip(masked_leaves(updates, state), masked_leaves(params, state), strict=True):
            np.testing.assert_array_equal(u[~m], -w[~m])
        params = optax.apply_updates(params, updates)
        for w, m in masked_leaves(params, state):
            assert not w[~m].any()
            assert not np.signbit(w[~m]).any()


def test_a_skipped_step_changes_masks_alone():
    tx = dstjax.sparsify(optax.adam(0.1), methods.rigl(**EVERY_OTHER))
    params, state = started(tx)
    updates, state = tx.update(trees.like(params, 0), state, params, rewire=False)
    params = optax.apply_updates(params, updates)
    old = trees.names(dstjax.get_masks(state))
    updates, new_state = tx.update(trees.like(params, 1), state, params, rewire=True)
    assert [int(optax.tree.get(s, "count")) for s in (state, new_state)] == [1, 2]
    assert int(new_state.step) == 2
    after, before = trees.names(optax.apply_updates(params, updates)), trees.names(params)
    for n in trees.DENSE:
        np.testing.assert_array_equal(after[n], before[n])
    changed = 0
    for n, m in trees.names(dstjax.get_masks(new_state)).items():
        stays = np.asarray(m & old[n])
        np.testing.assert_array_equal(after[n], np.where(stays, before[n], 0))
        for moments in (optax.tree.get(new_state, "mu"), optax.tree.get(new_state, "nu")):
            moment = np.asarray(trees.names(moments)[n])
            assert not moment[~stays].any()
            assert moment[stays].all()  # those of the others are kept
        changed += int((m != old[n]).sum())
    assert changed


@pytest.mark.parametrize("order", ORDERS)
def test_a_weight_dropped_and_grown_again_keeps_value_and_moments(order):
    """Growth that likes exactly what was just dropped: the masks stay, and so does everything else."""
    method = methods.rigl(**EVERY_OTHER, grow=lambda leaf: leaf.weight != 0, update_order=order)
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method)
    static = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), methods.static(sparsity=0.7))
    params, state = started(tx)
    other, other_state = started(static)
    for t in range(1, 6):
        grads = trees.like(params, t)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if order != "skip" or t % 2:
            updates, other_state = static.update(grads, other_state, other)
            other = optax.apply_updates(other, updates)
    for a, b in zip(
        jax.tree.leaves((params, state.inner_state)), jax.tree.leaves((other, other_state.inner_state)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("order", ORDERS)
def test_noise_does_not_reach_what_is_grown(order):
    """An optimiser that moves weights without a gradient: a grown weight starts at 0, and so do its moments."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates, state, params=None):
        state = jax.tree.map(lambda m, g: m + g + 1.0, state, updates)
        return jax.tree.map(lambda m: -0.1 * m, state), state

    tx = dstjax.sparsify(optax.GradientTransformation(init, update), methods.rigl(**EVERY_OTHER, update_order=order))
    params, state = started(tx)
    for t in range(1, 7):
        old = dstjax.get_masks(state)
        before, grads = state.inner_state, trees.like(params, t)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        dstjax.check_sparse(params, state)
        if t % 2 == 0:
            weights, moments, gradients = trees.names(params), trees.names(state.inner_state), trees.names(grads)
            for n, m in trees.names(dstjax.get_masks(state)).items():
                grown = np.asarray(m & ~trees.names(old)[n])
                assert grown.any()
                if order == "skip":  # moments of inactive weights are zero after every call
                    assert not trees.names(before)[n][grown].any()
                else:
                    assert trees.names(before)[n][grown].all()  # what was there is not what is found now
                if order == "update_then_step":  # it has seen one gradient since
                    np.testing.assert_allclose(moments[n][grown], gradients[n][grown] + 1.0, rtol=1e-6)
                    np.testing.assert_allclose(weights[n][grown], -0.1 * (gradients[n][grown] + 1.0), rtol=1e-6)
                else:
                    assert not weights[n][grown].any()
                    assert not moments[n][grown].any()


def test_a_host_that_decides_asks_the_method():
    method = methods.rigl(sparsity=0.7, update_period=3, start_step=4, end_step=12, drop_fraction=0.5)
    assert [t for t in range(1, 20) if method.is_update_step(t)] == [6, 9]
    assert methods.static(sparsity=0.5).is_update_step(6) is False
    assert methods.dense().is_update_step(6) is False


@pytest.mark.parametrize("name", ["static", "dense"])
def test_a_fixed_topology_cannot_be_rewired(name):
    method = methods.get(name, **({} if name == "dense" else {"sparsity": 0.5}))
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params, state = started(tx)
    plain, _ = tx.update(params, state, params)
    forced, new = tx.update(params, state, params, rewire=True)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(forced), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(dstjax.get_masks(state)), jax.tree.leaves(dstjax.get_masks(new)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_numpy_bool_decides_too():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(**EVERY_OTHER))
    params, state = started(tx)
    grads = trees.like(params, 0)
    for flag in (True, False):
        a, b = (tx.update(grads, state, params, rewire=kind(flag))[1].masks for kind in (bool, np.bool_))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)
