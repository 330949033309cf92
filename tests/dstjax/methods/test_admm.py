"""ADMM against a transcript in float64 and its worked example: the pull, the copies, the pruning and the retraining."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import dense_oracles as oracles
from tests import side_by_side, trees
from tests.side_by_side import MASKED, MODES, active, follow
from tests.stepping import compiled


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


UNIFORM = {"conv/kernel": 18, "dense/kernel": 12, "out/kernel": 11}  # n - floor(0.7 * n) of 60, 40 and 36


def of(**fields):
    """A transcript, from what ``follow`` hands over."""
    return lambda weights, masks, inner, targets: oracles.ADMM(weights, masks, inner, targets, **fields)


@pytest.mark.parametrize("mode", MODES)
def test_admm(mode):
    """Dense until step 6, pulled until 15 with new copies at 9 and 12, sparse from there on."""
    method = methods.admm(sparsity=0.7, rho=0.5, update_period=3, start_step=4, end_step=17)
    run, params, state, changed = follow(method, of(rho=0.5, period=3, start=4, end=17), mode=mode, steps=19)
    assert (run.updates, changed, active(run.m)) == (4, 1, UNIFORM)
    assert dstjax.check_sparse(params, state)
    assert dstjax.forward_params(params, state) is params


def test_copies_and_duals():
    """Z and U themselves, in the call after an update: from then on the optimiser is pulled by them."""
    noted = []

    class Noting(oracles.ADMM):
        def update(self, gradients):
            super().update(gradients)
            noted.append((self.t, self.z, self.u))

    def transcript(weights, masks, inner, targets):
        return Noting(weights, masks, inner, targets, rho=0.5, period=2, end=13)

    for steps in (3, 5, 9):
        method = methods.admm(sparsity=0.7, rho=0.5, update_period=2, end_step=13)
        _, _, state, _ = follow(method, transcript, steps=steps, mode="eager")
        t, z, u = noted[-1]
        assert t == steps - 1
        found = trees.names(state.memory.leaves)
        for n in MASKED:
            np.testing.assert_allclose(found[f"z/{n}"], z[n], rtol=1e-10)
            np.testing.assert_allclose(found[f"u/{n}"], u[n], rtol=1e-9, atol=1e-13)
            assert np.count_nonzero(z[n]) == UNIFORM[n]
        assert any(np.any(u[n]) for n in MASKED) == (steps > 3)


def test_worked_example():
    """W = [1, -.2, .6, .1], k = 2, rho = .01: a pull of [0, -.002, 0, .001]; after training U = [0, -.15, 0, .05]."""
    params = {"w": jnp.array([[1.0, -0.2, 0.6, 0.1]])}
    tx = dstjax.sparsify(optax.sgd(1.0), methods.admm(sparsity=0.5, rho=0.01, update_period=1, end_step=4))
    state = tx.init(params)
    still = {"w": jnp.zeros((1, 4))}
    _, state = compiled(tx).update(still, state, params)  # the first update: Z = P(W), U = 0
    np.testing.assert_allclose(state.memory.leaves.z["w"], [[1, 0, 0.6, 0]], rtol=1e-12)
    assert not np.any(state.memory.leaves.u["w"])
    updates, state = compiled(tx).update(still, state, params)
    np.testing.assert_allclose(-updates["w"], [[0, -0.002, 0, 0.001]], rtol=1e-12, atol=1e-18)
    # The second update came after that step, and sees the weights after it.
    state = tx.init(params)
    _, state = compiled(tx).update(still, state, params)
    gradient = {"w": jnp.array([[0.02, -0.048, -0.02, 0.049]])}  # with the pull: to [.98, -.15, .62, .05]
    updates, state = compiled(tx).update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], [[0.98, -0.15, 0.62, 0.05]], rtol=1e-12)
    np.testing.assert_allclose(state.memory.leaves.z["w"], [[0.98, 0, 0.62, 0]], rtol=1e-12)
    np.testing.assert_allclose(state.memory.leaves.u["w"], [[0, -0.15, 0, 0.05]], rtol=1e-12)
    updates, state = compiled(tx).update(still, state, params)
    # That call was the last update: the pull of rho * (W - Z + U), then the two largest.
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], [[0.98, 0, 0.62, 0]], rtol=1e-12)
    assert np.asarray(dstjax.get_masks(state)["w"]).astype(int).tolist() == [[1, 0, 1, 0]]


def test_the_pull_brings_weights_to_where_they_will_be_pruned():
    """Without any other gradient the pruning takes away less than it would without the pull."""
    lost = {}
    for rho in (0.0, 0.5):
        params = side_by_side.tree()
        tx = dstjax.sparsify(optax.sgd(0.3), methods.admm(sparsity=0.7, rho=rho, update_period=3, end_step=17))
        state = tx.init(params)
        step = jax.jit(tx.update)
        for _ in range(15):
            before = params
            updates, state = step(jax.tree.map(jnp.zeros_like, params), state, params)
            params = optax.apply_updates(params, updates)
        lost[rho] = max(float(jnp.max(jnp.abs(trees.names(params)[n] - trees.names(before)[n]))) for n in MASKED)
    assert lost[0.5] < 0.5 * lost[0.0]


def test_a_layer_of_which_next_to_nothing_is_left():
    """At 98 % of a second layer of 128 weights three stay, the largest."""
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((128, 1)))}
    tx = dstjax.sparsify(optax.sgd(0.1), methods.admm(sparsity=0.98, update_period=1, end_step=3))
    state = tx.init(params)
    still = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        updates, state = compiled(tx).update(still, state, params)
        params = optax.apply_updates(params, updates)
    assert active(dstjax.get_masks(state)) == {"w": 3}
    assert np.all(np.abs(params["w"])[np.asarray(params["w"]) != 0] > 1.5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(rho=-0.1), "rho=-0.1"),
        (dict(rho=float("inf")), "rho=inf"),
        (dict(rho=None), "rho=None"),
        (dict(end_step=None), "end_step=None.*two updates"),
        (dict(end_step=4), "end_step=4.*two updates"),  # step 3 alone
        (dict(structure=dstjax.structures.n_m(2, 4)), "admm.*one density"),
        (dict(stages=10), "'admm' has no hyper-parameter 'stages'"),
    ],
)
def test_bad_hyperparameters(wrong, says):
    with pytest.raises(ValueError, match=says):
        methods.admm(**{"sparsity": 0.7, "update_period": 3, "end_step": 17, **wrong})
