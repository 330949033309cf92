"""One table of methods times one product of checks, in the manner of optax's battery.

Compiling is the cost here, so each method is compiled once (the fixture ``run``), one of each kind in every rewire mode
(the fixture ``kind``), and most checks read that one recorded run. The table is in ``tests/conformance.py``; any
optimiser inside and any wrapper outside are in ``test_conformance_optimisers.py``, programs of other kinds in
``test_conformance_programs.py``.
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
    KINDS,
    METHODS,
    REWIRING,
    STEPS,
    assert_valid,
    by_kind,
    draws_masks,
    every,
    excused,
    grads_at,
    has_view,
    is_update,
    make,
    needed,
    needs,
    needs_masks,
    order_of,
    reads_weights,
    sparsified,
    started,
    step,
)

TRACK = ("exploration", "survival", "error")
# The kinds whose programs of every rewire mode are compiled by default; the slow tests have all.
MODAL = ["dcil", "set", "dst_ee", "snfs", "iee"]


def test_every_method_is_in_the_table():
    assert {*METHODS} == {*methods.names()}


def assert_same(a, b):
    chex.assert_trees_all_equal(a, b, strict=True)


class Run(NamedTuple):
    """A recorded run: what a user would hold after 0, 1, ... steps."""

    name: str
    tx: Any
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
    return Run(name, tx, jitted, history, traces)


@functools.cache
def told(name):
    """The same run where the host decides."""
    run = recorded(name)
    history = [run.history[0]]
    for t in range(1, STEPS + 1):
        rewire = is_update(name, t)
        history.append(run.jitted(*history[-1], grads_at(history[-1][0], t), rewire=rewire))
    return history


@pytest.fixture(scope="module", params=every())
def run(request):
    return recorded(request.param)


@pytest.fixture(scope="module", params=by_kind(quick=MODAL))
def kind(request):
    return recorded(request.param)


@pytest.fixture(scope="module", params=by_kind("rounding", quick=MODAL))
def steady(request):
    """Of a method whose masks are the same whatever the program."""
    return recorded(request.param)


def test_sparse_and_counted_after_every_step(run):
    for t, (params, state) in enumerate(run.history):
        assert_valid(run.name, params, state, t)
    for params, state in told(run.name) if run.name in MODAL else []:
        dstjax.check_sparse(params, state)


def test_what_the_forward_pass_sees(run):
    """Sparse for evaluation; in training too, but for what is explored. Without a view it is the parameters."""
    for params, state in run.history[::2]:
        if not has_view(run.name):
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
    assert any(kept) == has_view(run.name)  # weights live on behind the mask, or they do not


def pairs(params, state):
    weights = trees.names(params)
    return [(np.asarray(weights[n]), m) for n, m in trees.names(dstjax.get_masks(state)).items()]


def test_one_compilation(run):
    assert run.traces[None] == 1


def test_one_compilation_for_each_rewire_mode(kind):
    told(kind.name)
    decisions = {is_update(kind.name, t) for t in range(1, STEPS + 1)}
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


def test_host_decided_is_the_same(steady):
    for carry, other in zip(steady.history, told(steady.name), strict=True):
        assert_equal_runs(steady.name, carry, other)


def test_eager_is_the_same_as_jit(steady):
    carry = steady.history[0]
    for t in range(1, STEPS + 1):
        grads = grads_at(steady.history[t - 1][0], t)
        carry = step(steady.tx, *carry, grads, **needed(steady.name, grads))
        assert_equal_runs(steady.name, carry, steady.history[t])


def test_the_state_keeps_its_tree_shapes_and_types(run):
    """Also what ``jax.typeof`` sees (weak types, shardings): it decides whether the next call compiles again."""
    start = run.history[0]
    first = jax.tree.map(jax.typeof, start)
    for state in run.history + (told(run.name) if run.name in MODAL else []):
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
    due = [t for t in range(1, STEPS + 1) if is_update(run.name, t)]
    assert {*changed} <= {*due}
    assert bool(changed) == bool(due)
    if run.name in REWIRING:
        assert changed == due == [3, 6, 9]


def test_extra_arguments_that_a_method_needs(run):
    """It says which ones, where they are missing at an update."""
    grads = grads_at(run.history[0][0], 0)
    known = needed(run.name, grads)
    for name in needs(run.name):
        extra = {n: x for n, x in known.items() if n != name}
        with pytest.raises(ValueError, match=f"method '{run.name}' needs {name}=; call tx.update"):
            step(run.tx, *run.history[0], grads, rewire=True, **extra)


def test_masks_that_a_method_needs(run):
    if not needs_masks(run.name):
        return
    tx = dstjax.sparsify(optax.sgd(0.1), make(run.name))
    with pytest.raises(ValueError, match=f"method '{run.name}' needs initial masks: .*initial_masks.{run.name}"):
        tx.init(trees.everything())


def test_the_table_excuses_for_reasons_that_hold():
    """An excuse that is no longer needed fails here, where it can be told without a run."""
    for name in METHODS:
        assert excused(name, "from shapes") == reads_weights(name), name
        assert excused(name, "masks differ by seed") == (not draws_masks(name)), name
        assert all(reason for reason in METHODS[name].excused.values())


def test_the_table_has_one_representative_of_a_kind():
    kinds = [METHODS[name].represents for name in KINDS]
    assert len({*kinds}) == len(kinds)
    assert {has_view(name) for name in KINDS} == {reads_weights(name) for name in KINDS} == {True, False}
    assert {order_of(name) for name in KINDS} == {order_of(name) for name in METHODS}
