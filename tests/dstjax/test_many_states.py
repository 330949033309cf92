"""States of several ``sparsify`` in one tree, on every device, of a population; and averages of the parameters."""

import flax.jax_utils
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dstjax
from dstjax import methods, metrics
from tests import conformance, trees
from tests.thorough import few, slow

SHARED = dict(update_period=2, drop_fraction=0.5, drop_schedule="constant", distribution="uniform")
TRACK = ("exploration", "survival")


def parts(params):
    """Convolutions in one part, dense layers in another; what is left has a plain optimiser."""
    by_name = jax.tree_util.tree_map_with_path(lambda p, _: jax.tree_util.keystr(p, simple=True, separator="/"), params)
    kind = lambda n: "conv" if n.startswith("conv") else "dense" if n.startswith("dense") else "rest"  # noqa: E731
    return jax.tree.map(kind, by_name)


def partitioned(first="rigl", second="set", track=TRACK):
    make = lambda name, s: dstjax.sparsify(  # noqa: E731
        optax.sgd(0.1, momentum=0.9),
        methods.get(name, sparsity=s, end_step=9, **({"update_period": 2} if name in ("gmp", "dpf") else SHARED)),
        seed=int(10 * s),
        track=track,
    )
    return optax.partition({"conv": make(first, 0.7), "dense": make(second, 0.5), "rest": optax.sgd(0.1)}, parts)


def each(state, part):
    return state.inner_states[part].inner_state


# --- Several sparsify -------------------------------------------------------------------------------------------------


def test_helpers_read_all_states_of_a_partition():
    params, tx = trees.everything(), partitioned()
    state = tx.init(params)
    masks = dstjax.get_masks(state)
    assert trees.names(masks).keys() == {"conv/kernel", "dense/kernel"}
    assert jax.tree.map(jnp.shape, masks) == {
        "conv": {"bias": None, "kernel": (3, 3, 2, 4)},
        "dense": {"bias": None, "kernel": (6, 5)},
        "list": [None, None],
        "nothing": None,
        "scale": None,
    }
    assert dstjax.masks.count_active(masks) == {"conv/kernel": 22, "dense/kernel": 15}
    for part, name in (("conv", "conv"), ("dense", "dense")):
        np.testing.assert_array_equal(masks[name]["kernel"], dstjax.get_masks(each(state, part))[name]["kernel"])
    started, same = dstjax.start(tx, params)
    trees.assert_same(started, dstjax.apply_masks(params, state))
    trees.assert_same(same, state)
    assert dstjax.check_sparse(started, state)
    with pytest.raises(ValueError, match=r"conv/kernel: \d+ of 72; dense/kernel: \d+ of 30"):
        dstjax.check_sparse(params, state)
    assert dstjax.forward_params(started, state) is started
    step = jax.jit(lambda p, s, g: conformance.step(tx, p, s, g))
    for t in range(1, 6):
        started, state = step(started, state, conformance.grads_at(started, t))
    dstjax.check_sparse(started, state)
    report = dstjax.summary(started, state)
    assert {row.path: (row.requested, row.active) for row in report.leaves if row.requested} == {
        "conv/kernel": (22, 22),
        "dense/kernel": (15, 15),
    }
    assert next(row for row in report.leaves if row.path == "list/0").requested is None
    assert report.state_bytes == sum(dstjax.summary(started, each(state, p)).state_bytes for p in ("conv", "dense"))
    rates = metrics.exploration_rate_per_leaf(state)
    assert rates.keys() == {"conv/kernel", "dense/kernel"}
    explored = sum(float(r) * n for r, n in zip(rates.values(), (72, 30), strict=True))
    assert float(metrics.exploration_rate(state)) == pytest.approx(explored / 102)
    tracked = [each(state, p).tracked for p in ("conv", "dense")]
    survived, grown = (sum(int(getattr(t, n).sum()) for t in tracked) for n in ("n_survived", "n_grown"))
    assert float(metrics.survival_rate(state)) == pytest.approx(survived / grown)


def test_views_and_sparse_weights_side_by_side():
    params, tx = trees.everything(), partitioned("dpf", "gmp")
    state = tx.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        params, state = conformance.step(tx, params, state, zeros)
    masks = dstjax.get_masks(state)
    dense = dstjax.apply_masks(trees.everything(), state)
    trees.assert_same(dense["conv"], trees.everything()["conv"])
    assert int((dense["dense"]["kernel"] != 0).sum()) == int(masks["dense"]["kernel"].sum()) < 30
    seen = dstjax.forward_params(params, state)
    assert int((seen["conv"]["kernel"] != 0).sum()) == int(masks["conv"]["kernel"].sum()) < 72
    assert seen["dense"]["kernel"] is params["dense"]["kernel"]
    dstjax.check_sparse(params, state)
    with pytest.raises(ValueError, match=r"not zero: dense/kernel"):
        dstjax.check_sparse(trees.everything(), state)


def test_a_partition_of_nnx():
    network = nnx.Linear(6, 8, rngs=nnx.Rngs(0))
    params = {"a": nnx.state(network), "b": nnx.state(nnx.Linear(8, 3, rngs=nnx.Rngs(1)))}
    make = lambda s: dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=s))  # noqa: E731
    # A label for a whole branch: its leaves have one placeholder in the other part.
    tx = optax.partition({"a": make(0.5), "b": make(0.75)}, {"a": "a", "b": "b"})
    started, state = dstjax.start(tx, params)
    assert dstjax.masks.count_active(dstjax.get_masks(state)) == {"a/kernel": 24, "b/kernel": 6}
    assert dstjax.check_sparse(started, state)
    assert len(dstjax.summary(started, state).masked) == 2


def test_states_that_are_no_partition():
    params = trees.everything()
    state = partitioned().init(params)
    one = each(state, "conv")
    twice = {"actor": one, "critics": [state]}
    for function in (dstjax.get_masks, lambda s: dstjax.apply_masks(params, s), lambda s: dstjax.summary(params, s)):
        with pytest.raises(
            ValueError, match=r"found 3 states of dstjax.* both of which mask conv/kernel; pass"
        ) as error:
            function(twice)
        assert "opt_state['actor'] or opt_state['critics'][0].inner_states['conv'].inner_state or" in str(error.value)
    other = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5)).init({"w": jnp.ones((4, 4))})
    with pytest.raises(ValueError, match=r"found 2 states of .* and they are of different trees; pass the one of"):
        dstjax.get_masks((one, other))


def test_what_is_meant_for_one_state_says_how_to_pick_it():
    params = trees.everything()
    state = partitioned().init(params)
    wants_one = (
        dstjax.is_exploring,
        dstjax.split_state,
        metrics.last_mask_error,
        lambda s: dstjax.set_masks(s, dstjax.get_masks(s)),
    )
    for function in wants_one:
        with pytest.raises(ValueError, match=r"found 2 .*expected one; pass the one of interest: opt_state.inner_st"):
            function(state)
    moving, _ = dstjax.split_state(each(state, "conv"))
    with pytest.raises(ValueError, match=r"the state was split; call dstjax\.merge_state first"):
        dstjax.get_masks((moving, each(state, "dense")))


# --- A leading axis ---------------------------------------------------------------------------------------------------


def populated(name="rigl", n=3):
    """A population: parameters, its states, and one of each."""
    method = conformance.make(name)
    make = lambda seed: dstjax.sparsify(optax.adam(0.1), method, seed=seed, track=TRACK)  # noqa: E731
    init = lambda seed, params: dstjax.start(make(seed), params)  # noqa: E731
    params = jax.tree.map(lambda x: jnp.stack([x * (i + 1) for i in range(n)]), trees.everything())
    started, states = jax.vmap(init)(jnp.arange(n), params)
    return make(0), started, states, [jax.tree.map(lambda x, i=i: x[i], (started, states)) for i in range(n)]


@few(1)
@pytest.mark.parametrize("name", ["rigl", "dpf", slow("str"), slow("iee"), slow("top_kast")])
def test_helpers_read_a_population(name):
    tx, params, states, each_one = populated(name)
    step = jax.jit(jax.vmap(lambda p, s, g: conformance.step(tx, p, s, g)))
    for t in range(1, 5):
        grads = conformance.grads_at(params, t)
        params, states = step(params, states, grads)
    each_one = [jax.tree.map(lambda x, i=i: x[i], (params, states)) for i in range(3)]
    stack = lambda function: jax.tree.map(lambda *x: jnp.stack(x), *[function(p, s) for p, s in each_one])  # noqa: E731
    trees.assert_same(dstjax.get_masks(states), stack(lambda p, s: dstjax.get_masks(s)))
    trees.assert_same(dstjax.apply_masks(params, states), stack(dstjax.apply_masks))
    for training in (True, False):
        of_one = lambda p, s: dstjax.forward_params(p, s, training=training)  # noqa: B023, E731
        trees.assert_same(dstjax.forward_params(params, states, training=training), stack(of_one))
    exploring = dstjax.is_exploring(states)  # one number for all where the method never explores
    assert exploring.tolist() == ([bool(dstjax.is_exploring(s)) for _, s in each_one] if name == "iee" else False)
    assert dstjax.check_sparse(params, states)
    if name == "rigl":
        with pytest.raises(ValueError, match=r"conv/kernel: \d+ of 216"):
            dstjax.check_sparse(jax.tree.map(jnp.ones_like, params), states)
    report, single = dstjax.summary(params, states), [dstjax.summary(p, s) for p, s in each_one]
    assert report.copies == 3
    assert "those of 3 copies together" in str(report)
    for i, row in enumerate(report.leaves):
        alone = [one.leaves[i] for one in single]
        assert (row.path, row.size, row.active) == (
            alone[0].path,
            3 * alone[0].size,
            sum(one.active for one in alone),
        )
        assert row.layers == sum((one.layers for one in alone), ())
        assert row.reason == alone[0].reason
        assert row.requested == (None if alone[0].requested is None else sum(one.requested for one in alone))
    assert report.state_bytes == sum(one.state_bytes for one in single)
    if name == "rigl":
        mean = np.mean([float(metrics.exploration_rate(s)) for _, s in each_one])
        assert float(metrics.exploration_rate(states)) == pytest.approx(mean)


def test_helpers_read_stacks_of_a_population():
    method = methods.static(sparsity=0.5, distribution="uniform")
    make = lambda seed: dstjax.sparsify(optax.sgd(0.1), method, seed=seed, layout="stack in out")  # noqa: E731
    params = {"w": jnp.ones((2, 3, 4, 5))}  # two networks of three layers
    params, states = jax.vmap(lambda s, p: dstjax.start(make(s), p))(jnp.arange(2), params)
    (row,) = dstjax.summary(params, states, layout="stack in out").leaves
    assert (row.shape, row.layers, row.requested) == ((2, 3, 4, 5), (10,) * 6, 60)


def test_the_axes_of_a_population_whose_step_is_one():
    _, params, states, _ = populated()
    states = states._replace(step=states.step[0])
    assert dstjax.summary(params, states).copies == 3
    assert dstjax.check_sparse(params, states)


def test_helpers_read_replicated_states():
    tx, params = conformance.sparsified(optax.adam(0.1), "rigl"), trees.everything()
    params, state = dstjax.start(tx, params)
    devices = jax.devices()[:2]
    all_params, all_states = (flax.jax_utils.replicate(tree, devices) for tree in (params, state))
    assert dstjax.check_sparse(all_params, all_states)
    report = dstjax.summary(all_params, all_states)
    assert (report.copies, report.density) == (2, dstjax.summary(params, state).density)
    trees.assert_same(flax.jax_utils.unreplicate(dstjax.get_masks(all_states)), dstjax.get_masks(state))
    trees.assert_same(flax.jax_utils.unreplicate(dstjax.forward_params(all_params, all_states, training=False)), params)
    with pytest.raises(ValueError, match=r"'conv/kernel' of the parameters has shape \(3, 3, 2, 4\); expected \(2, 3"):
        dstjax.summary(params, all_states)


def test_masks_of_a_population_are_replaced():
    _, _, states, _ = populated()
    flipped = jax.tree.map(lambda m: ~m, dstjax.get_masks(states))
    new = dstjax.set_masks(states, flipped)
    assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, states)
    trees.assert_same(dstjax.get_masks(new), flipped)


# --- Averages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rigl", "dpf", slow("str"), slow("sr_ste")])
def test_an_average_of_the_parameters_comes_out_sparse(name):
    params = {"w": trees.everything()["dense"]["kernel"]}
    changes = {"maskable": None} if name == "sr_ste" else {}
    tx = conformance.sparsified(optax.adam(0.1), name, changes=changes)
    params, state = dstjax.start(tx, params)
    ema = optax.ema(0.5, debias=False)
    averages = ema.init(params)
    for t in range(1, 8):
        params, state = conformance.step(tx, params, state, conformance.grads_at(params, t))
        average, averages = ema.update(params, averages)
    inactive = ~dstjax.get_masks(state)["w"]
    assert (average["w"][inactive] != 0).any()
    if name == "rigl":
        with pytest.raises(ValueError, match=r"An average of the parameters .* training=False\) is the sparse one"):
            dstjax.check_sparse(average, state)
    sparse = dstjax.forward_params(average, state, training=False)
    assert not (sparse["w"][inactive] != 0).any()
    assert dstjax.check_sparse(sparse, dstjax.get_masks(state))
    if name in ("rigl", "dpf"):
        kept = jnp.where(inactive, 0, average["w"])
        np.testing.assert_array_equal(sparse["w"], kept)
    slope = jax.grad(lambda p: jnp.sum(dstjax.forward_params(p, state, training=False)["w"]))(average)["w"]
    np.testing.assert_array_equal(slope, jnp.ones_like(slope))  # straight through, as everywhere
