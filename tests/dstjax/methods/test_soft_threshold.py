"""STR against a transcript in float64, autodiff and the worked example: thresholds that are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods, views
from tests import dense_oracles as oracles
from tests import side_by_side, trees
from tests.side_by_side import MASKED, MODES, active, follow, loss
from tests.stepping import compiled


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


UNIFORM = {"conv/kernel": 18, "dense/kernel": 12, "out/kernel": 11}  # n - floor(0.7 * n) of 60, 40 and 36


def of(**fields):
    """A transcript, from what ``follow`` hands over."""
    return lambda weights, masks, inner, targets: oracles.STR(weights, masks, inner, targets, **fields)


LEARNED = dict(s_init=-2.5, threshold_learning_rate=0.05, threshold_decay=0.2)
SAME = dict(s=-2.5, rate=0.05, decay=0.2)


@pytest.mark.parametrize("mode", MODES)
def test_str(mode):
    method = methods.str_(sparsity=0.7, end_step=15, **LEARNED)
    run, params, state, changed = follow(method, of(end=15, **SAME), mode=mode)
    assert changed >= 8
    assert active(run.m) == UNIFORM
    assert run.fixed
    seen = trees.names(dstjax.forward_params(params, state))
    assert all(np.array_equal(np.asarray(seen[n]) != 0, run.m[n]) for n in MASKED)


def test_str_that_never_ends():
    """The number of active weights is free, and falls as the threshold rises."""
    run, _, state, _ = follow(methods.str_(sparsity=0.7, **LEARNED), of(**SAME), steps=14)
    found = state.memory.leaves
    for n in MASKED:
        s = trees.names(found)[n]
        np.testing.assert_allclose(s, run.s[n], rtol=1e-10)
        assert s > LEARNED["s_init"]
    assert all(active(run.m)[n] < run.m[n].size for n in MASKED)
    assert active(run.m) != UNIFORM


def test_str_is_the_derivative_of_its_forward_pass():
    """What the optimiser and the thresholds get is what autodiff finds for sign(w) * relu(abs(w) - sigmoid(s))."""
    params = side_by_side.tree()
    method = methods.str_(sparsity=0.7, s_init=-1.0, threshold_learning_rate=1.0, threshold_decay=0.0)
    tx = dstjax.sparsify(optax.sgd(1.0), method)
    state = tx.init(params)
    for t in range(2):  # the masks of the first step are still full
        gradients = jax.grad(lambda p, state=state: loss(dstjax.forward_params(p, state)))(params)

        def whole(p, s):
            seen = {n: views.soft(w, jax.nn.sigmoid(s[n])) if n in MASKED else w for n, w in trees.names(p).items()}
            return loss(side_by_side.nested(seen))

        s = {n: trees.names(state.memory.leaves)[n] for n in MASKED}
        by_weight, by_s = jax.grad(whole, argnums=(0, 1))(params, s)
        updates, state = compiled(tx).update(gradients, state, params)
        for n, u in trees.names(updates).items():
            np.testing.assert_allclose(-u, trees.names(by_weight)[n], rtol=1e-10, atol=1e-14, err_msg=f"{n}, {t}")
        for n in MASKED:
            moved = trees.names(state.memory.leaves)[n] - s[n]
            np.testing.assert_allclose(-moved, by_s[n], rtol=1e-10, err_msg=f"{n}, {t}")
        params = optax.apply_updates(params, updates)


def test_str_worked_example():
    """s = -2: the threshold is 0.1192, and with a gradient of 1 everywhere dL/ds = -0.1050."""
    params = {"w": jnp.array([[0.5, -0.1, 0.03]])}
    method = methods.str_(sparsity=0.5, s_init=-2.0, threshold_learning_rate=1.0, threshold_decay=0.0)
    tx = dstjax.sparsify(optax.sgd(1.0), method)
    state = tx.init(params)
    np.testing.assert_allclose(dstjax.forward_params(params, state)["w"], [[0.3808, 0, 0]], atol=5e-5)
    updates, after = compiled(tx).update({"w": jnp.ones((1, 3))}, state, params)
    assert float(after.memory.leaves["w"]) == pytest.approx(-2 + 0.1050, abs=5e-5)
    np.testing.assert_array_equal(updates["w"], [[-1, 0, 0]])
    # Signs of (1, 1, 1) give the same sum over all as over the one that counts; these do not.
    _, after = compiled(tx).update({"w": jnp.array([[1.0, 5.0, 7.0]])}, state, params)
    assert float(after.memory.leaves["w"]) == pytest.approx(-2 + 0.1050, abs=5e-5)


def test_str_decays_its_threshold_where_nothing_else_moves_it():
    """From s = -3200 the sigmoid and its slope are zero: s shrinks by lr * decay, and nothing is pruned yet."""
    params = side_by_side.tree()
    method = methods.str_(sparsity=0.5, s_init=-3200.0, threshold_learning_rate=0.5, threshold_decay=0.1)
    tx = dstjax.sparsify(optax.sgd(0.01), method)
    _, state = compiled(tx).update(params, tx.init(params), params)
    found = trees.names(state.memory.leaves)
    assert [float(found[n]) for n in MASKED] == [-3040.0] * 3
    assert active(dstjax.get_masks(state)) == {"conv/kernel": 60, "dense/kernel": 40, "out/kernel": 36}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(s_init=float("-inf")), "s_init=-inf"),
        (dict(threshold_learning_rate=0), "threshold_learning_rate=0"),
        (dict(threshold_decay=-1.0), "threshold_decay=-1.0"),
        (dict(update_period=2), "'str' has no hyper-parameter 'update_period'"),
        (dict(end_step=1), "end_step=1"),
    ],
)
def test_bad_hyperparameters(wrong, says):
    with pytest.raises(ValueError, match=says):
        methods.str_(**{"sparsity": 0.7, "end_step": 17, **wrong})


def test_the_last_weights_do_not_depend_on_the_digits_of_the_gradients():
    w = jnp.asarray(np.random.default_rng(0).standard_normal((6, 8)), jnp.float32)
    tx = dstjax.sparsify(optax.sgd(0.125), methods.str_(sparsity=0.5, s_init=-1.0, threshold_decay=0.0, end_step=2))
    ends = []
    for dtype in (jnp.float32, jnp.bfloat16):  # 1/4 and 1/8 are exact in both
        state = tx.init({"w": w})
        updates, state = tx.update({"w": jnp.full((6, 8), 0.25, dtype)}, state, {"w": w})
        ends.append(dstjax.forward_params(optax.apply_updates({"w": w}, updates), state, training=False)["w"])
    np.testing.assert_array_equal(*ends)
