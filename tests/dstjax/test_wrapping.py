"""What stands inside and around ``sparsify``: windows of gradients, signals, and what cannot stand there."""

import functools
import logging

import jax
import jax.numpy as jnp
import optax
import pytest

import dstjax
from dstjax import masks, methods, metrics, structures
from dstjax.exchange import from_scipy, save_npz, to_scipy, to_torch

PARAMS = {"w": jax.random.normal(jax.random.key(0), (8, 16)), "b": jnp.ones(16)}


def rigl(**given):
    return methods.rigl(**{"sparsity": 0.5, "update_period": 2, "end_step": 400, **given})


def moves(tx, steps, gradients_at):
    """The steps at which the bias moves, and by how much."""
    params, opt_state = dstjax.start(tx, PARAMS)
    step, found = jax.jit(tx.update), []
    for i in range(1, steps + 1):
        gradients = jax.tree.map(functools.partial(jnp.full_like, fill_value=gradients_at(i)), PARAMS)
        updates, opt_state = step(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        assert dstjax.check_sparse(params, opt_state)
        if moved := round(-float(updates["b"][0]), 4):
            found.append((i, moved))
    return found


@pytest.mark.parametrize(("mean", "k", "period", "at"), [(True, 3, 3, [4, 8, 13]), (False, 4, 8, [4, 9, 13, 18])])
def test_a_window_of_gradients_takes_one_call_more_for_each_mask_update(mean, k, period, at):
    tx = dstjax.sparsify(optax.MultiSteps(optax.sgd(1.0), k, use_grad_mean=mean), rigl(update_period=period))
    size = 0.01 if mean else 0.01 * k
    assert moves(tx, at[-1], lambda _: 0.01) == [(i, size) for i in at]


def test_a_window_of_gradients_takes_one_call_more_for_each_that_is_lost():
    inner = optax.MultiSteps(optax.sgd(1.0), 3, use_grad_mean=False)
    tx = dstjax.sparsify(inner, methods.static(sparsity=0.5), on_nonfinite="skip")
    assert moves(tx, 10, lambda i: jnp.nan if i in (3, 6) else 0.01) == [(4, 0.03), (8, 0.03)]


@pytest.mark.parametrize("rewire", [None, True, False])
def test_a_loss_that_is_not_finite_is_skipped_outside_of_jit_too(rewire):
    tx = dstjax.sparsify(optax.sgd(0.1), methods.lset(sparsity=0.5, update_period=2, end_step=20), on_nonfinite="skip")
    params, opt_state = dstjax.start(tx, PARAMS)
    gradients = jax.tree.map(lambda x: x * jnp.nan, PARAMS)
    compiled = jax.jit(lambda s, v: tx.update(gradients, s, params, value=v, rewire=rewire))(opt_state, jnp.nan)
    eager = tx.update(gradients, opt_state, params, value=jnp.nan, rewire=rewire)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b, equal_nan=True), compiled, eager))
    with pytest.raises(ValueError, match="value='nan' is not accepted"):
        tx.update(gradients, opt_state, params, value="nan", rewire=rewire)


def test_start_leaves_no_tracers_behind():
    with jax.checking_leaks():
        params, opt_state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), rigl()), PARAMS)
    assert dstjax.check_sparse(params, opt_state)


def test_states_of_several_networks_are_adopted_one_by_one():
    tx = dstjax.sparsify(optax.adam(0.1), rigl(distribution="uniform"))
    params, opt_state = jax.vmap(lambda k: dstjax.start(tx, jax.tree.map(lambda x: x * k, PARAMS)))(jnp.arange(1.0, 4))
    static = methods.static(sparsity=0.75, distribution="uniform")
    with pytest.raises(ValueError, match="the state has 1 leading axes"):
        dstjax.adopt(opt_state, params, static)
    for write in (to_scipy, to_torch):
        with pytest.raises(
            ValueError, match="the state has 1 leading axes, as of several networks; write one at a time"
        ):
            write(params, opt_state)
    first = jax.tree.map(lambda x: x[0], (opt_state, params))
    assert int((dstjax.adopt(*first, static)[0]["w"] != 0).sum()) == 32


def test_map_params_is_of_the_inner_optimiser():
    inner = optax.adam(0.1)
    tx = dstjax.sparsify(inner, rigl())
    opt_state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="map over that of the inner optimiser"):
        optax.tree.map_params(tx, lambda x: x, opt_state)
    halves = optax.tree.map_params(inner, lambda x: x.astype(jnp.bfloat16), opt_state.inner_state)
    assert opt_state._replace(inner_state=halves).inner_state[0].mu["w"].dtype == jnp.bfloat16


def test_lookahead_is_refused():
    params = optax.LookaheadParams.init_synced(PARAMS)
    tx = dstjax.sparsify(optax.lookahead(optax.sgd(0.1), 3, 0.5), rigl(), layout={"w$": "in out"})
    with pytest.raises(ValueError, match=r"optax\.lookahead"):
        dstjax.start(tx, params)


@pytest.mark.parametrize(("sparsity", "said"), [(0.9, True), (0.5, False)])
def test_a_sparsity_that_the_structure_does_not_have_is_said(sparsity, said, caplog):
    method = rigl(sparsity=sparsity, structure=structures.n_m(2, 4))
    with caplog.at_level(logging.WARNING, "dstjax"):
        opt_state = dstjax.sparsify(optax.sgd(0.1), method).init({"d": {"kernel": jnp.ones((8, 12))}})
    assert masks.sparsity(opt_state) == 0.5
    assert ("the sparsity is 0.5, not 0.9" in caplog.text) == said


def test_a_dtype_without_a_zero_stays_dense():
    params = {"scales": jnp.ones((8, 8), jnp.float8_e8m0fnu), **PARAMS}
    params, opt_state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), rigl()), params)
    assert dstjax.get_masks(opt_state)["scales"] is None
    assert bool((params["scales"].astype(jnp.float32) == 1).all())


def test_functions_on_masks_take_a_state():
    opt_state = dstjax.sparsify(optax.adam(0.1), rigl()).init(PARAMS)
    found = dstjax.get_masks(opt_state)
    assert masks.count_active(opt_state) == masks.count_active(found) == {"w": 64}
    assert float(masks.iou(opt_state, found)) == float(masks.jaccard(opt_state, opt_state)) == 1
    assert float(metrics.churn(opt_state, found)) == 0
    assert metrics.dead_neurons(opt_state).keys() == {"w"}
    assert float(metrics.survival({"w": found["w"] & False, "b": None}, opt_state, found)) == 1
    numbers = jax.tree.map(lambda x: x.astype(jnp.float32), found)
    for refused in (
        lambda: masks.count_active(numbers),
        lambda: masks.iou(numbers, numbers),
        lambda: metrics.survival(numbers, numbers, numbers),
        lambda: metrics.exploitation_degree(lambda p: 0.0, PARAMS, numbers),
        lambda: metrics.dead_neurons(numbers),
    ):
        with pytest.raises(ValueError, match="a tree of boolean masks"):
            refused()
    assert masks.count_active({}) == {}


def test_a_name_that_no_zip_can_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="zero byte"):
        save_npz(tmp_path / "x.npz", {"a\x00b": jnp.ones(3)})
    assert not (tmp_path / "x.npz").exists()


def test_a_dense_leaf_of_which_only_the_shape_is_known_is_refused():
    pytest.importorskip("scipy")
    from dstjax.exchange import to_scipy

    params, opt_state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), rigl(), layout={"w": "in out"}), PARAMS)
    matrices = to_scipy(params, opt_state, layout={"w": "in out"})
    with pytest.raises(ValueError, match="like= has only its shape"):
        from_scipy(matrices, jax.eval_shape(lambda: params), layout={"w": "in out"})
