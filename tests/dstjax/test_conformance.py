"""One table of methods times one product of checks, in the manner of optax's battery.

Compiling is the cost here, so each method is compiled once (the fixture ``run``), a few of them in every rewire mode,
and most checks read that one recorded run. The table is in ``tests/conformance.py``; any optimiser inside and any
wrapper outside are in ``test_conformance_optimisers.py``.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import trees
from tests.conformance import (
    METHODS,
    ORDERED,
    ORDERS,
    REWIRING,
    STEPS,
    assert_valid,
    excused,
    grads_at,
    make,
    needed,
    sparsified,
    started,
    step,
)

TRACK = ("exploration", "survival", "error")
# Compiled in every rewire mode and run eagerly too: one of each kind of engine; the others are slow tests.
KINDS = ["static", "dst_ee", "set", "snfs", "lset", "iee", "dcil"]
BY_KIND = [pytest.param(name, marks=() if name in KINDS else pytest.mark.slow) for name in METHODS]


def test_every_method_is_in_the_table():
    assert {*METHODS} == {*methods.names()}


def assert_same(a, b):
    chex.assert_trees_all_equal(a, b, strict=True)


class Run(NamedTuple):
    """A recorded run: what a user would hold after 0, 1, ... steps."""

    name: str
    tx: Any
    method: Any
    jitted: Any
    history: list
    traces: dict


@functools.cache
def recorded(name):
    tx = sparsified(optax.adamw(0.05), name, seed=1, track=TRACK if name in KINDS else ())
    traces = {None: 0, True: 0, False: 0}

    @functools.partial(jax.jit, static_argnames="rewire")
    def jitted(params, state, grads, rewire=None):
        traces[rewire] += 1
        return step(tx, params, state, grads, rewire, **needed(name, grads))

    history = [started(tx)]
    for t in range(1, STEPS + 1):
        history.append(jitted(*history[-1], grads_at(history[-1][0], t)))
    return Run(name, tx, make(name), jitted, history, traces)


@functools.cache
def told(name):
    """The same run where the host decides."""
    run = recorded(name)
    history = [run.history[0]]
    for t in range(1, STEPS + 1):
        rewire = bool(run.method.is_update_step(t))
        history.append(run.jitted(*history[-1], grads_at(history[-1][0], t), rewire=rewire))
    return history


@pytest.fixture(scope="module", params=METHODS)
def run(request):
    return recorded(request.param)


@pytest.fixture(scope="module", params=BY_KIND)
def kind(request):
    return recorded(request.param)


def test_sparse_and_counted_after_every_step(run):
    for t, (params, state) in enumerate(run.history):
        assert_valid(run.name, params, state, t)
    for params, state in told(run.name) if run.name in KINDS else []:
        dstjax.check_sparse(params, state)


def test_what_the_forward_pass_sees(run):
    """Sparse for evaluation; in training too, but for what is explored. Without a view it is the parameters."""
    for params, state in run.history[::2]:
        if run.method.view is None:
            assert dstjax.forward_params(params, state) is params
            continue
        masks = trees.names(dstjax.get_masks(state))
        views = {t: trees.names(dstjax.forward_params(params, state, training=t)) for t in (True, False)}
        exploring = bool(dstjax.is_exploring(state))
        assert not exploring or run.name == "iee"
        for n, w in trees.names(params).items():
            if n not in masks:
                np.testing.assert_array_equal(views[False][n], w)
                continue
            assert not np.asarray(views[False][n])[~np.asarray(masks[n])].any()
            if not exploring:
                np.testing.assert_array_equal(views[True][n], views[False][n])
    kept = [bool((w[~np.asarray(m)] != 0).any()) for w, m in pairs(*run.history[-1])]
    assert any(kept) == (run.method.view is not None)  # weights live on behind the mask, or they do not


def pairs(params, state):
    weights = trees.names(params)
    return [(np.asarray(weights[n]), m) for n, m in trees.names(dstjax.get_masks(state)).items()]


def test_one_compilation(run):
    assert run.traces[None] == 1


def test_one_compilation_for_each_rewire_mode(kind):
    told(kind.name)
    decisions = {bool(kind.method.is_update_step(t)) for t in range(1, STEPS + 1)}
    assert kind.traces == {None: 1, True: int(True in decisions), False: int(False in decisions)}


def assert_equal_runs(name, state, other):
    """Masks, counters and what is tracked bit for bit, parameters and moments to rounding: the programs differ."""
    for field in ("step", "masks", "counters", "targets", "key"):
        assert_same(getattr(state[1], field), getattr(other[1], field))
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
    close(state[0], other[0])
    close(state[1].inner_state, other[1].inner_state)
    close(state[1].memory, other[1].memory)
    close(state[1].tracked, other[1].tracked)


def test_host_decided_is_the_same(kind):
    if excused(kind.name, "rounding"):
        pytest.skip(METHODS[kind.name].excused["rounding"])
    for carry, other in zip(kind.history, told(kind.name), strict=True):
        assert_equal_runs(kind.name, carry, other)


def test_eager_is_the_same_as_jit(kind):
    if excused(kind.name, "rounding"):
        pytest.skip(METHODS[kind.name].excused["rounding"])
    carry = kind.history[0]
    for t in range(1, STEPS + 1):
        grads = grads_at(kind.history[t - 1][0], t)
        carry = step(kind.tx, *carry, grads, **needed(kind.name, grads))
        assert_equal_runs(kind.name, carry, kind.history[t])


def test_the_state_keeps_its_tree_shapes_and_types(run):
    """Also what ``jax.typeof`` sees (weak types, shardings): it decides whether the next call compiles again."""
    start = run.history[0]
    first = jax.tree.map(jax.typeof, start)
    for state in run.history + (told(run.name) if run.name in KINDS else []):
        assert jax.tree.structure(state) == jax.tree.structure(start)
        assert jax.tree.map(jax.typeof, state) == first
        assert all(type(leaf) is type(jnp.zeros(())) for leaf in jax.tree.leaves(state))  # no NumPy scalars


def assert_own_buffers(carry):
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(carry) if leaf.size]
    assert len(set(pointers)) == len(pointers)


def test_no_two_buffers_are_the_same(run):
    """Or donating the train state would fail. Of a fresh state, and of a jitted update."""
    for t in (0, 1, 3, STEPS):
        assert_own_buffers(run.history[t])


def test_nor_after_an_eager_update(kind):
    for t in (0, 1):
        grads = grads_at(kind.history[0][0], t)
        assert_own_buffers(step(kind.tx, *kind.history[0], grads, rewire=t == 0, **needed(kind.name, grads)))


def test_init_needs_shapes_alone(run):
    shapes = jax.eval_shape(lambda: trees.everything())
    abstract = jax.eval_shape(run.tx.init, shapes)
    state = run.history[0][1]
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    fresh = run.tx.init(trees.everything())
    if excused(run.name, "from shapes"):
        with pytest.raises(ValueError, match=f"is a shape without values; method '{run.name}' reads the weights"):
            run.tx.init(shapes)
    else:
        assert_same(run.tx.init(shapes)._replace(inner_state=None), fresh._replace(inner_state=None))


def test_init_under_jit_is_the_same(kind):
    assert_same(jax.jit(kind.tx.init)(trees.everything()), kind.tx.init(trees.everything()))


def test_masks_change_when_the_method_says_so(run):
    changed = []
    for t in range(1, STEPS + 1):
        both = zip(*(jax.tree.leaves(dstjax.get_masks(run.history[i][1])) for i in (t - 1, t)), strict=True)
        if any((a != b).any() for a, b in both):
            changed.append(t)
    due = [t for t in range(1, STEPS + 1) if run.method.is_update_step(t)]
    assert {*changed} <= {*due}
    assert bool(changed) == bool(due)
    if run.name in REWIRING:
        assert changed == due == [3, 6, 9]


def test_extra_arguments_that_a_method_needs(run):
    """It says which ones, where they are missing at an update."""
    grads = grads_at(run.history[0][0], 0)
    known = needed(run.name, grads)
    for name in run.method.needs:
        extra = {n: x for n, x in known.items() if n != name}
        with pytest.raises(ValueError, match=f"method '{run.name}' needs {name}=; call tx.update"):
            step(run.tx, *run.history[0], grads, rewire=True, **extra)


def test_masks_that_a_method_needs(run):
    if run.method.pruner is None or run.method.prune_step:
        return
    tx = dstjax.sparsify(optax.sgd(0.1), run.method)
    with pytest.raises(ValueError, match=f"method '{run.name}' needs initial masks: .*initial_masks.{run.name}"):
        tx.init(trees.everything())


DONATED = ["static", "rigl_itop", "dst_ee", "snfs", "iee"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in DONATED else pytest.mark.slow) for n in METHODS if n != "dense"]
)
def test_donation_of_the_whole_train_state(name):
    tx = sparsified(optax.adam(0.05), name, track=TRACK)
    donating = jax.jit(lambda carry, grads: step(tx, *carry, grads, **needed(name, grads)), donate_argnums=0)
    carry = started(tx)
    reference = jax.tree.map(jnp.array, carry)
    for t in range(1, 8):
        grads = grads_at(reference[0], t)
        before, carry = carry, donating(carry, grads)
        used = (before[0], before[1]._replace(view=None))  # a view is made anew from the step
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(used) if leaf.size)
        reference = step(tx, *reference, grads, **needed(name, grads))
    if not excused(name, "rounding"):
        assert_same(dstjax.get_masks(carry[1]), dstjax.get_masks(reference[1]))
        chex.assert_trees_all_close(carry, reference, rtol=1e-5, atol=1e-6)


# Every method in its own order in bfloat16; three kinds of it in every order; the rest are slow tests.
IN_HALF = [(name, None, jnp.bfloat16) for name in METHODS]
IN_HALF += [(name, order, dtype) for name in ORDERED for order in ORDERS for dtype in (jnp.bfloat16, jnp.float16)]
QUICK = [("dst_ee", "skip"), ("set", "update_then_step"), ("snfs", "step_then_update")]


@pytest.mark.parametrize(
    ("name", "order", "dtype"),
    [pytest.param(n, o, d, marks=() if o is None or (n, o) in QUICK else pytest.mark.slow) for n, o, d in IN_HALF],
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


@pytest.mark.parametrize("grads", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("weights", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["dst_ee", "iee", "snfs"])
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


VMAPPED = ["dst_ee", "iee"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in VMAPPED else pytest.mark.slow) for n in METHODS])
def test_vmap_over_seeds(name):
    """Each lane is the run of its own seed: masks bit for bit."""
    if excused(name, "rounding"):
        pytest.skip(METHODS[name].excused["rounding"])

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
                rewire = bool(make(name).is_update_step(t))
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


def test_the_table_excuses_for_reasons_that_hold():
    """An excuse that is no longer needed fails here, where it can be told without a run."""
    for name in METHODS:
        method = make(name)
        reads = method.initial == "magnitude" or method.memory is not None
        assert excused(name, "from shapes") == reads, name
        random = method.masked and method.initial == "random" and method.pruner is None and method.initial_sparsity != 0
        assert excused(name, "masks differ by seed") == (not random), name
        assert all(reason for reason in METHODS[name].excused.values())
