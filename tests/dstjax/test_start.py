"""``dstjax.start``, and everything that a loop calls outside its program, under a transfer guard."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

import dstjax
from dstjax import methods, metrics
from tests import conformance, trees
from tests.thorough import few, slow

TRACK = ("exploration", "survival", "error")
FAMILIES = ["dense", "static", "rigl", "dst_ee", "snfs", "gmp", "admm", "top_kast", "iee", "str", "srigl"]
WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "masked": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "hyperparameters": lambda tx: optax.inject_hyperparams(lambda scale: optax.chain(optax.scale(scale), tx))(0.5),
}


def sparsified(name, **arguments):
    return conformance.sparsified(optax.adam(0.1), name, **{"track": TRACK, **arguments})


def assert_same(a, b):
    """The same, on the same devices."""
    trees.assert_same(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert jax.typeof(x) == jax.typeof(y)


def assert_started(tx, params):
    state = tx.init(params)
    assert_same(dstjax.start(tx, params), (dstjax.apply_masks(params, state), state))


@few(2)
@pytest.mark.parametrize("name", [slow(name) if name in ("static", "gmp", "srigl") else name for name in FAMILIES])
def test_start_is_init_and_the_first_masks(name):
    params = trees.few()
    tx = sparsified(name)
    assert_started(tx, params)
    started, state = dstjax.start(tx, params)
    if conformance.has_view(name):
        assert all(x is y for x, y in zip(jax.tree.leaves(started), jax.tree.leaves(params), strict=True))
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
    assert len({*pointers}) == len(pointers)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_start_of_wrapped_optimisers(wrapper):
    assert_started(WRAPPERS[wrapper](sparsified("rigl")), trees.few())


def test_the_state_shares_nothing_with_the_parameters():
    keeps = optax.GradientTransformation(lambda params: params, lambda g, s, p=None: (g, s))
    params, state = dstjax.start(dstjax.sparsify(keeps, methods.static(sparsity=0.5)), trees.few())
    step = jax.jit(lambda p, s: (jax.tree.map(jnp.sin, p), jax.tree.map(lambda x: x, s)), donate_argnums=(0, 1))
    step(params, state)


def test_start_without_sparsify_is_refused():
    for tx in (optax.adam(0.1), optax.chain(optax.clip(1.0), optax.sgd(0.1))):
        with pytest.raises(ValueError, match=r"found 0 states of dstjax\.sparsify"):
            dstjax.start(tx, trees.few())


def test_start_of_other_trees():
    model = eqx.nn.MLP(6, 4, 8, 1, key=jax.random.key(0))
    started, state = dstjax.start(sparsified("rigl"), eqx.filter(model, eqx.is_inexact_array))
    assert dstjax.check_sparse(started, state)
    tx = conformance.sparsified(optax.sgd(0.1), "rigl")
    started, state = dstjax.start(tx, model)  # functions and all
    assert started.activation is model.activation
    assert dstjax.check_sparse(started, state)
    network = nnx.Linear(6, 8, rngs=nnx.Rngs(0))
    started, state = dstjax.start(sparsified("rigl"), nnx.state(network, nnx.Param))
    nnx.update(network, started)
    assert dstjax.check_sparse(nnx.state(network, nnx.Param), state)
    started, state = dstjax.start(tx, {"w": np.ones((4, 4), np.float32), "t": 1.5, "s": "text"})
    assert (started["t"], started["s"]) == (1.5, "text")
    assert isinstance(started["w"], jax.Array)
    shapes = jax.eval_shape(lambda p: dstjax.start(sparsified("rigl"), p), trees.few())
    assert jax.tree.structure(shapes[1]) == jax.tree.structure(sparsified("rigl").init(trees.few()))


@pytest.mark.parametrize("kind", [slow(AxisType.Auto), AxisType.Explicit], ids=str)
def test_start_keeps_shardings(kind):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    specs = {"a": jax.P("data", "model"), "b": jax.P("model"), "c": jax.P(None, "data"), "d": jax.P()}
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 32), "b": (32,), "c": (8, 36), "d": (8, 4)}
    params = {
        n: jax.device_put(rng.standard_normal(s).astype(np.float32), NamedSharding(mesh, specs[n]))
        for n, s in shapes.items()
    }
    tx = optax.chain(optax.clip(1.0), sparsified("dst_ee"))
    with jax.set_mesh(mesh):
        state = tx.init(params)
        eager = dstjax.apply_masks(params, state), state
    with jax.transfer_guard("disallow"):
        started = dstjax.start(tx, params)
    assert_same(started, eager)
    for x, y in zip(jax.tree.leaves(started), jax.tree.leaves(eager), strict=True):
        if x.ndim > 1:
            assert x.sharding.is_equivalent_to(y.sharding, x.ndim)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    for before, after in zip(jax.tree.leaves(started), jax.tree.leaves(step(*started)), strict=True):
        assert before.sharding.is_equivalent_to(after.sharding, before.ndim)


def test_start_leaves_uncommitted_arrays_uncommitted():
    started = dstjax.start(sparsified("rigl"), trees.few())
    assert not any(x.committed for x in jax.tree.leaves(started))
    device = jax.devices()[3]
    started = dstjax.start(sparsified("rigl"), jax.device_put(trees.few(), device))
    assert all(x.devices() == {device} for x in jax.tree.leaves(started))


# --- big_vision sets jax_transfer_guard -----------------------------------------------------------------------------


# One of each kind of state; what is called does not depend on more.
GUARDED = ["dense", "dst_ee", "snfs", "top_kast", "iee"]


@few(2)
@pytest.mark.parametrize(
    ("name", "order"),
    [
        *((n, "skip") if n in GUARDED else slow(n, "skip") for n in FAMILIES),
        ("rigl", "step_then_update"),
        slow("rigl", "update_then_step"),
    ],
)
def test_a_loop_under_a_transfer_guard(name, order):
    params = jax.tree.map(jnp.copy, trees.few())
    changes = {"update_order": order} if name == "rigl" else {}
    tx = sparsified(name, changes=changes)

    @jax.jit
    def step(params, state):
        grads = jax.tree.map(lambda w: jnp.sin(3 * w) + 0.1, dstjax.forward_params(params, state))
        updates, state = tx.update(grads, state, params, **conformance.needed(name, grads))
        return optax.apply_updates(params, updates), state

    jax.block_until_ready(params)
    with jax.transfer_guard("disallow"):
        params, state = dstjax.start(tx, params)
        for _ in range(3):
            params, state = step(params, state)
        assert dstjax.check_sparse(params, state)
        dstjax.forward_params(params, state)
        dstjax.forward_params(params, state, training=False)
        dstjax.is_exploring(state)
        masks = dstjax.get_masks(state)
        assert str(dstjax.summary(params, state))
        metrics.exploration_rate(state), metrics.exploration_rate_per_leaf(state)
        metrics.survival_rate(state), metrics.last_mask_error(state)
        metrics.mask_error(params, state), metrics.gradient_norms(params, state)
        metrics.dead_neurons(masks)
        if name == "dense":
            return
        assert dstjax.check_sparse(dstjax.apply_masks(params, masks), masks)
        state = dstjax.set_masks(state, masks)
        metrics.gradient_norms(params, masks, metrics.gradient_norms(params, masks))
        metrics.survival(masks, masks, masks), metrics.churn(masks, masks), metrics.unanimity([masks, masks])
        metrics.overlap(masks, masks), metrics.jaccard(masks, masks), metrics.iou(masks, masks)
        metrics.effective_weights([masks["dense"]["kernel"]])
        metrics.exploitation_degree(lambda p: jnp.sum(p["dense"]["kernel"]), params, masks)
        moving, still = dstjax.split_state(state)
        params, _ = step(dstjax.apply_masks(params, state), dstjax.merge_state(moving, still))


@few(1)
@pytest.mark.parametrize("kind", [slow(AxisType.Auto), AxisType.Explicit])
@pytest.mark.parametrize("structure", [dstjax.structures.n_m(2, 4), dstjax.structures.block(2, 2)])
def test_masks_of_the_caller_are_checked_under_a_trace(kind, structure):
    """Those that are known outside of it; they lie on eight devices."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        params = {"kernel": jax.device_put(jnp.ones((16, 8)), NamedSharding(mesh, jax.P(None, "b")))}
        method = methods.static(sparsity=0.5, structure=structure, distribution="uniform")
        masks = dstjax.get_masks(dstjax.sparsify(optax.sgd(0.1), method, seed=7).init(params))
        tx = dstjax.sparsify(optax.sgd(0.1), method, initial_masks=masks)
        _, state = dstjax.start(tx, params)
        np.testing.assert_array_equal(dstjax.get_masks(state)["kernel"], masks["kernel"])
        wrong = {"kernel": jnp.roll(jnp.arange(128) < 64, 1).reshape(16, 8)}
        with pytest.raises(ValueError, match="are not of structure"):
            dstjax.start(dstjax.sparsify(optax.sgd(0.1), method, initial_masks=wrong), params)
