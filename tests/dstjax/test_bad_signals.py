"""What is refused of initial masks, of what a step is told, of cycles and views: a ValueError that says what to do."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import trees

GOOD = dict(sparsity=0.5, update_period=2, end_step=9)


def init(method):
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params = trees.everything()
    return tx, params, tx.init(params)


def without(tree, key):
    return {k: v for k, v in tree.items() if k != key}


# --- Initial masks ----------------------------------------------------------------------------------------------------


def initial(masks, name="snip", params=None, **changes):
    """Init with the masks of someone else, or with a function of the parameters that returns them."""
    hyperparameters = {"sparsity": 0.5, **({} if name in ("snip", "static") else {"end_step": 200}), **changes}
    tx = dstjax.sparsify(optax.sgd(0.1), methods.get(name, **hyperparameters), initial_masks=masks)
    return tx.init({"v": jnp.ones((4, 4)), "w": jnp.ones((4, 6)), "b": jnp.ones(4)} if params is None else params)


def halves(**changes):
    return {
        "v": jnp.arange(16).reshape(4, 4) % 2 == 0,
        "w": jnp.arange(24).reshape(4, 6) % 2 == 0,
        "b": None,
        **changes,
    }


def test_initial_masks_that_fit():
    for given in (halves(), lambda params: halves(), jax.tree.map(np.asarray, halves())):
        for name in ("snip", "static", "rigl"):
            assert dstjax.get_masks(initial(given, name))["w"].sum() == 12
    state = initial(halves(v=jnp.ones((4, 4), bool), w=jnp.arange(24).reshape(4, 6) < 4))  # 20 of 40, elsewhere placed
    assert state.targets.tolist() == [16, 4]


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        (
            dict(b=jnp.ones(4, bool)),
            r"the initial masks are missing for \[\] and unexpected for \['b'\]; expected a boolean",
        ),
        (dict(w=None), r"the initial masks are missing for \['w'\] and unexpected for \[\]; .* that the method masks"),
        (dict(u=jnp.ones((2, 2), bool)), r"unexpected for \['u'\]"),
        (
            dict(w=jnp.ones((6, 4), bool)),
            r"initial masks has shape \(6, 4\) and dtype bool; expected \(4, 6\) and bool",
        ),
        (
            dict(w=jnp.ones((4, 6))),
            r"initial masks has shape \(4, 6\) and dtype float32; expected \(4, 6\) and bool",
        ),
        (dict(w=jnp.ones((4, 6), jnp.uint8)), "leaf 'w' of the initial masks has shape .* and dtype uint8; expected"),
        (dict(w=jnp.zeros((4, 6), bool)), "leaf 'w' of the initial masks has no active weight; expected at least one"),
        (
            dict(w=jnp.ones((4, 6), bool)),
            r"the initial masks have 32 active weights of 40; method 'snip' with sparsity=0.5 expects 20",
        ),
    ],
)
def test_initial_masks_that_do_not_fit(changes, pattern):
    with pytest.raises(ValueError, match=pattern):
        initial(halves(**changes))
    with pytest.raises(ValueError, match=pattern):
        initial(lambda params: halves(**changes))


def test_initial_masks_of_no_tree_of_the_parameters():
    with pytest.raises(ValueError, match=r"the initial masks are missing for \['v', 'w'\]"):
        initial([jnp.ones((4, 4), bool)])


def test_masks_that_must_be_given():
    for name in ("snip", "grasp", "synflow", "iterative_snip", "force"):
        with pytest.raises(ValueError, match=rf"method '{name}' needs initial masks: .*initial_masks\.{name}\(...\)"):
            init(methods.get(name, sparsity=0.5))


# --- What a step must be told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "argument"), [("accset", "metric"), ("lset", "value"), ("dynset", "value")])
@pytest.mark.parametrize(
    "wrong", [None, math.nan, math.inf, jnp.ones(3), np.ones((1, 1)), jnp.float32(math.nan)], ids=str
)
def test_a_performance_that_is_missing_or_no_number(name, argument, wrong):
    """A loss that is a vector is one per example: the mean is what is meant."""
    tx, params, state = init(methods.get(name, **GOOD))
    pattern = (
        f"method '{name}' needs {argument}=; call tx.update" if wrong is None else f"{argument}=.* is not accepted"
    )
    with pytest.raises(ValueError, match=pattern):
        tx.update(params, state, params, rewire=True, **({} if wrong is None else {argument: wrong}))


def test_a_traced_loss_that_is_a_vector():
    tx, params, state = init(methods.lset(**GOOD))
    with pytest.raises(ValueError, match=r"value=.* is not accepted; expected a finite number"):
        jax.jit(lambda v: tx.update(params, state, params, value=v))(jnp.ones(3))


def test_a_gradient_at_the_dense_weights_that_does_not_fit():
    tx, params, state = init(methods.dcil(**{**GOOD, "end_step": 20}))
    with pytest.raises(ValueError, match="method 'dcil' needs full_gradient="):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match="the tree of the full gradient is not the one at init; missing: dense"):
        tx.update(params, state, params, full_gradient=without(params, "dense"))
    other = {**params, "dense": {**params["dense"], "kernel": jnp.ones((5, 6))}}
    with pytest.raises(ValueError, match=r"'dense/kernel' of the full gradient has shape \(5, 6\); expected \(6, 5\)"):
        tx.update(params, state, params, full_gradient=other)


# --- Cycles -----------------------------------------------------------------------------------------------------------


def test_stages_that_do_not_end_in_time():
    iee = lambda **changes: methods.iee(**{"sparsity": 0.9, "end_step": 1000, **changes})  # noqa: E731
    with pytest.raises(ValueError, match=r"update_period=450 is not accepted with end_step=449: no cycle would end"):
        iee(stages=(150, 150, 150), end_step=449)
    with pytest.raises(ValueError, match=r"stages=\(400, 400, 400\) .* add up to update_period=450"):
        iee(stages=(400, 400, 400))
    assert iee(stages=(150, 150, 150), end_step=450).updates.schedule.cycles == 1
    assert (
        iee(stages=(150, 150, 150), end_step=899).updates.schedule.cycles == 1
    )  # the second would end too late: not begun


def test_a_view_of_other_parameters():
    _, params, state = init(methods.iee(sparsity=0.5, update_period=4, end_step=9))
    with pytest.raises(ValueError, match=r"'dense/kernel' of the parameters has shape \(5, 6\); expected \(6, 5\)"):
        dstjax.forward_params({**params, "dense": {"bias": jnp.ones(5), "kernel": jnp.ones((5, 6))}}, state)
    with pytest.raises(ValueError, match="no leaf of the parameters has the path of these masks: dense/kernel"):
        dstjax.forward_params(without(params, "dense"), state)
    with pytest.raises(ValueError, match="found 0 states"):
        dstjax.is_exploring(optax.sgd(0.1).init(params))


def test_initial_masks_under_a_trace():
    """Masks that are made under the trace count there, and are taken as they are."""
    tx = dstjax.sparsify(
        optax.sgd(0.1),
        methods.snip(sparsity=0.5),
        initial_masks=lambda params: {"w": params["w"] > 0, "b": None},
    )
    params = {"w": jnp.array([[1.0, -1.0], [2.0, -2.0]]), "b": jnp.ones(2)}
    eager, traced = tx.init(params), jax.jit(tx.init)(params)
    assert traced.targets.tolist() == eager.targets.tolist() == [2]
    np.testing.assert_array_equal(dstjax.get_masks(traced)["w"], dstjax.get_masks(eager)["w"])
