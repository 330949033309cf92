"""What ``sparsify`` keeps exact through many updates: counts, topologies, counters, moments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dstjax
from dstjax import methods
from tests import trees
from tests.conformance import ORDERS, started
from tests.thorough import few, lighter, slow
from tests.trees import masked_leaves

EVERY_OTHER = dict(sparsity=0.7, update_period=2, drop_fraction=0.5, drop_schedule="constant")

# A few sets of shapes, each compiled once: single weights, single rows, a 5-d kernel.
SHAPES = [[(1, 1), (3, 7)], [(1, 11), (2, 2, 1, 2, 3)], [(40, 3)]]


@settings(max_examples=lighter(2, 25))
@given(
    shapes=st.sampled_from(SHAPES),
    percent=st.integers(0, 99),
    fraction=st.floats(0, 1),
    name=st.sampled_from(["set", "rigl", "rigl_itop", "mest", "dst_ee"]),
    order=st.sampled_from(ORDERS),
    scope=st.sampled_from(["layer", "global"]),
    seed=st.integers(0, 2**31 - 1),
    ties=st.booleans(),
)
def test_counts_are_exact_through_many_updates(shapes, percent, fraction, name, order, scope, seed, ties):
    """Densities from 0.01 to 1, fractions from 0 to 1, gradients full of ties or without."""
    assume((name, scope) != ("mest", "global"))  # it reads no densities then, and says so
    rng = np.random.default_rng(seed)
    draw = (lambda s: rng.integers(-2, 3, s)) if ties else rng.standard_normal
    params = {f"w{i}": jnp.asarray(draw(s), jnp.float32) for i, s in enumerate(shapes)}
    density = 1 - percent / 100
    # Each leaf keeps one weight at least, as it must.
    densities = {n: max(density, 1.0 / w.size) for n, w in params.items()}
    method = methods.get(
        name, sparsity=0.0, distribution=lambda shapes, sparsity: densities, update_period=1, drop_fraction=fraction,
        drop_schedule="constant", update_order=order, scope=scope,
    )  # fmt: skip
    tx = dstjax.sparsify(optax.sgd(0.5, momentum=0.9), method, seed=seed)
    params, state = started(tx, params)
    targets = {n: w.size - w.size * percent // 100 for n, w in params.items()}
    assert dict(zip(params, state.targets.tolist(), strict=True)) == targets
    for _ in range(4):
        grads = {n: jnp.asarray(draw(w.shape), jnp.float32) for n, w in params.items()}
        old = dstjax.get_masks(state)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert dstjax.masks.count_active(dstjax.get_masks(state)) == targets
        assert dstjax.check_sparse(params, state)
        for n, m in dstjax.get_masks(state).items():
            moved = int((m & ~old[n]).sum())
            assert moved == int((old[n] & ~m).sum())  # as many grown as dropped
            assert scope == "global" or moved <= np.ceil(fraction * targets[n])
            assert moved < targets[n]


# --- NaN --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"),
    [
        (n, o) if n == "rigl" or (n, o) in [("set", "skip"), ("dst_ee", "step_then_update")] else slow(n, o)
        for n in ("set", "rigl", "rigl_itop", "mest", "dst_ee")
        for o in ORDERS
    ],
)
def test_nan_gradients_leave_a_valid_topology(name, order):
    """All NaN, and one NaN: the count of every leaf is exact, every inactive weight is 0."""
    method = methods.get(name, sparsity=0.7, update_period=1, drop_fraction=0.5, drop_schedule="constant",
                         update_order=order)  # fmt: skip
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    for poison in (
        lambda g: jnp.full_like(g, jnp.nan),
        lambda g: jnp.where(jnp.arange(g.size).reshape(g.shape) == 1, jnp.nan, g),
    ):
        params, state = started(tx)
        updates, state = tx.update(jax.tree.map(poison, trees.like(params, 0)), state, params)
        after = optax.apply_updates(params, updates)
        assert [int(m.sum()) for _, m in masked_leaves(after, state)] == state.targets.tolist()
        # A dropped weight that became NaN in the same step stays NaN under addition; only the others can be 0.
        if order != "step_then_update":
            dstjax.check_sparse(after, state)
        assert np.isfinite(np.concatenate([np.ravel(w) for w in jax.tree.leaves(after)])).any()


def test_nan_gradients_that_a_wrapper_refuses_change_nothing():
    tx = optax.apply_if_finite(dstjax.sparsify(optax.sgd(0.1), methods.rigl(**EVERY_OTHER)), max_consecutive_errors=3)
    params, state = started(tx)
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), params)
    for t in range(6):
        updates, state = tx.update(bad if t % 3 == 1 else params, state, params)
        params = optax.apply_updates(params, updates)
        assert dstjax.check_sparse(params, state)
        assert all(np.isfinite(w).all() for w in jax.tree.leaves(params))


# --- State ----------------------------------------------------------------------------------------------------------


def test_counters_are_as_narrow_as_the_schedule_allows():
    def dtype(updates):
        method = methods.dst_ee(sparsity=0.5, update_period=10, end_step=10 * updates + 1)
        return {
            c.dtype.name
            for c in jax.tree.leaves(dstjax.sparsify(optax.sgd(0.1), method).init(trees.everything()).counters)
        }

    assert dtype(254) == {"uint8"}  # the initial mask and 254 updates: 255
    assert dtype(255) == {"uint16"}
    assert dtype(2**16) == {"uint32"}
    endless = methods.dst_ee(sparsity=0.5, update_period=10, drop_schedule="constant")
    counters = dstjax.sparsify(optax.sgd(0.1), endless).init(trees.everything()).counters
    assert {c.dtype.name for c in jax.tree.leaves(counters)} == {"uint16"}


def test_counters_and_steps_saturate():
    method = methods.dst_ee(sparsity=0.5, update_period=1, end_step=11)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params, state = started(tx)
    full = jax.tree.map(lambda c: jnp.full_like(c, 255), state.counters)
    state = state._replace(counters=full, step=jnp.int32(2**31 - 1))
    _, new = tx.update(trees.like(params, 0), state, params, rewire=True)
    assert all((np.asarray(c) == 255).all() for c in jax.tree.leaves(new.counters))
    assert int(new.step) == 2**31 - 1


def test_moments_are_found_by_path_and_shape():
    """Leaves of one name and shape at two depths, next to state of that shape that belongs to neither."""

    class Odd(NamedTuple):
        deep: dict
        unrelated: jax.Array
        count: jax.Array

    def init(params):
        return Odd(
            {"copies": (jax.tree.map(jnp.ones_like, params),)},
            jnp.ones((4, 4)),
            jax.tree.map(lambda p: jnp.ones(p.shape, jnp.int32), params),
        )

    inner = optax.GradientTransformation(init, lambda u, s, p=None: (u, s))
    tx = dstjax.sparsify(inner, methods.rigl(**{**EVERY_OTHER, "distribution": "uniform", "update_period": 1}))
    params = {"kernel": jnp.ones((4, 4)), "a": {"kernel": jnp.ones((4, 4))}, "b": jnp.ones(4)}
    params, state = started(tx, params)
    old = trees.names(dstjax.get_masks(state))
    _, state = tx.update(trees.like(params, 3), state, params)
    new = trees.names(dstjax.get_masks(state))
    assert (new["kernel"] != new["a/kernel"]).any()
    copies = trees.names(state.inner_state.deep["copies"][0])
    for n in ("kernel", "a/kernel"):
        np.testing.assert_array_equal(copies[n] != 0, old[n] & new[n])
    np.testing.assert_array_equal(copies["b"], np.ones(4))
    np.testing.assert_array_equal(state.inner_state.unrelated, np.ones((4, 4)))
    assert all((np.asarray(c) == 1).all() for c in jax.tree.leaves(state.inner_state.count))  # integers are no moments


@few(2)
@pytest.mark.parametrize(
    "params", [jnp.ones((6, 5)), [jnp.ones((6, 5)), jnp.ones(5)], (jnp.ones((2, 5)), [jnp.ones((3, 5))])]
)
def test_trees_without_names(params):
    tx = dstjax.sparsify(optax.adam(0.1), methods.set(**EVERY_OTHER))
    params, state = started(tx, params)
    counts = dstjax.masks.count_active(dstjax.get_masks(state))
    for t in range(4):
        updates, state = tx.update(trees.like(params, t), state, params)
        params = optax.apply_updates(params, updates)
        dstjax.check_sparse(params, state)
        for name in ("mu", "nu"):
            dstjax.check_sparse(optax.tree.get(state, name), state)
    assert dstjax.masks.count_active(dstjax.get_masks(state)) == counts


def test_an_update_does_not_need_the_state_of_another():
    """One transformation serves several states: nothing is kept outside of them."""
    tx = dstjax.sparsify(optax.sgd(0.1), methods.set(**EVERY_OTHER))
    params, state = started(tx)
    grads = trees.like(params, 0)
    first = tx.update(grads, state, params, rewire=True)
    tx.update(grads, first[1], params, rewire=True)
    again = tx.update(grads, state, params, rewire=True)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("updates", [200, 60_000, 100_000])
def test_counters_stay_at_the_highest_number_of_their_dtype(updates):
    method = dstjax.methods.dst_ee(sparsity=0.5, update_period=1, end_step=updates + 1)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params = {"w": jnp.ones((4, 4))}
    state = tx.init(params)
    dtype = state.counters["w"].dtype
    highest = np.iinfo(dtype).max
    assert updates <= highest
    assert dtype.itemsize == 1 or updates > np.iinfo(f"uint{dtype.itemsize * 4}").max
    state = state._replace(counters={"w": jnp.full((4, 4), np.array(highest, dtype))})
    _, state = tx.update(params, state, params, rewire=True)
    np.testing.assert_array_equal(state.counters["w"], highest)
