"""STE and SR-STE against a transcript in float64 and the worked example: N:M masks anew after every step."""

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
from tests.thorough import slow


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


HALF = {"conv/kernel": 30, "dense/kernel": 20, "out/kernel": 18}


def of(**fields):
    """A transcript, from what ``follow`` hands over."""
    return lambda weights, masks, inner, targets: oracles.SRSTE(weights, masks, inner, targets, **fields)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["ste", "sr_ste"])
def test_refined(name, mode):
    decay = 0.05 if name == "sr_ste" else 0.0
    method = methods.get(name, **({"decay": decay} if decay else {}))
    run, params, state, changed = follow(method, of(n_m=(2, 4), decay=decay), mode=mode, steps=10)
    assert changed >= 6
    check_groups(run.m, 2, 4)
    seen = trees.names(dstjax.forward_params(params, state))
    assert {n: int(np.count_nonzero(seen[n])) for n in MASKED} == HALF
    assert all(np.all(np.asarray(trees.names(params)[n]) != 0) for n in MASKED)
    assert dstjax.check_sparse(params, state)


@pytest.mark.parametrize("n_m", [slow((1, 2)), (1, 4)])
def test_other_patterns(n_m):
    method = methods.sr_ste(n=n_m[0], m=n_m[1], decay=0.01)
    run, *_ = follow(method, of(n_m=n_m, decay=0.01), steps=4, mode="eager")
    check_groups(run.m, *n_m)


def test_all_of_all_is_dense():
    """N = M: the optimiser's own steps, decay or not."""
    inner = optax.sgd(0.05, 0.9)
    tx = dstjax.sparsify(inner, methods.sr_ste(n=4, m=4, decay=0.5))
    params = other = side_by_side.tree()
    state, inner_state = tx.init(params), inner.init(other)
    for t in range(3):
        updates, state = compiled(tx).update(trees.like(params, t), state, params)
        params = optax.apply_updates(params, updates)
        updates, inner_state = compiled(inner).update(trees.like(other, t), inner_state, other)
        other = optax.apply_updates(other, updates)
        for a, b in zip(jax.tree.leaves(dstjax.forward_params(params, state)), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert active(dstjax.get_masks(state)) == {"conv/kernel": 60, "dense/kernel": 40, "out/kernel": 36}


@pytest.mark.parametrize(
    ("name", "passed"), [("ste", [0.1, 0.2, -0.1, 0.0]), ("sr_ste", [0.1, 0.2 - 2e-5, -0.1, 4e-5])]
)
def test_worked_example(name, passed):
    """w = [.4, -.1, .3, .2] has the mask [1, 0, 1, 0]; what it leaves out learns, and with SR-STE decays by 2e-4."""
    params = {"w": jnp.array([[0.4], [-0.1], [0.3], [0.2]])}
    tx = dstjax.sparsify(optax.sgd(1.0), methods.get(name))
    state = tx.init(params)
    np.testing.assert_array_equal(dstjax.forward_params(params, state)["w"].T, [[0.4, 0, 0.3, 0]])
    updates, state = compiled(tx).update({"w": jnp.array([[0.1], [0.2], [-0.1], [0.0]])}, state, params)
    np.testing.assert_allclose(-updates["w"].T, [passed], rtol=1e-12)
    # [.3, -.3, .4, .2]: the second comes level with the first (STE), and passes neither; of equals the first stays.
    assert np.asarray(dstjax.get_masks(state)["w"]).T.astype(int).tolist() == [[1, 0, 1, 0]]


def test_the_decay_is_in_the_gradient():
    """Momentum sees it: after two steps without any gradient it has doubled up, as a decoupled decay would not."""
    params = {"w": jnp.array([[1.0], [0.5]])}
    tx = dstjax.sparsify(optax.sgd(0.1, 0.9), methods.sr_ste(n=1, m=2, decay=0.2))
    state = tx.init(params)
    still = {"w": jnp.zeros((2, 1))}
    for expected in (0.5 * 0.98, 0.5 * 0.98 - 0.1 * (0.9 * 0.2 * 0.5 + 0.2 * 0.5 * 0.98)):
        updates, state = compiled(tx).update(still, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"].T, [[1.0, expected]], rtol=1e-12)


def check_groups(masks, n, m):
    for mask in masks.values():
        groups = np.moveaxis(mask, -2, -1).reshape(-1, m)
        assert np.all(groups.sum(1) == n)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("ste", dict(n=0), "n=0"),
        ("ste", dict(n=4, m=2), "n=4 of m=2"),
        ("ste", dict(decay=1e-4), "'ste' has no hyper-parameter 'decay'"),
        ("ste", dict(sparsity=0.5, n=2), "n=2 and m=None are not accepted by 'ste' with sparsity=0.5"),
        ("sr_ste", dict(decay=-1e-4), "decay=-0.0001"),
        ("sr_ste", dict(decay=float("nan")), "decay=nan"),
        ("sr_ste", dict(m=1.5), "m=1.5"),
    ],
)
def test_bad_hyperparameters(name, wrong, says):
    with pytest.raises(ValueError, match=says):
        methods.get(name, **wrong)


def test_inputs_that_do_not_divide():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.sr_ste(n=2, m=8))
    with pytest.raises(ValueError, match=r"'conv/kernel'.*m=8.*maskable"):
        tx.init(side_by_side.tree())
