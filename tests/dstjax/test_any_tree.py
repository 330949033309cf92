"""Trees with leaves that are no weights, whole models, boxes, and paths that read alike."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dstjax
from dstjax import methods, metrics
from tests import conformance, trees
from tests.thorough import few, lighter, slow

TRACK = ("exploration", "survival", "error")
NAMES = ["dense", "static", "set", "dst_ee", "snfs", "gmp", "admm", "deepr", "top_kast", "iee", "str", "ste", "srigl"]
CASES = [*(("rigl", order) for order in conformance.ORDERS), *((name, None) for name in NAMES)]
# One of each kind of state for whole models, and the orders and all other methods with leaves that are no weights.
MODELS = [("rigl", "skip"), ("dense", None), ("snfs", None), ("top_kast", None), ("iee", None)]
LEAVES = [*(("rigl", order) for order in conformance.ORDERS), ("set", None), ("admm", None), ("deepr", None)]
LEAVES += [("str", None), ("srigl", None)]
GOOD = dict(sparsity=0.5, update_period=2, end_step=9)


def sparsified(name, order=None, inner=None, **arguments):
    changes = {} if order is None else {"update_order": order}
    return conformance.sparsified(inner or optax.sgd(0.1), name, changes=changes, **arguments)


class Model(eqx.Module):
    """As people write them: functions, a module without arrays, text, a number, a key, integers beside the weights."""

    layers: list
    scale: jax.Array
    key: jax.Array
    table: jax.Array
    mode: str
    rate: float
    activation: object

    def __init__(self):
        one, two, self.key = jax.random.split(jax.random.key(0), 3)
        self.layers = [eqx.nn.Linear(6, 8, key=one), eqx.nn.Lambda(jnp.tanh), eqx.nn.Linear(8, 4, key=two)]
        self.scale = jnp.ones(())
        self.table = jnp.arange(16).reshape(4, 4)
        self.mode, self.rate, self.activation = "train", 0.5, jax.nn.relu

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.scale * self.activation(x)


@eqx.filter_grad
def gradient(model):
    return (jax.vmap(model)(jnp.linspace(-1, 1, 18).reshape(3, 6)) ** 2).mean() + model.scale**2


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# --- Whole models ---------------------------------------------------------------------------------------------------


@few(2)
@pytest.mark.parametrize(("name", "order"), [case if case in MODELS else slow(*case) for case in CASES])
def test_equinox_passes_its_whole_model(name, order):
    """As in its own examples; the numbers are those of the filtered model."""
    tx = sparsified(name, order, optax.adam(0.05), track=TRACK)
    model = Model()
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    model = dstjax.apply_masks(model, state)

    @eqx.filter_jit
    def step(model, state, whole, rewire=None):
        grads = gradient(dstjax.forward_params(model, state))
        params = model if whole else eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params, rewire=rewire, **conformance.needed(name, grads))
        return eqx.apply_updates(model, updates), state

    other, other_state = model, state
    decided = lighter((), (True, False)) if name == "rigl" else ()  # two programs each
    for rewire in (None,) * 4 + decided:
        model, state = step(model, state, True, rewire)
        other, other_state = step(other, other_state, False, rewire)
    assert_same(
        eqx.filter((model, state), eqx.is_inexact_array), eqx.filter((other, other_state), eqx.is_inexact_array)
    )
    assert model.activation is jax.nn.relu
    assert dstjax.check_sparse(model, state)
    assert {row.path for row in dstjax.summary(model, state).masked} == {
        *dstjax.masks.count_active(dstjax.get_masks(state))
    }
    whole = float(metrics.mask_error(model, state))
    assert whole == float(metrics.mask_error(eqx.filter(model, eqx.is_inexact_array), state))
    assert (whole == 0) == (type(state.view) is tuple)  # no view


@few(2)
@pytest.mark.parametrize(
    ("name", "order", "rewire"),
    [(*case, None) if case in LEAVES else slow(*case, None) for case in CASES]
    + [("rigl", "skip", True), ("rigl", "skip", False), ("snfs", None, True)]
    + [slow(*case, now) for case in CASES[1:3] for now in (True, False)]
    + [slow(name, None, True) for name in ("gmp", "top_kast")],
)
def test_leaves_that_are_no_weights_pass_eagerly(name, order, rewire):
    """``init`` and ``update`` of everything, as plain optax does it."""
    params = {
        "w": trees.everything()["dense"]["kernel"],
        "b": jnp.ones(4),
        "number": 1.5,
        "count": jnp.arange(6).reshape(2, 3),
        "flags": jnp.ones((2, 2), bool),
        "text": "relu",
        "function": jax.nn.relu,
        "key": jax.random.key(0),
        "class": jnp.float32,
    }
    grads = {n: None for n in params} | {"w": jnp.cos(params["w"]), "b": jnp.ones(4)}
    inner = optax.sgd(0.1)
    plain, _ = inner.update(grads, inner.init(params), params)
    tx = sparsified(name, order, inner)
    state = tx.init(params)
    assert {n for n, m in dstjax.get_masks(state).items() if m is not None} == ({"w"} if name != "dense" else set())
    params = dstjax.apply_masks(params, state)
    updates, new = tx.update(grads, state, params, rewire=rewire, **conformance.needed(name, grads))
    assert jax.tree.structure(updates) == jax.tree.structure(plain)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    stepped = {n: x if updates[n] is None else x + updates[n] for n, x in params.items()}
    assert dstjax.check_sparse(stepped, new)
    assert stepped["function"] is jax.nn.relu
    seen = dstjax.forward_params(stepped, new)
    assert seen["text"] == "relu"


@pytest.mark.parametrize("order", conformance.ORDERS)
def test_updates_that_are_no_numbers_pass(order):
    """Some optimisers return what they do not know as it came."""
    inner = optax.masked(optax.sgd(0.1), {"w": True, "text": False, "n": False})
    params = {"w": jnp.ones((4, 4)), "text": "relu", "n": jnp.arange(3)}
    tx = sparsified("rigl", order, inner)
    state = tx.init(params)
    for rewire in (None, True, False):
        updates, _ = tx.update(params, state, params, rewire=rewire)
        assert updates["text"] == "relu"
        assert updates["n"].dtype == params["n"].dtype


def test_maskable_sees_weights_alone():
    seen = []

    def maskable(path, leaf):
        seen.append((path, leaf.dtype))
        return leaf.ndim >= 2

    dstjax.sparsify(optax.identity(), methods.rigl(**GOOD, maskable=maskable)).init(Model())
    assert {*seen} == {
        (n, jnp.dtype("float32"))
        for n in ("layers/0/weight", "layers/0/bias", "layers/2/weight", "layers/2/bias", "scale")
    }


def test_a_map_of_densities_divides_what_is_an_array():
    method = methods.static(sparsity=None, distribution={"layers/.*weight": 0.5, "layers/.*bias|scale|table": 1})
    state = dstjax.sparsify(optax.identity(), method).init(Model())
    assert dstjax.masks.count_active(dstjax.get_masks(state)) == {"layers/0/weight": 24, "layers/2/weight": 16}


def test_initial_masks_in_a_module_that_can_be_called():
    model = Model()
    params = eqx.filter(model, eqx.is_inexact_array)
    drawn = dstjax.get_masks(sparsified("static").init(params))
    with_functions = eqx.tree_at(lambda m: m.activation, drawn, jax.nn.relu, is_leaf=lambda x: x is None)
    for masks in (drawn, with_functions):
        assert callable(masks)
        state = sparsified("static", initial_masks=masks).init(params)
        assert_same(dstjax.get_masks(state), drawn)
    state = sparsified("static", initial_masks=lambda params: drawn).init(params)
    assert_same(dstjax.get_masks(state), drawn)
    assert dstjax.check_sparse(dstjax.apply_masks(model, with_functions), with_functions)


def test_initial_masks_with_either_kind_of_hole():
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    mask = jnp.arange(16).reshape(4, 4) < 8
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5))
    states = []
    for hole in (None, optax.MaskedNode()):
        masks = {"w": mask, "b": hole}
        states.append(dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5), initial_masks=masks).init(params))
        states.append(dstjax.set_masks(tx.init(params), masks))
    for state in states[1:]:
        assert_same(dstjax.get_masks(state), dstjax.get_masks(states[0]))


def test_metrics_of_trees_with_other_leaves():
    model = Model()
    tx = sparsified("rigl", track=TRACK)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    masks = dstjax.get_masks(state)
    assert float(metrics.exploration_rate(state)) == pytest.approx(0.3, abs=0.02)
    assert {*metrics.dead_neurons(masks)} == {"layers/0/weight", "layers/2/weight"}
    norms = metrics.gradient_norms(gradient(model), state)
    assert float(norms.masked) <= float(norms.complete)
    assert float(metrics.churn(masks, masks)) == 0.0
    assert float(metrics.jaccard(masks, masks)) == 1.0


# --- Paths ----------------------------------------------------------------------------------------------------------


def test_paths_read_as_people_write_them():
    model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 4, rngs=nnx.Rngs(0)))
    boxed = {
        "dense": {"kernel": nn.Partitioned(jnp.ones((4, 8)), ("a", "b")), "bias": nn.Partitioned(jnp.ones(8), ("b",))}
    }
    for params, kernels in (
        (nnx.state(model, nnx.Param), ["layers/0/kernel", "layers/1/kernel"]),
        (boxed, ["dense/kernel"]),
    ):
        seen = []
        method = methods.rigl(
            **GOOD,
            distribution="uniform",
            maskable=lambda path, leaf, seen=seen: seen.append(leaf.shape) or path.endswith("kernel"),
        )
        tx = dstjax.sparsify(optax.adam(0.1), method, track=TRACK)
        state = tx.init(params)
        assert [*dstjax.masks.count_active(dstjax.get_masks(state))] == kernels
        assert all(isinstance(shape, tuple) for shape in seen)
        rows = {row.path for row in dstjax.summary(params, state).leaves}
        assert rows == {*kernels} | {n.replace("kernel", "bias") for n in kernels}
        assert {*metrics.exploration_rate_per_leaf(state)} == {*kernels}
        by_pattern = methods.static(sparsity=None, distribution={"kernel$": 0.5})
        assert len(jax.tree.leaves(dstjax.get_masks(dstjax.sparsify(optax.sgd(0.1), by_pattern).init(params)))) == len(
            kernels
        )
        sparse = dstjax.apply_masks(params, state)
        _, state = jax.jit(tx.update)(sparse, state, sparse)
        _, state = jax.jit(tx.update)(sparse, state, sparse)  # moments in boxes are found
        for n, mask in dstjax.masks.by_name(dstjax.get_masks(state)).items():
            if mask is not None:
                mu = dstjax.masks.by_name(optax.tree.get(state, "mu"))[n]
                assert not np.any(np.asarray(mu)[~np.asarray(mask)])


class Single(eqx.Module):
    w: jax.Array


def test_a_module_of_one_leaf_is_no_box():
    params = {"one": Single(jnp.ones((4, 4))), "two": Single(jnp.ones(4))}
    masks = dstjax.get_masks(sparsified("static").init(params))
    assert dstjax.masks.by_name(masks).keys() == {"one/w", "two/w"}
    assert masks["two"].w is None


@few(1)
@pytest.mark.parametrize("name", ["dst_ee", slow("rigl"), slow("static"), "top_kast"])
def test_paths_that_read_alike(name):
    rng = np.random.default_rng(0)

    def leaf(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    for params in (
        {"m": {"w": leaf(4, 6)}, "m/w": leaf(4, 6)},
        {"m": {"w": leaf(4)}, "m/w": leaf(4, 6)},
        {"m": {"w": leaf(4, 6)}, "m/w": leaf(4)},
        {"a": {"b/c": leaf(4, 6)}, "a/b": {"c": leaf(4, 6)}},
    ):
        tx = sparsified(name, inner=optax.adam(0.1), track=TRACK)
        state = tx.init(params)
        sparse = dstjax.apply_masks(params, state)
        for t in range(1, 5):
            grads = jax.tree.map(lambda w, t=t: jnp.sin(w * t) + 0.1, params)
            updates, state = tx.update(grads, state, sparse)
            sparse = optax.apply_updates(sparse, updates)
        assert dstjax.check_sparse(sparse, state)
        masks = dstjax.get_masks(state)
        kernels = sum(x.ndim == 2 for x in jax.tree.leaves(params))
        assert len(dstjax.masks.count_active(masks)) == len(jax.tree.leaves(masks)) == kernels
        assert len(dstjax.summary(params, state).leaves) == 2
        assert jax.tree.map(jnp.shape, dstjax.get_masks(dstjax.set_masks(state, masks))) == jax.tree.map(
            jnp.shape, masks
        )
        names = [*dstjax.masks.by_name(params)]
        assert names in (["m/w", "m//w"], ["a/b//c", "a//b/c"])
