"""A state belongs to a method and its parameters; dstjax.adopt makes it one of another method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods, structures
from tests import conformance, trees
from tests.stepping import compiled
from tests.thorough import few, slow

CENTRE = "dst_ee"  # all others hand over to it, and it to all others; other pairs are slow
NAMES = list(conformance.METHODS)
PAIRS = [
    (a, b) if CENTRE in (a, b) else slow(a, b)
    for a in NAMES
    for b in NAMES
    if conformance.make(a).name != conformance.make(b).name
]


@functools.cache
def trained(name):
    """Parameters, gradients and the state of a method after a step."""
    tx = conformance.sparsified(optax.adam(0.1), name)
    params, state = conformance.started(tx)
    grads = conformance.grads_at(params, 1)
    params, state = conformance.step(tx, params, state, grads, **conformance.needed(name, grads))
    return params, grads, state


@few(4)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_foreign_state_is_refused_in_one_line(a, b):
    params, grads, state = trained(a)
    tx = conformance.sparsified(optax.adam(0.1), b)
    with pytest.raises(ValueError, match=r"^the state does not belong to this method: .*dstjax\.adopt") as refused:
        tx.update(grads, state, params, **conformance.needed(b, grads))
    assert "\n" not in str(refused.value)


@few(4)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_it_is_adopted_when_asked(a, b):
    params, grads, state = trained(a)
    tx = conformance.sparsified(optax.adam(0.1), b)
    params, new = dstjax.adopt(state, params, conformance.make(b))
    assert jax.tree.structure(new) == jax.tree.structure(tx.init(params))
    assert int(new.step) == int(state.step)
    params, new = conformance.step(tx, params, new, grads, **conformance.needed(b, grads))
    dstjax.check_sparse(params, new)
    found, targets = conformance.counts_of(new), np.asarray(new.targets)
    if conformance.make(b).promises == "kept" and not conformance.excused(b, "counts"):
        assert found.tolist() == targets.tolist()
    elif conformance.make(b).promises != "free" and b != "str":  # which prunes by a threshold until its end
        assert found.sum() >= targets.sum()


RIGL = dict(update_period=3, start_step=3, end_step=10)


def begun(method, inner=None, **arguments):
    return dstjax.start(dstjax.sparsify(inner or optax.adam(0.1), method, **arguments), trees.everything())


@pytest.mark.parametrize("other", [0.5, 0.9])
def test_another_sparsity_of_the_same_method(other):
    params, state = begun(methods.rigl(sparsity=0.7, **RIGL))
    state = state._replace(inner_state=jax.tree.map(jnp.ones_like, state.inner_state))
    new_method = methods.rigl(sparsity=other, **RIGL)
    sparse, new = dstjax.adopt(state, params, new_method)
    expected = dstjax.sparsify(optax.adam(0.1), new_method).init(params)
    assert conformance.counts_of(new).tolist() == conformance.counts_of(expected).tolist()
    before, after = trees.names(dstjax.get_masks(state)), trees.names(dstjax.get_masks(new))
    for name, mask in before.items():
        smaller, larger = sorted((mask, after[name]), key=np.sum)
        assert not (smaller & ~larger).any()
        if other > 0.7:  # the largest stay
            weight = np.abs(np.where(mask, trees.names(params)[name], 0))
            assert weight[after[name]].min() >= weight[mask & ~after[name]].max(initial=0)
        moment = trees.names(new.inner_state[0].mu)[name]
        np.testing.assert_array_equal(moment, after[name].astype(np.float32))
    for name in trees.DENSE:
        np.testing.assert_array_equal(trees.names(new.inner_state[0].mu)[name], 1)
    dstjax.check_sparse(sparse, new)


@pytest.mark.parametrize("method", [methods.static(sparsity=0.7), methods.set(sparsity=0.7, **RIGL)])
def test_masks_that_fit_stay(method):
    params, state = begun(methods.rigl(sparsity=0.7, **RIGL))
    same, new = dstjax.adopt(state, params, method)
    assert float(dstjax.metrics.jaccard(dstjax.get_masks(state), dstjax.get_masks(new))) == 1
    for name, x in trees.names(same).items():
        np.testing.assert_array_equal(x, trees.names(params)[name])


def test_what_was_explored_goes_on():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(sparsity=0.7, **RIGL), track=["exploration"])
    params, state = conformance.started(tx)
    for t in range(1, 5):
        params, state = conformance.step(tx, params, state, conformance.grads_at(params, t))
    explored = float(dstjax.metrics.exploration_rate(state))
    params, new = dstjax.adopt(state, params, methods.dst_ee(sparsity=0.7, coefficient=0.1, **RIGL))
    assert float(dstjax.metrics.exploration_rate(new)) == explored
    longer = methods.dst_ee(sparsity=0.7, coefficient=0.1, update_period=1, start_step=1, end_step=400)
    assert new.counters["list"][0].dtype == jnp.uint8
    with pytest.raises(ValueError, match="the counters are uint8, which 399 mask updates may exceed"):
        dstjax.sparsify(optax.sgd(0.1), longer).update(params, new, params)
    params, wide = dstjax.adopt(new, params, longer)
    assert wide.counters["list"][0].dtype == jnp.uint16
    np.testing.assert_array_equal(wide.counters["list"][0], new.counters["list"][0])
    assert int(wide.step) == int(state.step)


def test_in_a_chain_and_on_eight_devices():
    mesh = jax.make_mesh((8,), ("x",))
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(np.random.default_rng(0).normal(size=(16, 8)).astype("f"), jax.P("x"))}
        tx = optax.chain(optax.clip(1.0), dstjax.sparsify(optax.adam(0.1), methods.rigl(sparsity=0.5, **RIGL)))
        params, state = dstjax.start(tx, params)
        params, new = dstjax.adopt(state, params, methods.rigl(sparsity=0.75, **RIGL))
    assert new[1].masks["w"].sharding.spec == state[1].masks["w"].sharding.spec
    assert int((np.asarray(params["w"]) != 0).sum()) == 32


def test_other_leaves_are_masked():
    params, state = begun(methods.rigl(sparsity=0.7, **RIGL))
    fewer = methods.rigl(sparsity=0.7, maskable=lambda path, leaf: path == "dense/kernel", **RIGL)
    with pytest.raises(ValueError, match="masked in the state alone: conv/kernel, list/0"):
        dstjax.sparsify(optax.adam(0.1), fewer).update(params, state, params)
    _, new = dstjax.adopt(state, params, fewer)
    assert list(trees.names(dstjax.get_masks(new))) == ["dense/kernel"]
    with pytest.raises(ValueError, match="masked by the method alone: conv/kernel, list/0"):
        dstjax.sparsify(optax.adam(0.1), methods.rigl(sparsity=0.7, **RIGL)).update(params, new, params)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (dict(sparsity=0.8), "sparsity is 0.7 in the state and 0.8 in the method"),
        (dict(distribution="uniform"), "distribution is erk in the state and uniform in the method"),
        (dict(distribution={"kernel": 0.3, "0": 0.3}, sparsity=None), "distribution is erk"),
        (dict(structure=dstjax.structures.fan_in()), r"structure is Weight\(\) in the state and FanIn"),
    ],
)
def test_what_a_method_promises_is_compared(change, fact):
    params, state = begun(methods.rigl(sparsity=0.7, **RIGL))
    other = dstjax.sparsify(optax.adam(0.1), methods.rigl(**{"sparsity": 0.7, **RIGL, **change}))
    with pytest.raises(ValueError, match=fact):
        other.update(params, state, params)
    with pytest.raises(ValueError, match=fact):
        jax.jit(other.update)(params, state, params)


def test_another_schedule_is_no_other_method():
    params, state = begun(methods.rigl(sparsity=0.7, **RIGL))
    later = methods.rigl(sparsity=0.7, update_period=5, start_step=5, end_step=100, drop_fraction=0.1)
    dstjax.sparsify(optax.adam(0.1), later).update(params, state, params)


def test_a_sparsity_that_a_trace_knows_fits_any():
    made = optax.inject_hyperparams(
        lambda sparsity: dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=sparsity))
    )(sparsity=0.5)
    params = {"w": jnp.ones((4, 4))}
    state = jax.jit(made.init)(params)
    updates, _ = jax.jit(made.update)(params, state, params)
    made.update(params, state, params)
    assert int((updates["w"] != -1).sum()) == 8


def read(state):
    """A state as files without a target give it."""
    return {name: getattr(state, name) for name in state._fields}


@pytest.mark.parametrize("wrong", [read, tuple, lambda state: [*state], lambda _: None, lambda _: optax.EmptyState()])
def test_what_is_no_state_is_refused(wrong):
    tx = dstjax.sparsify(optax.adam(0.1), methods.rigl(sparsity=0.7, **RIGL))
    params, state = conformance.started(tx)
    with pytest.raises(ValueError, match=r"expected the SparseState that tx\.init\(params\) returns"):
        tx.update(params, wrong(state), params)


def test_a_trace_cannot_adopt():
    params, state = begun(methods.rigl(sparsity=0.7, **RIGL))
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda s: dstjax.adopt(s, params, methods.static(sparsity=0.7)))(state)
    with pytest.raises(ValueError, match="parameters"):
        dstjax.adopt(state, {"other": jnp.ones((3, 3))}, methods.static(sparsity=0.7))


def test_a_rule_for_leaves_that_reads_values_is_asked_at_init_alone():
    sparse = {"a": jnp.eye(4), "b": jnp.ones((4, 4))}
    method = methods.static(sparsity=0.75, maskable=lambda path, leaf: bool((leaf == 0).any()))
    tx = dstjax.sparsify(optax.sgd(0.1), method, initial_masks=dstjax.masks.from_params(sparse))
    state = tx.init(sparse)
    updates, _ = jax.jit(tx.update)(sparse, state, sparse)
    assert list(trees.names(dstjax.get_masks(state))) == ["a"]
    assert int((updates["a"] != 0).sum()) == 4


def test_exploration_goes_on_without_counters_where_that_is_asked_for():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.dst_ee(sparsity=0.7, coefficient=0.1, **RIGL))
    params, state = conformance.started(tx)
    for t in range(1, 5):
        params, state = conformance.step(tx, params, state, conformance.grads_at(params, t))
    rigl = methods.rigl(sparsity=0.7, **RIGL)
    _, new = dstjax.adopt(state, params, rigl, track=["exploration"])
    assert float(dstjax.metrics.exploration_rate(new)) == float(dstjax.metrics.exploration_rate(state))
    assert jax.tree.structure(new) == jax.tree.structure(
        dstjax.sparsify(optax.sgd(0.1), rigl, track=["exploration"]).init(params)
    )


def test_of_a_part_of_the_parameters():
    params = {"a": {"kernel": jnp.ones((4, 4))}, "b": {"kernel": jnp.ones((4, 4))}}
    method = methods.rigl(sparsity=0.5, **RIGL)
    tx = optax.masked(dstjax.sparsify(optax.adam(0.1), method), {"a": {"kernel": True}, "b": {"kernel": False}})
    params, state = dstjax.start(tx, params)
    sparser = methods.rigl(sparsity=0.75, **RIGL)
    with pytest.raises(ValueError, match=r"part of the parameters.*MaskedNode"):
        dstjax.adopt(state, params, sparser)
    part, new = dstjax.adopt(state, {**params, "b": {"kernel": optax.MaskedNode()}}, sparser)
    assert int((part["a"]["kernel"] != 0).sum()) == 4
    tx = optax.masked(dstjax.sparsify(optax.adam(0.1), sparser), {"a": {"kernel": True}, "b": {"kernel": False}})
    tx.update(params, new, {**params, "a": part["a"]})


@pytest.mark.parametrize(
    "make",
    [
        lambda **at: methods.gmp(sparsity=0.9, update_period=2, end_step=4, **at),
        lambda **at: methods.one_shot(sparsity=0.9, prune_step=4, **at),
        lambda **at: methods.dpf(sparsity=0.9, update_period=2, end_step=4, **at),
        lambda **at: methods.granet(sparsity=0.9, update_period=2, end_step=4, **at),
    ],
    ids=["gmp", "one_shot", "dpf", "granet"],
)
def test_a_method_whose_last_update_has_passed_is_at_its_end(make):
    """Its steps count from the beginning of the state: none of its updates will come."""
    before = dstjax.sparsify(optax.adam(0.1), methods.rigl(sparsity=0.7, **RIGL))
    draw = np.random.default_rng(0)
    params = {n: {"kernel": jnp.asarray(draw.normal(size=(12, 10)), jnp.float32)} for n in "ab"}
    params, state = dstjax.start(before, params)
    for _ in range(5):
        state = before.update(params, state, params)[1]
    method = make()
    params, state = dstjax.adopt(state, params, method)
    counts = np.array([*dstjax.masks.count_active(state).values()])
    assert counts.sum() == state.targets.sum()
    assert dstjax.masks.sparsity(state) == pytest.approx(0.9, abs=0.005)


def test_counters_count_as_exploration_that_was_tracked():
    params = {"a": {"kernel": jnp.ones((8, 8))}}
    method = methods.dst_ee(sparsity=0.7, update_period=1, end_step=9)
    tx = dstjax.sparsify(optax.adam(0.1), method, track=["exploration"])
    params, state = dstjax.start(tx, params)
    for t in range(3):
        grads = jax.tree.map(lambda x, t=t: jnp.sin(x + jnp.arange(x.size).reshape(x.shape) * (t + 1)), params)
        state = tx.update(grads, state, params)[1]
    new = dstjax.adopt(state, params, methods.rigl(sparsity=0.7, **RIGL))[1]
    assert float(dstjax.metrics.exploration_rate(new)) == float(dstjax.metrics.exploration_rate(state)) > 0.3


SCALE = {"a": 9.0, "b": 1.0, "c": 0.1}  # so that weights move between layers


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda: methods.snfs(sparsity=0.8, distribution="uniform", update_period=2, end_step=30), 9),
        (lambda: methods.soft_deepr(sparsity=0.8, distribution="uniform", noise=0.3, l1=1e-3), 5),
        (lambda: methods.accset(sparsity=0.8, update_period=1, end_step=30, k=0.9, drop_fraction=0.5), 6),
        (lambda: methods.iee(sparsity=0.8, update_period=6, end_step=30), 3),
        (lambda: methods.admm(sparsity=0.8, update_period=2, end_step=30), 5),
        (lambda: methods.top_kast(sparsity=0.8, update_period=2, end_step=30), 5),
    ],
    ids=["snfs", "soft_deepr", "accset", "iee amid a cycle", "admm", "top_kast"],
)
def test_what_the_same_method_has_made_of_the_masks_stays(make, steps):
    """Though their numbers are not those that were asked for; and the next steps are those without it."""
    tx = dstjax.sparsify(optax.adam(0.05), make())
    draw = np.random.default_rng(0).normal
    params = {n: {"kernel": jnp.asarray(draw(size=(20, 20)), jnp.float32)} for n in "abc"}
    params, state = dstjax.start(tx, params)

    def trained(params, state, first, number):
        for t in range(first, first + number):
            grads = {n: jax.tree.map(lambda x, t=t, n=n: SCALE[n] * jnp.sin(9 * x + t), params[n]) for n in params}
            metric = {"metric": 0.5} if "metric" in make().needs else {}
            updates, state = compiled(tx).update(grads, state, params, **metric)
            params = optax.apply_updates(params, updates)
        return params, state

    params, state = trained(params, state, 1, steps)
    same, adopted = dstjax.adopt(state, params, make())
    assert jax.tree.structure(adopted) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves((state, params)), jax.tree.leaves((adopted, same)), strict=True):
        np.testing.assert_array_equal(a, b)
    ends = [dstjax.get_masks(trained(*pair, steps + 1, 6)[1]) for pair in ((params, state), (same, adopted))]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_the_same_method_with_another_layout_is_no_continuation():
    params = {"w": jax.random.normal(jax.random.key(0), (4, 8, 8))}
    method = methods.rigl(sparsity=0.5, structure=structures.n_m(2, 4), distribution="uniform", **RIGL)
    params, state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), method, layout="stack in out"), params)
    assert state.targets.shape == (4,)
    _, kept = dstjax.adopt(state, params, method, layout="stack in out")
    np.testing.assert_array_equal(dstjax.get_masks(kept)["w"], dstjax.get_masks(state)["w"])
    with pytest.raises(ValueError, match="are not of structure=NM"):  # two of four along another axis
        dstjax.adopt(state, params, method, layout="stack out in")
    singles = methods.rigl(sparsity=0.5, distribution="uniform", **RIGL)
    params, state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), singles, layout="stack in out"), params)
    _, other = dstjax.adopt(state, params, singles, layout="window in out")
    assert other.targets.tolist() == [128]
