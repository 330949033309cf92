"""DPF, DCIL, Top-KAST and STR against transcripts in float64 and worked examples: dense weights behind the masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods, views
from tests import dense_oracles as oracles
from tests import side_by_side, trees
from tests.side_by_side import MASKED, MODES, active, follow


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
    updates, state = tx.update({"w": jnp.array([[0.1, -2.0, 0.0, 0.5]])}, state, params)
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
    updates, _ = tx.update(sparse, state, params, full_gradient=dense)
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
    updates, _ = tx.update(sparse, state, params, full_gradient=dense)
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
    second = {n: np.asarray(dstjax.masks.unpack(m)) for n, m in trees.names(state.memory.sets).items()}
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
    b = trees.names(state.memory.sets)
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
    updates, _ = tx.update({"w": jnp.zeros((1, 6))}, state, params)
    pull = -np.asarray(updates["w"]) / 0.01
    np.testing.assert_allclose(pull, [[0.9, -0.8, 0.9, -0.6, 0, 0]], rtol=1e-12)
    assert np.abs(pull).sum() == pytest.approx(3.2)
    updates, _ = tx.update({"w": jnp.ones((1, 6))}, state, params)
    np.testing.assert_array_equal(np.asarray(updates["w"]) != 0, [[True, True, True, True, False, False]])


def test_top_kast_that_explores_nothing():
    """B = A: only what the forward pass sees is trained."""
    method = methods.top_kast(exploration=0.0, penalty=0.0, **UPPER)
    run, *_ = follow(method, of(oracles.TopKAST, exploration=0.0, penalty=0.0, **TIMES), steps=7)
    assert all(np.array_equal(run.b[n], run.m[n]) for n in MASKED)


# --- STR --------------------------------------------------------------------------------------------------------------

LEARNED = dict(s_init=-2.5, threshold_learning_rate=0.05, threshold_decay=0.2)
SAME = dict(s=-2.5, rate=0.05, decay=0.2)


@pytest.mark.parametrize("mode", MODES)
def test_str(mode):
    method = methods.str_(sparsity=0.7, end_step=15, **LEARNED)
    run, params, state, changed = follow(method, of(oracles.STR, end=15, **SAME), mode=mode)
    assert changed >= 8
    assert active(run.m) == UNIFORM
    assert run.fixed
    seen = trees.names(dstjax.forward_params(params, state))
    assert all(np.array_equal(np.asarray(seen[n]) != 0, run.m[n]) for n in MASKED)


def test_str_that_never_ends():
    """The number of active weights is free, and falls as the threshold rises."""
    run, _, state, _ = follow(methods.str_(sparsity=0.7, **LEARNED), of(oracles.STR, **SAME), steps=14)
    found = state.memory.leaves
    for n in MASKED:
        s = trees.names(found)[f"{n}/s"]
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

        s = {n: trees.names(state.memory.leaves)[f"{n}/s"] for n in MASKED}
        by_weight, by_s = jax.grad(whole, argnums=(0, 1))(params, s)
        updates, state = tx.update(gradients, state, params)
        for n, u in trees.names(updates).items():
            np.testing.assert_allclose(-u, trees.names(by_weight)[n], rtol=1e-10, atol=1e-14, err_msg=f"{n}, {t}")
        for n in MASKED:
            moved = trees.names(state.memory.leaves)[f"{n}/s"] - s[n]
            np.testing.assert_allclose(-moved, by_s[n], rtol=1e-10, err_msg=f"{n}, {t}")
        params = optax.apply_updates(params, updates)


def test_str_worked_example():
    """s = -2: the threshold is 0.1192, and with a gradient of 1 everywhere dL/ds = -0.1050."""
    params = {"w": jnp.array([[0.5, -0.1, 0.03]])}
    method = methods.str_(sparsity=0.5, s_init=-2.0, threshold_learning_rate=1.0, threshold_decay=0.0)
    tx = dstjax.sparsify(optax.sgd(1.0), method)
    state = tx.init(params)
    np.testing.assert_allclose(dstjax.forward_params(params, state)["w"], [[0.3808, 0, 0]], atol=5e-5)
    updates, after = tx.update({"w": jnp.ones((1, 3))}, state, params)
    assert float(after.memory.leaves["w"].s) == pytest.approx(-2 + 0.1050, abs=5e-5)
    np.testing.assert_array_equal(updates["w"], [[-1, 0, 0]])
    # Signs of (1, 1, 1) give the same sum over all as over the one that counts; these do not.
    _, after = tx.update({"w": jnp.array([[1.0, 5.0, 7.0]])}, state, params)
    assert float(after.memory.leaves["w"].s) == pytest.approx(-2 + 0.1050, abs=5e-5)


def test_str_decays_its_threshold_where_nothing_else_moves_it():
    """From s = -3200 the sigmoid and its slope are zero: s shrinks by lr * decay, and nothing is pruned yet."""
    params = side_by_side.tree()
    method = methods.str_(sparsity=0.5, s_init=-3200.0, threshold_learning_rate=0.5, threshold_decay=0.1)
    tx = dstjax.sparsify(optax.sgd(0.01), method)
    _, state = tx.update(params, tx.init(params), params)
    assert [float(m.s) for m in jax.tree.leaves(state.memory.leaves, is_leaf=lambda x: hasattr(x, "s"))] == [
        -3040.0
    ] * 3
    assert active(dstjax.get_masks(state)) == {"conv/kernel": 60, "dense/kernel": 40, "out/kernel": 36}


# --- What the forward pass sees, and what the optimiser makes of it -------------------------------------------------


def loss(params):
    return sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(params))


VIEWED = {
    "dpf": dict(sparsity=0.7, **PERIODIC),
    "dcil": dict(sparsity=0.7, **PERIODIC),
    "top_kast": dict(sparsity=0.7),
    "str": dict(sparsity=0.7, s_init=-1.0),
    "ste": dict(),
    "sr_ste": dict(),
}


@pytest.mark.parametrize("name", VIEWED)
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


@pytest.mark.parametrize("name", VIEWED)
def test_starts_with_the_weights_as_they_are(name):
    """apply_masks leaves dense weights alone, and set_masks their moments."""
    params = side_by_side.tree()
    tx = dstjax.sparsify(optax.sgd(0.1, 0.9), methods.get(name, **VIEWED[name]))
    state = tx.init(params)
    assert dstjax.apply_masks(params, state) is params
    full = {"full_gradient": params} if name == "dcil" else {}
    _, state = tx.update(params, state, params, **full)
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
        ("str", dict(s_init=float("-inf")), "s_init=-inf"),
        ("str", dict(threshold_learning_rate=0), "threshold_learning_rate=0"),
        ("str", dict(threshold_decay=-1.0), "threshold_decay=-1.0"),
        ("str", dict(update_period=2), "'str' has no hyper-parameter 'update_period'"),
        ("str", dict(end_step=1), "end_step=1"),
    ],
)
def test_bad_hyperparameters(name, wrong, says):
    good = dict(end_step=17) if name == "str" else PERIODIC
    with pytest.raises(ValueError, match=says):
        methods.get(name, **{"sparsity": 0.7, **good, **wrong})
