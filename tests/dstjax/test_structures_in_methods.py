"""Structures hold after every update of a method."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

import dstjax
from dstjax import methods
from dstjax.structures import block, fan_in, n_m
from tests import structure_oracles as plain
from tests import trees
from tests.stepping import compiled
from tests.thorough import few, lighter

seeds = st.integers(0, 2**32 - 1)


MOVING = dict(sparsity=0.5, distribution="uniform", drop_fraction=0.4, drop_schedule="constant", end_step=14)
IN_METHODS = {
    "rigl": dict(update_period=2),
    "set": dict(update_period=2),
    "dst_ee": dict(update_period=2, coefficient=0.1),
    "iee": dict(update_period=4),
}


def params_of(dtype=np.float32):
    rng = np.random.default_rng(0)
    draw = lambda *s: np.asarray(rng.standard_normal(s), dtype)  # noqa: E731
    return {"conv": {"bias": draw(4), "kernel": draw(2, 3, 8, 4)}, "dense": draw(8, 12)}


@functools.cache
def runner(name, structure):
    """The transformation and its jitted step, compiled once for all examples."""
    method = methods.get(name, **{**MOVING, **IN_METHODS[name]}, structure=structure)
    tx = dstjax.sparsify(optax.sgd(0.2, momentum=0.5), method, seed=3)

    @jax.jit
    def step(params, state, noise):
        grads = jax.tree.map(jnp.add, dstjax.forward_params(params, state), noise)
        updates, state = compiled(tx).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return method, tx, step


def masks_of_a_run(name, structure, seed, steps=13):
    """The masks at the start and after every mask update; noise has ties and, in places, NaN."""
    method, tx, step = runner(name, structure)
    params = jax.tree.map(jnp.asarray, params_of())
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    rng = np.random.default_rng(seed)
    yield trees.names(dstjax.get_masks(state)), np.asarray(state.targets)
    for t in range(1, steps + 1):
        noise = jax.tree.map(lambda w: np.round(rng.standard_normal(w.shape), 1).astype(np.float32), params_of())
        if t == steps - 3:
            noise["dense"][rng.random((8, 12)) < 0.05] = np.nan
        params, state = step(params, state, noise)
        dstjax.check_sparse(jax.tree.map(jnp.nan_to_num, params), state)
        if method.is_update_step(t):
            yield trees.names(dstjax.get_masks(state)), np.asarray(state.targets)


def assert_changed(history):
    assert any((a != b).any() for a, b in zip(history[0].values(), history[-1].values(), strict=True))


@few(2)
@pytest.mark.parametrize("name", IN_METHODS)
@settings(max_examples=lighter(2, 5))
@given(seed=seeds)
def test_exactly_n_in_every_group_after_every_update(name, seed):
    """Of IEE after the updates that grow; between them a group may lack what was pruned."""
    history = []
    for i, (masks, targets) in enumerate(masks_of_a_run(name, n_m(2, 4), seed)):
        assert targets.tolist() == [m.size // 2 for m in masks.values()]
        for mask in masks.values():
            found = {int(np.asarray(mask)[at].sum()) for at in plain.groups_of(mask.shape, 4)}
            assert found == {2} if name != "iee" or i % 2 == 0 else found <= {0, 1, 2}
        history.append(masks)
    assert len(history) == 7
    assert_changed(history)


@pytest.mark.parametrize("name", ["rigl", "iee"])
@settings(max_examples=lighter(2, 3))
@given(seed=seeds)
def test_whole_blocks_after_every_update(name, seed):
    history = []
    for i, (masks, targets) in enumerate(masks_of_a_run(name, block(4, 2), seed)):
        for mask, target in zip(masks.values(), targets, strict=True):
            blocks = [int(np.asarray(mask)[at].sum()) for at in plain.blocks_of(mask.shape, 4, 2)]
            assert {*blocks} <= {0, 8}
            assert sum(blocks) == target if name == "rigl" or i % 2 == 0 else sum(blocks) <= target
        history.append(masks)
    assert_changed(history)


@pytest.mark.parametrize("name", ["rigl", "set"])
@settings(max_examples=lighter(2, 3))
@given(seed=seeds)
def test_one_fan_in_after_every_update(name, seed):
    """Also of methods that grow what they drop: what did not divide among the neurons left comes back."""
    history = []
    for masks, targets in masks_of_a_run(name, fan_in(0.6), seed):
        for mask, target in zip(masks.values(), targets, strict=True):
            plain.assert_one_fan_in(mask, target)
        history.append(masks)
    assert_changed(history)
