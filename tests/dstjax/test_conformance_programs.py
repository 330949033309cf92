"""Every method in programs of its own: with donated state, in half precision, under vmap."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import dstjax
from tests import trees
from tests.conformance import (
    METHODS,
    ORDERED,
    ORDERS,
    STEPS,
    assert_valid,
    by_kind,
    excused,
    grads_at,
    is_update,
    needed,
    sparsified,
    started,
    step,
)
from tests.thorough import few, slow

TRACK = ("exploration", "survival", "error")


def assert_same(a, b):
    chex.assert_trees_all_equal(a, b, strict=True)


@pytest.mark.parametrize("name", by_kind("donation", quick=["dst_ee", "dcil"]))
def test_donation_of_the_whole_train_state(name):
    tx = sparsified(optax.adam(0.05), name, track=TRACK)
    donating = jax.jit(lambda carry, grads: step(tx, *carry, grads, **needed(name, grads)), donate_argnums=0)
    carry = started(tx)
    reference = jax.tree.map(jnp.array, carry)
    # Where each call is a mask update it counts anew what it tracks, and jax does not take what no program reads.
    unread = {"tracked": None} if all(is_update(name, t) for t in range(1, 8)) else {}
    for t in range(1, 8):
        grads = grads_at(reference[0], t)
        before, carry = carry, donating(carry, grads)
        used = (before[0], before[1]._replace(view=None, **unread))  # a view is made anew from the step
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(used) if leaf.size)
        reference = step(tx, *reference, grads, **needed(name, grads))
    if not excused(name, "rounding"):
        assert_same(dstjax.get_masks(carry[1]), dstjax.get_masks(reference[1]))
        chex.assert_trees_all_close(carry, reference, rtol=1e-5, atol=1e-6)


# Each kind that moves masks once, in bfloat16 or float16, and each order; all in all of them are slow tests.
IN_HALF = [(name, None, jnp.bfloat16) for name in METHODS]
IN_HALF += [(name, order, dtype) for name in ORDERED for order in ORDERS for dtype in (jnp.bfloat16, jnp.float16)]
QUICK = [(name, None, jnp.bfloat16) for name in ("dst_ee", "dcil", "iee")]
QUICK += [("snfs", "step_then_update", jnp.float16), ("set", "update_then_step", jnp.float16)]


@few(2)
@pytest.mark.parametrize(
    ("name", "order", "dtype"),
    [pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow) for each in IN_HALF],
)
def test_half_precision_is_kept(name, order, dtype):
    changes = {} if order is None else {"update_order": order}
    tx = sparsified(optax.sgd(0.1, momentum=0.9), name, changes=changes)
    params, state = started(tx, trees.everything(dtype))
    types = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for t in range(1, 8):
        grads = grads_at(params, t)
        updates, state = tx.update(grads, state, params, **needed(name, grads))
        assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        params = optax.apply_updates(params, updates)
        assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        seen = dstjax.forward_params(params, state)
        assert {w.dtype for w in jax.tree.leaves(seen)} == {jnp.dtype(dtype)}
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == types
        assert_valid(name, params, state, t)
    assert {m.dtype for m in jax.tree.leaves(optax.tree.get(state.inner_state, "trace"))} == {jnp.dtype(dtype)}


# Both ways of mixing them; the slow tests have all.
MIXED = [("dst_ee", "bfloat16", "float32"), ("snfs", "float32", "bfloat16")]


@pytest.mark.parametrize(
    ("name", "weights", "grads"),
    [
        each if each in MIXED else slow(*each)
        for each in itertools.product(["dst_ee", "iee", "snfs"], *[["float32", "bfloat16"]] * 2)
    ],
)
def test_gradients_of_another_dtype_than_the_weights(name, weights, grads):
    tx = sparsified(optax.adam(0.1), name)
    params, state = started(tx, trees.everything(weights))
    types = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for t in range(1, 8):
        updates, state = tx.update(jax.tree.map(lambda g: g.astype(grads), grads_at(params, t)), state, params)
        params = optax.apply_updates(params, updates)
        assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype(weights)}
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state._replace(inner_state=None)) == jax.tree.map(
            lambda x: x, types._replace(inner_state=None)
        )
        assert_valid(name, params, state, t)


@pytest.mark.parametrize("name", by_kind("rounding", quick=[]))
def test_vmap_over_seeds(name):
    """Each lane is the run of its own seed: masks bit for bit."""

    def run(seed, told):
        tx = sparsified(optax.sgd(0.05, momentum=0.9), name, seed=seed)
        params, state = started(tx)

        def body(carry, xs):
            grads = jax.tree.map(jnp.add, carry[0], xs)
            carry = step(tx, *carry, grads, **needed(name, grads))
            return carry, dstjax.get_masks(carry[1])

        noise = [trees.like(params, t) for t in range(1, STEPS + 1)]
        if told:  # a host loop, with the same decision for all seeds
            history = []
            for t, n in enumerate(noise, 1):
                grads = jax.tree.map(jnp.add, params, n)
                rewire = is_update(name, t)
                params, state = step(tx, params, state, grads, rewire=rewire, **needed(name, grads))
                history.append(dstjax.get_masks(state))
            return params, jax.tree.map(lambda *m: jnp.stack(m), *history)
        (params, state), history = jax.lax.scan(body, (params, state), jax.tree.map(lambda *n: jnp.stack(n), *noise))
        return params, history

    seeds = jnp.array([0, 123456])
    params, masks = jax.jit(jax.vmap(functools.partial(run, told=False)))(seeds)
    host_params, host_masks = jax.vmap(functools.partial(run, told=True))(seeds)
    assert_same(masks, host_masks)
    chex.assert_trees_all_close(params, host_params, rtol=1e-4, atol=1e-5)
    for i, seed in enumerate(seeds):
        single = run(int(seed), told=True)
        assert_same(jax.tree.map(lambda m, i=i: m[i], masks), single[1])
        chex.assert_trees_all_close(jax.tree.map(lambda w, i=i: w[i], params), single[0], rtol=1e-4, atol=1e-5)
    if not excused(name, "masks differ by seed"):
        assert any((m[0] != m[1]).any() for m in jax.tree.leaves(masks))


@few(2)
@pytest.mark.parametrize("name", [*METHODS])
def test_floats_of_one_byte_run_through(name):
    """JAX promotes them with nothing."""
    params = trees.everything("float8_e4m3fn")
    tx = sparsified(optax.sgd(0.1), name, track=TRACK)

    def run(params):
        params, state = started(tx, params)
        params, state = step(tx, params, state, params, rewire=True, **needed(name, params))
        return params, dstjax.forward_params(params, state)

    stepped, seen = jax.eval_shape(run, params)
    assert {x.dtype for x in jax.tree.leaves((stepped, seen))} == {jnp.dtype("float8_e4m3fn")}
