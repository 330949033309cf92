"""Numbers that are not finite: kept out where that is asked for, counted, and never remembered."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax._engine import measures
from tests import conformance, trees
from tests.thorough import few, slow

DTYPES = ["float8_e4m3fn", "bfloat16", "float16", "float32", "float64"]
NAMES = ["rigl", "snfs", "dst_ee", "top_kast", "iee", "dcil", "lset"]
COUNTED = [n for n in conformance.METHODS if n != "dense" and not conformance.excused(n, "counts")]
REST = [n for n in conformance.METHODS if n not in NAMES and n != "dense"]
BAD = [jnp.nan, jnp.inf, -jnp.inf]


def spoiled(grads, where="conv/kernel", value=jnp.nan):
    def one(path, g):
        is_bad = jax.tree_util.keystr(path, simple=True, separator="/") == where
        return g.at[(0,) * g.ndim].set(value) if is_bad else g

    return jax.tree_util.tree_map_with_path(one, grads)


@few(2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("on_nonfinite", ["pass", "skip"])
def test_exact_zeros_in_every_dtype(dtype, on_nonfinite):
    with jax.enable_x64(dtype == "float64"):
        method = methods.rigl(sparsity=0.75, update_period=5, end_step=45)
        tx = dstjax.sparsify(optax.adam(0.01), method, on_nonfinite=on_nonfinite)
        rng = np.random.default_rng(0)
        params = {"w": jnp.asarray(rng.normal(size=(8, 8)), dtype)}
        params, state = dstjax.start(tx, params)
        update = jax.jit(tx.update)
        for t in range(1, 51):
            grads = {"w": jnp.asarray(rng.normal(size=(8, 8)), dtype)}
            if on_nonfinite == "skip" and t == 25:
                grads = {"w": grads["w"].at[0, 0].set(jnp.nan)}
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        assert params["w"].dtype == dtype
        weights, mask = np.asarray(params["w"].astype(jnp.float32)), np.asarray(dstjax.get_masks(state)["w"])
        assert (weights[~mask] == 0).all()
        assert np.isfinite(weights).all()
        assert int(mask.sum()) == 16
        dstjax.check_sparse(params, state)


def scalars(state):
    """What counts steps: the step, and the inner optimiser's count."""
    return int(state.step), int(optax.tree.get(state.inner_state, "count"))


@few(2)
@pytest.mark.parametrize("name", [*NAMES, *(slow(n) for n in REST)])
@pytest.mark.parametrize("where", ["conv/kernel", slow("conv/bias")])
def test_such_a_step_changes_nothing_but_counts(name, where):
    tx = conformance.sparsified(optax.adam(0.1), name, on_nonfinite="skip")
    params, state = conformance.started(tx)
    update = jax.jit(tx.update)
    for t in range(1, 5):  # the third call is a mask update of most methods
        grads = conformance.grads_at(params, t)
        needed = conformance.needed(name, grads)
        for value in BAD:
            moves, lost = update(spoiled(grads, where, value), state, params, **needed)
            assert all(not np.any(np.asarray(u)) for u in jax.tree.leaves(moves))
            assert scalars(lost) == tuple(n + 1 for n in scalars(state))
            views = dict(view=state.view, step=state.step)
            same = lost._replace(inner_state=(lost.inner_state[0]._replace(count=0), *lost.inner_state[1:]), **views)
            old = state._replace(inner_state=(state.inner_state[0]._replace(count=0), *state.inner_state[1:]))
            jax.tree.map(np.testing.assert_array_equal, same, old)
        updates, state = update(grads, state, params, **needed)
        params = optax.apply_updates(params, updates)


@few(2)
@pytest.mark.parametrize(
    ("order", "rewire"),
    [
        (order, rewire) if rewire is None or order == "step_then_update" else slow(order, rewire)
        for order in conformance.ORDERS
        for rewire in (None, True, False)
    ],
)
def test_eager_and_compiled_are_alike(order, rewire):
    tx = conformance.sparsified(optax.adam(0.1), "rigl", changes=dict(update_order=order), on_nonfinite="skip")
    params, state = conformance.started(tx)
    for t, grads in enumerate([conformance.grads_at(params, 1), spoiled(conformance.grads_at(params, 2))] * 2, 1):
        extra = dict(rewire=rewire)
        eager = tx.update(grads, state, params, **extra)
        compiled = jax.jit(lambda g, s, p, extra=extra: tx.update(g, s, p, **extra))(grads, state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), eager, compiled)
        assert int(eager[1].step) == t
        params, state = optax.apply_updates(params, eager[0]), eager[1]
        dstjax.check_sparse(params, state)


@few(2)
@pytest.mark.parametrize("name", [n if n in ("snfs", "dst_ee", "lset") else slow(n) for n in COUNTED])
def test_counts_come_back_after_an_infinite_gradient(name):
    """The weight that becomes infinite stays so; what is remembered, and how many are active, does not suffer."""

    def trained(spoils):
        tx = conformance.sparsified(optax.sgd(1e-3), name, on_nonfinite="pass")
        params, state = conformance.started(tx)
        for t in range(1, conformance.STEPS + 1):
            grads = trees.like(params, t)
            grads = spoiled(grads, value=jnp.inf) if spoils and t == 2 else grads
            params, state = conformance.step(tx, params, state, grads, **conformance.needed(name, grads))
            for x in jax.tree.leaves(state.memory):
                assert not jnp.issubdtype(x.dtype, jnp.inexact) or np.isfinite(np.asarray(x, np.float64)).all()
        return conformance.counts_of(state)

    found, expected = trained(True), trained(False)
    assert abs(found.sum() - expected.sum()) <= 2
    assert (found >= 1).all()


def test_a_loss_that_is_not_finite_is_left_out():
    record = measures.begun(1)
    for value in (1.0, float("nan"), 3.0, float("inf")):
        record = measures.added(record, value)
    assert float(measures.measured(record, None).now) == 2.0


def test_what_is_not_finite_is_counted_apart_and_healed():
    method = methods.static(sparsity=0.5)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params, state = dstjax.start(tx, {"w": jnp.ones((4, 4))})
    mask = dstjax.get_masks(state)["w"]
    off, on = (tuple(np.argwhere(np.asarray(m))[0]) for m in (~mask, mask))
    broken = {"w": params["w"].at[off].set(jnp.nan).at[on].set(jnp.inf)}
    with pytest.raises(ValueError, match=r"not finite: w: 1 of 16, beside 1 active ones that are not and 0 inactive"):
        dstjax.check_sparse(broken, state)
    healed = dstjax.apply_masks(broken, state)
    assert dstjax.check_sparse(healed, state)
    assert float(healed["w"][off]) == 0


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="on_nonfinite='raise' is not known"):
        dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5), on_nonfinite="raise")


@pytest.mark.parametrize("order", ["step_then_update", "update_then_step", "skip"])
def test_a_weight_that_stays_is_ranked_by_what_it_stays(order):
    """The optimiser would make the largest weight NaN: it stays, and the smallest one goes."""

    def update(grads, state, params):
        return jax.tree.map(lambda g, w: jnp.where(w == 9.0, jnp.nan, -0.1 * g), grads, params), state

    given = dict(update_period=1, drop_fraction=0.25, drop_schedule="constant", distribution="uniform")
    method = methods.rigl(sparsity=0.5, update_order=order, **given)
    mask = {"w": jnp.array([[True] * 4 + [False] * 4])}
    inner = optax.GradientTransformation(lambda _: (), update)
    tx = dstjax.sparsify(inner, method, initial_masks=mask, on_nonfinite="skip", layout="in out")
    params = {"w": jnp.array([[9.0, 1, 2, 3, 0, 0, 0, 0]])}
    grads = {"w": jnp.array([[0.0, 0, 0, 0, 0.5, 0, 0, 0]])}
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    assert dstjax.get_masks(state)["w"][0].tolist() == [True, False, True, True, True, False, False, False]
    assert optax.apply_updates(params, updates)["w"][0, 0] == 9
