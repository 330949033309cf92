"""Sums in two parts, against Python's integers; and one ranking of all layers by them, at a reduced width too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dstjax
from dstjax import methods
from dstjax._arrays import wide
from tests import conformance
from tests.thorough import few, slow

COUNTS = st.lists(st.integers(0, 2**31 - 1), min_size=4, max_size=4)


def value(a):
    return (np.asarray(a.high, np.int64) << wide.BITS) + np.asarray(a.low, np.int64)


def of(numbers):
    return jnp.array(numbers, jnp.uint32)


@given(st.integers(0, 10**9), st.sampled_from([(3, 40), (40, 3), (2, 5, 7), (600,), (5, 300)]))
def test_true_entries_are_counted_in_parts_as_in_one_sum(seed, shape):
    flags = jnp.asarray(np.random.default_rng(seed).random(shape) < 0.7)
    assert int(wide.counted(flags, limit=0)) == int(wide.counted(flags)) == int(flags.sum())


@slow
def test_more_than_2_to_the_32_entries_are_counted():
    count = jax.jit(lambda one: wide.counted(jnp.broadcast_to(one, (3, 2**15, 2**16))))  # no array of that size is made
    assert int(count(jnp.bool_(True))) == 3 * 2**31
    assert int(jax.jit(lambda one: wide.counted(jnp.broadcast_to(one, (2**16, 2**16))))(jnp.bool_(True))) == 2**32


@given(COUNTS, COUNTS)
def test_arithmetic_is_that_of_integers(a, b):
    first, second = wide.total(of(a)), wide.total(of(b))
    assert (int(value(first)), int(value(second))) == (sum(a), sum(b))
    assert bool(wide.at_least(first, second)) == (sum(a) >= sum(b))
    assert int(value(wide.minus(first, second))) == max(sum(a) - sum(b), 0)
    assert int(wide.narrow(first)) == min(sum(a), 2**32 - 1)
    assert value(wide.before(of(a))).tolist() == [sum(a[:i]) for i in range(4)]
    assert float(first.to_float()) == np.float32(sum(a))
    signed = np.array(a, np.int64) - np.array(b, np.int64)
    assert int(value(wide.surplus(jnp.array(signed, jnp.int32)))) == max(int(signed.sum()), 0)


BITS_OF_PROGRAMS = [3]  # those that the compiled programs of this process were made with


def run(name, changes):
    tx = conformance.sparsified(optax.sgd(0.05), name, changes=changes)
    params, state = conformance.started(tx)
    found = []
    update = jax.jit(tx.update)
    for t in range(1, 8):
        grads = conformance.grads_at(params, t)
        updates, state = update(grads, state, params, **conformance.needed(name, grads))
        params = optax.apply_updates(params, updates)
        found.append(dstjax.get_masks(state))
    return found, params


@few(2)
@pytest.mark.parametrize("bits", [3, slow(16)])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("rigl", dict(scope="global")),
        ("dpf", {}),
        ("snfs", {}),
        slow("dcil", {}),
        slow("one_shot", dict(scope="global")),
        slow("iee", dict(scope="global")),
        slow("set", dict(scope="global")),
    ],
)
def test_methods_that_rank_all_layers_together(monkeypatch, bits, name, changes):
    """With 3 bits in the low part the counts of the small network carry as those of a large one do with 16."""
    expected, weights = run(name, changes)
    monkeypatch.setattr(wide, "LIMIT", 1)
    monkeypatch.setattr(wide, "BITS", bits)
    if [bits] != BITS_OF_PROGRAMS:  # nothing else takes this path at such shapes: what has the same bits may stay
        jax.clear_caches()
        BITS_OF_PROGRAMS[:] = [bits]
    found, others = run(name, changes)
    for a, b in zip(expected, found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    jax.tree.map(np.testing.assert_array_equal, weights, others)


def test_what_adds_up_in_other_ways_is_refused(monkeypatch):
    monkeypatch.setattr(wide, "LIMIT", 1)
    for method in (methods.granet(**conformance.MOVING), methods.dsr(**conformance.TIMED)):
        tx = dstjax.sparsify(optax.sgd(0.05), method)
        params, state = conformance.started(tx)
        with pytest.raises(ValueError, match="adds up numbers of weights"):
            tx.update(params, state, params, rewire=True)
