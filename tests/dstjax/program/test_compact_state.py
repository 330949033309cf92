"""Training goes on in the smaller network, and its parameters and state go back to the full one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests.small_networks import like, normal, relative
from tests.thorough import slow


def network(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]


PARAMS = like({"a": (4, 16), "b": (16, 10), "c": (10, 3)})
X, Y = normal(20, 4, seed=3), normal(20, 3, seed=4)


def masks(dead):
    """Masks at a third of the weights, where some units have no inputs."""
    rng = np.random.default_rng(0)
    found = {name: rng.uniform(size=leaf.shape) < 0.5 for name, leaf in PARAMS.items()}
    found["a"][:, :dead] = False
    found["b"][:, 0] = False
    return jax.tree.map(jnp.asarray, found)


def started(method, optimiser, dead=5):
    tx = dstjax.sparsify(optimiser, method, track=("exploration", "survival"), initial_masks=masks(dead))
    opt_state = tx.init(PARAMS)
    return tx, dstjax.apply_masks(PARAMS, opt_state), opt_state


def trained(tx, function, params, opt_state, steps=4):
    @jax.jit
    def step(params, opt_state):
        gradients = jax.grad(lambda p: jnp.mean((function(p, X) - Y) ** 2))(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(steps):
        params, opt_state = step(params, opt_state)
    return params, opt_state


def test_training_goes_on_as_it_would_in_the_full_network_and_comes_back():
    method = methods.static(sparsity=dstjax.masks.sparsity(masks(5)))
    tx, params, opt_state = started(method, optax.adam(0.01))
    params, opt_state = trained(tx, network, params, opt_state)
    smaller, fewer, report = dstjax.compact(network, params, opt_state, X, check=False)
    assert fewer["a"].shape == (4, 11)
    assert fewer["b"].shape == (11, 8), "a unit has no inputs, another one no outputs"
    cut = report.cut_state(opt_state)
    fewer, cut = trained(tx, smaller, fewer, cut)
    full, full_state = trained(tx, network, params, opt_state)
    assert relative(network(full, X), smaller(fewer, X)) < 1e-5
    assert relative(full, report.expand(fewer, params)) < 1e-5
    back = report.expand_state(cut, opt_state)
    assert jax.tree.structure(back) == jax.tree.structure(full_state)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(full_state), strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), atol=1e-6)


def test_masks_and_counters_are_cut_alike_and_updates_keep_the_number_of_weights():
    method = methods.dst_ee(sparsity=dstjax.masks.sparsity(masks(5)), update_period=2, end_step=20)
    tx, params, opt_state = started(method, optax.sgd(0.05, momentum=0.9))
    smaller, fewer, report = dstjax.compact(network, params, opt_state, X, check=False)
    cut = report.cut_state(opt_state)
    before, now = dstjax.masks.count_active(dstjax.get_masks(opt_state)), dstjax.get_masks(cut)
    active = dstjax.masks.count_active(now)
    assert [m.shape for m in jax.tree.leaves(now)] == [x.shape for x in jax.tree.leaves(fewer)]
    assert active["a"] == before["a"], "what has no inputs had none to lose"
    assert 0 < active["b"] < before["b"]
    assert list(cut.targets) == list(active.values())
    assert dstjax.check_sparse(fewer, cut)
    fewer, cut = trained(tx, smaller, fewer, cut, steps=6)
    assert dstjax.check_sparse(fewer, cut)
    assert dstjax.masks.count_active(dstjax.get_masks(cut)) == active
    assert relative(jax.tree.map(jnp.float32, dstjax.get_masks(cut)), jax.tree.map(jnp.float32, now)) > 0, "none moved"
    back = report.expand_state(cut, opt_state)
    assert dstjax.masks.count_active(dstjax.get_masks(back)) == before
    assert list(back.targets) == list(opt_state.targets)


@pytest.mark.parametrize("chained", [True, slow(False)])
def test_any_tree_is_cut_by_its_paths(chained):
    _, params, opt_state = started(methods.static(sparsity=dstjax.masks.sparsity(masks(5))), optax.sgd(0.1))
    opt_state = (optax.EmptyState(), opt_state, {"average": params, "rate": jnp.zeros(())}) if chained else opt_state
    _, fewer, report = dstjax.compact(network, params, opt_state, X, check=False)
    cut = report.cut_state(opt_state)
    if chained:
        assert relative(cut[2]["average"], fewer) == 0
        assert cut[2]["rate"].shape == ()
    found = report.cut_state(dstjax.get_masks(opt_state))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found, dstjax.get_masks(cut)))
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, report.expand_state(found, dstjax.get_masks(opt_state)), masks(5))
    )


def test_states_of_several_networks_are_refused():
    method = methods.static(sparsity=dstjax.masks.sparsity(masks(5)))
    _, params, opt_state = started(method, optax.sgd(0.1))
    report = dstjax.compact(network, params, opt_state, X, check=False)[2]
    several = jax.tree.map(lambda x: jnp.stack([x, x]), opt_state)
    with pytest.raises(ValueError, match="of several networks"):
        report.cut_state(several)
    with pytest.raises(ValueError, match="which the network did not have"):
        report.cut({**params, "d": jnp.zeros(3)})


@pytest.mark.slow
def test_layers_in_a_stack_lose_what_none_of_them_uses():
    def stacked(p, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x @ p["in"], p["layers"])[0] @ p["out"]

    params = like({"in": (4, 8), "layers": (3, 8, 8), "out": (8, 2)})
    layout = {"layers": "stack in out", ".*": "in out"}
    given = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    given["in"] = given["in"].at[:, 0].set(False)
    given["layers"] = given["layers"].at[:, :, 0].set(False)
    method = methods.static(sparsity=dstjax.masks.sparsity(given))
    tx = dstjax.sparsify(optax.sgd(0.1), method, initial_masks=given, layout=layout)
    opt_state = tx.init(params)
    params = dstjax.apply_masks(params, opt_state)
    smaller, fewer, report = dstjax.compact(functools.partial(stacked), params, opt_state, X, check=False)
    assert fewer["layers"].shape == (3, 7, 7)
    assert list(report.cut_state(opt_state).targets) == [4 * 7, 49, 49, 49, 7 * 2]
    assert relative(stacked(params, X), smaller(fewer, X)) < 1e-5


@pytest.mark.parametrize("name", ["gmp", "granet"])
def test_a_method_that_prunes_is_refused_until_it_has_its_number(name):
    """What it has still to prune would all be taken from what is left."""
    method = methods.get(name, sparsity=0.9, update_period=2, end_step=9)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params, opt_state = dstjax.start(tx, PARAMS)
    for t in range(1, 10):
        updates, opt_state = tx.update(jax.tree.map(jnp.ones_like, params), opt_state, params)
        params = optax.apply_updates(params, updates)
        report = dstjax.compact(network, params, opt_state, X, check=False)[2]
        if t < 8:
            with pytest.raises(
                ValueError, match="active weights and prunes to 26: its schedule counts in those of the"
            ):
                report.cut_state(opt_state)
        else:  # the last update of a cubic ramp is the first that reaches the number
            assert sum(dstjax.masks.count_active(report.cut_state(opt_state)).values()) <= 26
