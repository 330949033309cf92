"""Figures of a run: the worked examples of the reference (G1, G2, G7, DST-EE Eq. 2 and 3), and what they need."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import masks, methods, metrics
from tests import trees
from tests.trees import CANONICAL

W, G, M, _ = (np.array(x) for x in CANONICAL)
# One update at t = 10 that moves half of the four active weights, from the canonical mask.
ONE_UPDATE = dict(sparsity=0.3, update_period=10, end_step=11, drop_fraction=0.5, drop_schedule="constant")


def after_one_update(method, counter=None):
    """The state after the update of the canonical tensor."""
    tx = dstjax.sparsify(optax.sgd(0.1), method, track=["exploration"])
    params = {"w": jnp.asarray(W, jnp.float32), "b": jnp.zeros(3)}
    state = dstjax.set_masks(tx.init(params), {"w": jnp.asarray(M, bool), "b": None})
    # What was active before set_masks counts as explored, so start the record anew.
    if counter is None:
        state = state._replace(tracked=state.tracked._replace(ever=state.masks))
    else:
        state = state._replace(counters={"w": jnp.asarray(counter, jnp.uint8), "b": None}, step=jnp.int32(999))
    grads = {"w": jnp.asarray(G, jnp.float32), "b": jnp.zeros(3)}
    _, state = tx.update(grads, state, params, rewire=True)
    return state


def test_exploration_rate_of_the_reference_example():
    """G1: with RigL's choice (0, 2) is new, 5 of 6; with DST-EE's (D10, c = 0.2) all six have been active."""
    state = after_one_update(methods.rigl(**ONE_UPDATE))
    assert float(metrics.exploration_rate(state)) == pytest.approx(5 / 6)
    state = after_one_update(methods.dst_ee(**ONE_UPDATE, coefficient=0.2, epsilon=1.0), counter=[[3, 3, 0], [1, 2, 3]])
    np.testing.assert_array_equal(dstjax.get_masks(state)["w"], [[1, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(state.counters["w"], [[4, 3, 1], [2, 2, 4]])  # N after the update, as in D10
    assert float(metrics.exploration_rate(state)) == 1.0


def test_exploration_rate_of_a_fixed_topology_is_its_density():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.75, distribution="uniform"), track=["exploration"])
    state = tx.init(trees.everything())
    density = sum(masks.count_active(dstjax.get_masks(state)).values()) / (72 + 30 + 20)
    assert float(metrics.exploration_rate(state)) == pytest.approx(density)


def test_survival_rate():
    """G2: {2, 5} were grown; the next drop removes 5, so one of two survives, whether or not 5 is grown again."""
    method = methods.rigl(
        sparsity=0.5, distribution="uniform", update_period=1, drop_fraction=0.5, drop_schedule="constant"
    )
    tx = dstjax.sparsify(optax.sgd(1.0), method, track=["survival"])
    params = {"w": jnp.array([[0.1, 0.2, 0.0], [3.0, 4.0, 0.0]]), "b": jnp.zeros(2)}
    state = dstjax.set_masks(tx.init(params), {"w": params["w"] != 0, "b": None})
    assert np.isnan(metrics.survival_rate(state))

    def rewire(state, params, gradient):
        grads = {"w": jnp.array(gradient), "b": jnp.zeros(2)}
        updates, state = tx.update(grads, state, params, rewire=True)
        return state, optax.apply_updates(params, updates)

    state, params = rewire(state, params, [[0, 0, 1.0], [0, 0, 1.0]])  # 2 of 4 dropped: 0, 1; grown: 2, 5
    np.testing.assert_array_equal(dstjax.get_masks(state)["w"], [[0, 0, 1], [1, 1, 1]])
    assert np.isnan(metrics.survival_rate(state))
    params = {**params, "w": jnp.array([[0, 0, 2.0], [3.0, 0.5, 0.1]])}  # trained since; 4 and 5 are now the smallest
    state, params = rewire(state, params, [[0, 0, 0.0], [0, 0, 9.0]])  # 5 is dropped, and grown again
    assert float(metrics.survival_rate(state)) == 0.5


def test_mask_error_of_the_reference_example():
    """G7: W = [.5, .1, -.3, .8] without .1: .01 / .99."""
    params = {"w": jnp.array([[0.5, 0.1], [-0.3, 0.8]]), "b": jnp.ones(7)}
    new = {"w": jnp.array([[True, False], [True, True]]), "b": None}
    assert float(metrics.mask_error(params, new)) == pytest.approx(0.01 / 0.99)
    everyone = {"w": jnp.ones((2, 2), bool), "b": None}
    assert float(metrics.mask_error(params, everyone)) == 0.0
    assert float(metrics.mask_error(dstjax.apply_masks(params, new), new)) == 0.0
    assert float(metrics.mask_error({"w": jnp.zeros((2, 2)), "b": jnp.ones(7)}, new)) == 0.0


def test_mask_error_reads_the_masks_of_a_state():
    tx = optax.chain(optax.clip(1.0), dstjax.sparsify(optax.adam(0.1), methods.static(sparsity=0.5)))
    params = trees.everything(jnp.bfloat16)
    state = tx.init(params)
    mask = trees.names(dstjax.get_masks(state))
    squares = {n: np.asarray(w, np.float64) ** 2 for n, w in trees.names(params).items() if n in mask}
    lost = sum(np.sum(np.where(mask[n], 0, s)) for n, s in squares.items())
    assert float(metrics.mask_error(params, state)) == pytest.approx(
        lost / sum(map(np.sum, squares.values())), rel=1e-5
    )


def test_exploitation_degree():
    """Eq. 2 for one index, Eq. 3 for a set: L without the grown weights minus L with them."""
    params = {"w": jnp.array([[1.0, 2.0], [3.0, 0.0]]), "b": jnp.ones(2)}
    target = jnp.array([[1.0, 3.0], [3.0, 1.0]])

    def loss(p):
        return jnp.sum((p["w"] - target) ** 2)  # 1 + 1 as it is

    one = {"w": jnp.array([[False, True], [False, False]]), "b": None}
    assert float(metrics.exploitation_degree(loss, params, one)) == 9 - 1
    two = {"w": jnp.array([[False, True], [True, False]]), "b": None}
    assert float(metrics.exploitation_degree(loss, params, two)) == 9 + 9 - 1
    stored = {"w": masks.pack(two["w"]), "b": None}
    assert float(metrics.exploitation_degree(loss, params, stored)) == 9 + 9 - 1
    nobody = {"w": jnp.zeros((2, 2), bool), "b": None}
    assert float(metrics.exploitation_degree(loss, params, nobody)) == 0.0


def test_figures_work_under_jit():
    tx = dstjax.sparsify(
        optax.sgd(0.1),
        methods.rigl(sparsity=0.5, update_period=2, end_step=99),
        track=["exploration", "survival", "error"],
    )
    state = tx.init(trees.everything())
    r, s, e = jax.jit(lambda o: (metrics.exploration_rate(o), metrics.survival_rate(o), metrics.last_mask_error(o)))(
        state
    )
    assert (r.dtype, s.dtype, e.dtype) == (jnp.float32,) * 3


def test_what_was_not_tracked_is_asked_for_by_name():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(sparsity=0.5, update_period=2, end_step=99))
    state = tx.init(trees.everything())
    for figure, name in [
        (metrics.exploration_rate, "exploration"),
        (metrics.exploration_rate_per_leaf, "exploration"),
        (metrics.survival_rate, "survival"),
        (metrics.last_mask_error, "error"),
    ]:
        with pytest.raises(ValueError, match=f"track=.*{name}"):
            figure(state)


def test_tracking_costs_a_bit_per_weight():
    params = {"w": jnp.zeros((64, 64)), "b": jnp.zeros(64)}

    def bytes_of(**kwargs):
        method = methods.rigl(sparsity=0.5, update_period=2, end_step=99)
        return dstjax.summary(params, dstjax.sparsify(optax.sgd(0.1), method, **kwargs).init(params)).state_bytes

    plain = bytes_of()
    assert bytes_of(track=["exploration"]) - plain == 64 * 64 // 8
    assert 64 * 64 // 8 <= bytes_of(track="survival") - plain <= 64 * 64 // 8 + 8
    assert bytes_of(track=["error"]) - plain == 4
