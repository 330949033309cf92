"""DPF, DCIL and Top-KAST against transcripts in float64 and worked examples; what all methods with views share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import dense_oracles as oracles
from tests import side_by_side, trees
from tests.side_by_side import MASKED, MODES, active, follow, loss
from tests.stepping import compiled
from tests.thorough import few, slow


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


UNIFORM = {"conv/kernel": 18, "dense/kernel": 12, "out/kernel": 11}  # n - floor(0.7 * n) of 60, 40 and 36
PERIODIC = dict(update_period=3, end_step=17)
TIMES = dict(period=3, end=17)
UPPER = dict(sparsity=0.7, distribution="uniform", **PERIODIC)


def of(run, **fields):
    """A transcript of a class, from what ``follow`` hands over."""
    return lambda weights, masks, inner, targets: run(weights, masks, inner, targets, **fields)


def check_end(params, state, counts):
    """The view for evaluation is exactly sparse at the target, the weights behind it are not."""
    seen = trees.names(dstjax.forward_params(params, state, training=False))
    assert {n: int(np.count_nonzero(seen[n])) for n in counts} == counts
    assert dstjax.check_sparse(params, state)
    behind = trees.names(params)
    assert all(np.count_nonzero(behind[n]) > counts[n] for n in counts)


# --- DPF and DCIL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_dpf(mode):
    method = methods.dpf(sparsity=0.7, prune_end_step=11, **PERIODIC)
    run, params, state, changed = follow(method, of(oracles.DPF, until=11, **TIMES), mode=mode)
    assert changed == 5  # two of them at the final sparsity
    assert sum(active(run.m).values()) == sum(UNIFORM.values())
    assert active(run.m) != UNIFORM
    check_end(params, state, active(run.m))


def test_dpf_of_each_layer():
    run, params, state, _ = follow(methods.dpf(sparsity=0.7, scope="layer", **PERIODIC),
                                   of(oracles.DPF, together=False, **TIMES))  # fmt: skip
    assert active(run.m) == UNIFORM
    check_end(params, state, UNIFORM)


def test_dpf_brings_weights_back_with_their_values():
    returned = []

    class Noting(oracles.DPF):
        def choose(self, new):
            returned.extend(self.w[n][new[n] & ~self.m[n]] for n in new)
            super().choose(new)

    _, _, state, _ = follow(methods.dpf(sparsity=0.8, prune_end_step=5, **PERIODIC), of(Noting, until=5, **TIMES))
    assert sum(map(len, returned)) >= 5  # each of them has been compared with the engine's
    assert all(np.all(w != 0) for w in returned)
    moments = trees.names(optax.tree.get(state, "trace"))
    masks = trees.names(dstjax.get_masks(state))
    assert all(np.any(np.asarray(moments[n])[~np.asarray(masks[n])]) for n in MASKED)  # pruned weights are trained too


def test_dpf_worked_example():
    """A weight that the mask leaves out learns from the gradient at the pruned weights, and returns with its value."""
    params = {"w": jnp.array([[0.5, 0.2, -0.3, 0.1]])}
    tx = dstjax.sparsify(optax.sgd(0.1), methods.dpf(sparsity=0.5, update_period=1, end_step=2))
    state = dstjax.set_masks(tx.init(params), {"w": jnp.array([[1, 0, 1, 0]], bool)})
    np.testing.assert_array_equal(dstjax.forward_params(params, state)["w"], [[0.5, 0, -0.3, 0]])
    updates, state = compiled(tx).update({"w": jnp.array([[0.1, -2.0, 0.0, 0.5]])}, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], [[0.49, 0.40, -0.30, 0.05]], rtol=1e-12)
    np.testing.assert_allclose(dstjax.forward_params(params, state)["w"], [[0.49, 0.40, 0, 0]], rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_dcil(mode):
    method = methods.dcil(sparsity=0.7, prune_end_step=11, **PERIODIC)
    run, params, state, changed = follow(method, of(oracles.DCIL, until=11, **TIMES), mode=mode, full=True)
    assert changed == 5
    check_end(params, state, active(run.m))


def test_dcil_worked_example():
    params = {"w": jnp.array([[0.5, 0.2]]), "b": jnp.zeros(2)}
    tx = dstjax.sparsify(optax.sgd(1.0), methods.dcil(sparsity=0.5, update_period=1, end_step=2))
    state = dstjax.set_masks(tx.init(params), {"w": jnp.array([[True, False]]), "b": None})
    sparse = {"w": jnp.array([[0.2, 0.7]]), "b": jnp.array([1.0, 2.0])}
    dense = {"w": jnp.array([[0.5, -0.4]]), "b": jnp.array([0.5, 0.25])}
    updates, _ = compiled(tx).update(sparse, state, params, full_gradient=dense)
    np.testing.assert_allclose(updates["w"], [[-0.2, 0.4]], rtol=1e-12)
    np.testing.assert_allclose(updates["b"], [-1.5, -2.25], rtol=1e-12)  # a leaf without a mask is in both networks


def test_dcil_is_the_gradient_of_both_networks():
    """The sum of both losses differentiates to g_s + g_f; DCIL takes the part of each that its network can use."""
    params = side_by_side.tree()
    tx = dstjax.sparsify(optax.sgd(1.0), methods.dcil(sparsity=0.7, **PERIODIC))
    state = tx.init(params)
    chosen = jax.tree.map(lambda w: jnp.abs(w) > 0.5 if w.ndim > 1 else None, params)
    state = dstjax.set_masks(state, chosen)
    sparse = jax.grad(lambda p: loss(dstjax.forward_params(p, state)))(params)
    dense = jax.grad(loss)(params)
    updates, _ = compiled(tx).update(sparse, state, params, full_gradient=dense)
    for n, u in trees.names(updates).items():
        g, f = trees.names(sparse)[n], trees.names(dense)[n]
        expected = jnp.where(trees.names(chosen)[n], g, f) if n in MASKED else g + f
        np.testing.assert_allclose(-u, expected, rtol=1e-12)
        assert n not in MASKED or np.any(np.asarray(g) != np.asarray(f))


@pytest.mark.parametrize("rewire", [None, True, False])
def test_dcil_without_its_second_gradient(rewire):
    params = side_by_side.tree()
    tx = dstjax.sparsify(optax.sgd(1.0), methods.dcil(sparsity=0.7, **PERIODIC))
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"'dcil' needs full_gradient=; call tx.update\(.*full_gradient=...\)"):
        tx.update(params, state, params, rewire=rewire)
    with pytest.raises(ValueError, match="the tree of the full gradient is not the one at init"):
        tx.update(params, state, params, rewire=rewire, full_gradient={"conv": params["conv"]})


# --- Top-KAST ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_top_kast(mode):
    method = methods.top_kast(exploration=0.5, penalty=0.01, **UPPER)
    run, params, state, changed = follow(method, of(oracles.TopKAST, exploration=0.5, penalty=0.01, **TIMES), mode=mode)
    assert changed == 5
    assert active(run.m) == UNIFORM
    second = {n: np.asarray(dstjax.masks.unpack(m)) for n, m in trees.names(state.memory.second_mask).items()}
    for n, b in second.items():
        np.testing.assert_array_equal(b, run.b[n])
    assert {n: int(b.sum()) for n, b in second.items()} == {"conv/kernel": 27, "dense/kernel": 18, "out/kernel": 16}
    check_end(params, state, UNIFORM)


def test_top_kast_at_every_step():
    """The default: both sets anew after each step; what leaves the second set loses its moments."""
    method = methods.top_kast(sparsity=0.8, distribution="uniform")
    run, _, _, changed = follow(method, of(oracles.TopKAST, exploration=1.0, penalty=1e-4), inner=side_by_side.adam(),
                                steps=12)  # fmt: skip
    assert changed >= 8
    assert active(run.m) == {"conv/kernel": 12, "dense/kernel": 8, "out/kernel": 8}


def test_top_kast_leaves_the_rest_alone():
    """What lies outside of both sets keeps its value to the bit, whatever the optimiser does, and has no moments."""
    method = methods.top_kast(sparsity=0.8, exploration=1.0, update_period=4, end_step=5, distribution="uniform")
    tx = dstjax.sparsify(optax.adamw(0.1, weight_decay=0.1), method)
    params = first = side_by_side.tree()
    state = tx.init(params)
    step = jax.jit(functools.partial(side_by_side.call, tx), static_argnames="rewire")
    b = trees.names(state.memory.second_mask)
    for t in range(1, 4):
        params, state, *_ = step(params, state, trees.like(params, t), None, rewire=None)
    for n in MASKED:
        outside = ~np.asarray(dstjax.masks.unpack(b[n]))
        was, now = np.asarray(trees.names(first)[n]), np.asarray(trees.names(params)[n])
        np.testing.assert_array_equal(was[outside], now[outside])
        assert np.all(was[~outside] != now[~outside])
        for kind in ("mu", "nu"):
            assert not np.any(np.asarray(trees.names(optax.tree.get(state, kind))[n])[outside])


def test_top_kast_worked_example():
    """A = {0, 1}, B = {0, ..., 3}. The example has the penalty of abs(w), 1.7 + 0.5 / D = 3.2; ours is that of squares,

    whose derivative is w on A and w / D on the rest of B: these add up to the same 3.2.
    """
    w = np.array([[0.9, -0.8, 0.3, -0.2, 0.1, 0.05]])
    params = {"w": jnp.asarray(w)}
    method = methods.top_kast(sparsity=2 / 3, exploration=1.0, penalty=0.01, distribution="uniform")
    tx = dstjax.sparsify(optax.sgd(1.0), method)
    state = tx.init(params)
    seen = dstjax.forward_params(params, state)["w"]
    np.testing.assert_array_equal(seen, [[0.9, -0.8, 0, 0, 0, 0]])
    updates, _ = compiled(tx).update({"w": jnp.zeros((1, 6))}, state, params)
    pull = -np.asarray(updates["w"]) / 0.01
    np.testing.assert_allclose(pull, [[0.9, -0.8, 0.9, -0.6, 0, 0]], rtol=1e-12)
    assert np.abs(pull).sum() == pytest.approx(3.2)
    updates, _ = compiled(tx).update({"w": jnp.ones((1, 6))}, state, params)
    np.testing.assert_array_equal(np.asarray(updates["w"]) != 0, [[True, True, True, True, False, False]])


def test_top_kast_that_explores_nothing():
    """B = A: only what the forward pass sees is trained."""
    method = methods.top_kast(exploration=0.0, penalty=0.0, **UPPER)
    run, *_ = follow(method, of(oracles.TopKAST, exploration=0.0, penalty=0.0, **TIMES), steps=7)
    assert all(np.array_equal(run.b[n], run.m[n]) for n in MASKED)


# --- What the forward pass sees, and what the optimiser makes of it -------------------------------------------------


VIEWED = {
    "dpf": dict(sparsity=0.7, **PERIODIC),
    "dcil": dict(sparsity=0.7, **PERIODIC),
    "top_kast": dict(sparsity=0.7),
    "str": dict(sparsity=0.7, s_init=-1.0),
    "ste": dict(),
    "sr_ste": dict(),
}


# DCIL sees what DPF does, and STE what SR-STE does.
@pytest.mark.parametrize("name", [slow(name) if name in ("dcil", "ste") else name for name in VIEWED])
def test_the_derivative_of_the_view_is_straight_through(name):
    """Inside the function that is differentiated, before it, and under jit: the gradient at what was seen."""
    params = side_by_side.tree()
    tx = dstjax.sparsify(optax.sgd(0.1), methods.get(name, **VIEWED[name]))
    state = tx.init(params)
    if name in ("dpf", "dcil"):  # these begin dense
        state = dstjax.set_masks(state, jax.tree.map(lambda w: jnp.abs(w) > 0.4 if w.ndim > 1 else None, params))
    seen = dstjax.forward_params(params, state)
    before = jax.grad(loss)(seen)
    inside = jax.grad(lambda p: loss(dstjax.forward_params(p, state)))
    for gradients in (inside(params), jax.jit(inside)(params)):
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(before), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)
    for n in MASKED:
        zero = np.asarray(trees.names(seen)[n]) == 0
        assert zero.any()
        np.testing.assert_array_equal(np.asarray(trees.names(before)[n])[zero], 3.0)  # not masked


@few(2)
@pytest.mark.parametrize("name", [slow(name) if name in ("dpf", "ste") else name for name in VIEWED])
def test_starts_with_the_weights_as_they_are(name):
    """apply_masks leaves dense weights alone, and set_masks their moments."""
    params = side_by_side.tree()
    tx = dstjax.sparsify(optax.sgd(0.1, 0.9), methods.get(name, **VIEWED[name]))
    state = tx.init(params)
    assert dstjax.apply_masks(params, state) is params
    full = {"full_gradient": params} if name == "dcil" else {}
    _, state = compiled(tx).update(params, state, params, **full)
    other = jax.tree.map(lambda w: jnp.abs(w) > 0.4 if w.ndim > 1 else None, params)
    moments = optax.tree.get(dstjax.set_masks(state, other), "trace")
    for a, b in zip(jax.tree.leaves(moments), jax.tree.leaves(optax.tree.get(state, "trace")), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["dpf", "dcil", "top_kast", "str"])
def test_n_of_m_has_one_density_only(name):
    """It would be N:M from the first update on, and the second set of Top-KAST would be the first."""
    with pytest.raises(ValueError, match=rf"NM\(n=2, m=4\) is not accepted by '{name}'.*one density"):
        methods.get(name, **{**VIEWED[name], "structure": dstjax.structures.n_m(2, 4)})


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("dpf", dict(scope="tensor"), "scope='tensor'"),
        ("dpf", dict(end_step=None), "end_step=None.*final sparsity"),
        ("dpf", dict(prune_end_step=3), "no mask update lies before step 3"),
        ("dcil", dict(scope=None), "scope=None"),
        ("dcil", dict(drop_fraction=0.3), "'dcil' has no hyper-parameter 'drop_fraction'"),
        ("top_kast", dict(exploration=-0.1), "exploration=-0.1"),
        ("top_kast", dict(exploration=float("nan")), "exploration=nan"),
        ("top_kast", dict(penalty=-1e-4), "penalty=-0.0001"),
        ("top_kast", dict(penalty="l2"), "penalty='l2'"),
    ],
)
def test_bad_hyperparameters(name, wrong, says):
    with pytest.raises(ValueError, match=says):
        methods.get(name, **{"sparsity": 0.7, **PERIODIC, **wrong})
