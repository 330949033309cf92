"""Masks read from parameters, and the methods that go on from them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dstjax
from dstjax import masks, methods, structures
from dstjax._arrays.shares import floor_share
from tests import conformance, trees
from tests.thorough import few, slow


def sparse(sparsity=0.5, seed=3, **method):
    """Parameters that hold zeros, and the masks that made them so."""
    params = trees.everything()
    method = methods.static(sparsity=sparsity, **{"distribution": "uniform", **method})
    params, state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), method, seed=seed), params)
    return params, dstjax.get_masks(state)


def assert_same(a, b):
    assert trees.names(a).keys() == trees.names(b).keys()
    for name, mask in trees.names(a).items():
        np.testing.assert_array_equal(mask, trees.names(b)[name], err_msg=name)


def test_what_is_not_zero_is_active():
    params, expected = sparse()
    found = masks.from_params(params)
    assert_same(found, expected)
    assert jax.tree.structure(found, is_leaf=lambda x: x is None) == jax.tree.structure(
        expected, is_leaf=lambda x: x is None
    )


def test_which_leaves_are_masked():
    params, _ = sparse()
    params["list"][0] = jnp.ones((5, 4))  # a weight without a zero
    params["conv"]["bias"] = jnp.zeros(4)  # zeros that are no weights
    state = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5)).init(params)
    assert trees.names(masks.from_params(params)).keys() == {"conv/kernel", "dense/kernel"}
    for like in (state, dstjax.get_masks(state), state.masks):
        found = masks.from_params(params, like=like)
        assert trees.names(found).keys() == {*trees.MASKED}
        assert bool(found["list"][0].all())
    chosen = masks.from_params(params, maskable=lambda path, leaf: path.startswith("list/0"))
    assert trees.names(chosen).keys() == {"list/0"}
    by_layout = masks.from_params(params, layout={"dense/kernel": None})
    assert trees.names(by_layout).keys() == {"conv/kernel"}
    rule = masks.maskable(masks.from_params(params))
    assert {n for n in trees.SHAPES if rule(n, None)} == {"conv/kernel", "dense/kernel"}
    assert rule == masks.maskable(masks.from_params(params))
    assert hash(rule) == hash(masks.maskable(state._replace(masks=masks.from_params(params))))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn])
def test_numbers_that_are_hardly_any_are_active(dtype):
    """The smallest number is not zero, and neither is NaN; -0.0 is."""
    w = jnp.array([[jnp.finfo(dtype).smallest_subnormal, jnp.nan], [-0.0, 0.0]], dtype)
    assert masks.from_params({"w": w})["w"].tolist() == [[True, True], [False, False]]


def test_parameters_of_which_no_masks_can_be_read():
    params, found = sparse()
    with pytest.raises(ValueError, match=r"the parameters are dense\. Make masks of them with"):
        masks.from_params(trees.everything())
    stack = {"w": jnp.ones((2, 3, 3)).at[1].set(0)}
    with pytest.raises(ValueError, match=r"layers \['w\[1\]'\] of the parameters are zero throughout"):
        masks.from_params(stack, layout="stack in out")
    with pytest.raises(ValueError, match="like and method are not accepted together"):
        masks.from_params(params, like=found, method=methods.static(sparsity=0.5))
    with pytest.raises(ValueError, match="'dense' is not accepted, which masks nothing"):
        masks.from_params(params, method=methods.dense())
    with pytest.raises(ValueError, match=r"leaf 'w' has no values to read; .* outside jit"):
        jax.jit(masks.from_params)({"w": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="leaf 'w' has no values to read"):
        masks.from_params({"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)})
    with pytest.raises(ValueError, match=r"leaf 'w' of the parameters has shape \(2, 3\); expected \(2, 2\)"):
        masks.from_params({"w": jnp.ones((2, 3))}, like={"w": jnp.ones((2, 2), bool)})
    for nothing in ("masks", {"w": None}, dstjax.sparsify(optax.sgd(0.1), methods.dense()).init(params)):
        with pytest.raises(ValueError, match=r"like=.* masks nothing; expected masks of some leaves"):
            masks.from_params(params, like=nothing)
    with pytest.raises(ValueError, match="method='rigl' is not accepted; expected one from dstjax"):
        masks.from_params(params, method="rigl")
    with pytest.raises(ValueError, match="seed=-1 is not accepted"):
        masks.from_params(params, seed=-1)


# --- Fine-tuning with these masks -------------------------------------------------------------------------------------


@given(st.integers(1, 2**45).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_the_sparsity_is_that_of_the_count(numbers):
    """Whatever the numbers are, a method that is given the quotient expects them."""
    size, active = numbers
    assert size - floor_share(size, (size - active) / size) == active


@pytest.mark.parametrize("name", ["static", "rigl"])
def test_two_lines_go_on_from_masks_of_any_count(name):
    params, _ = sparse(0.37, distribution="erk")
    params["list"][0] = jnp.ones((5, 4))  # dense, and stays so
    params["dense"]["kernel"] = params["dense"]["kernel"].at[0].set(0.0)
    found = masks.from_params(params)
    shared = {} if name == "static" else dict(update_period=2, end_step=9)
    method = methods.get(name, sparsity=masks.sparsity(found), maskable=masks.maskable(found), **shared)
    tx = dstjax.sparsify(optax.adam(0.1), method, initial_masks=found)
    started, state = dstjax.start(tx, params)
    trees.assert_same(started, params)
    assert_same(dstjax.get_masks(state), found)
    for t in range(1, 6):
        started, state = conformance.step(tx, started, state, conformance.grads_at(started, t))
    dstjax.check_sparse(started, state)
    assert masks.count_active(dstjax.get_masks(state)) == masks.count_active(found)
    if name == "static":
        assert_same(dstjax.get_masks(state), found)


def test_the_sparsity_of_nothing():
    with pytest.raises(ValueError, match="0 active weights of 4; expected one at least"):
        masks.sparsity({"w": jnp.zeros((2, 2), bool)})
    with pytest.raises(
        ValueError, match=r"expected an optimiser state of dstjax\.sparsify, or a tree of boolean masks"
    ):
        masks.sparsity({"w": jnp.zeros((2, 2))})


def test_leaves_that_the_masks_lack_are_named_with_the_remedy():
    params, found = sparse()
    found["list"][0] = None
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5), initial_masks=found)
    with pytest.raises(ValueError, match=r"missing for \['list/0'\].*maskable=dstjax.masks.maskable\(masks\)"):
        tx.init(params)


# --- Weights that were grown and are still zero -----------------------------------------------------------------------


STRUCTURES = [structures.WEIGHT, structures.n_m(1, 2), slow(structures.block(3, 5)), slow(structures.fan_in())]


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_a_method_fills_up_what_is_missing(structure):
    only = dict(maskable=lambda path, leaf: path == "dense/kernel")  # (6, 5)
    method = methods.static(sparsity=0.5, distribution="uniform", structure=structure, **only)
    params, expected = sparse(structure=structure, **only)
    full = masks.from_params(params, method=method)
    assert_same(full, expected)
    at = tuple(np.argwhere(expected["dense"]["kernel"])[0])
    params["dense"]["kernel"] = params["dense"]["kernel"].at[at].set(0.0)  # grown, and has not moved
    filled = masks.from_params(params, method=method)
    assert masks.count_active(filled) == {"dense/kernel": 15}
    assert not bool(((params["dense"]["kernel"] != 0) & ~filled["dense"]["kernel"]).any())
    assert_same(filled, masks.from_params(params, method=method, seed=0))
    dstjax.sparsify(optax.sgd(0.1), method, initial_masks=filled).init(params)


def test_the_seed_chooses_what_is_filled():
    params, _ = sparse(0.9)
    method = methods.static(sparsity=0.5)
    found = [masks.from_params(params, method=method, seed=seed) for seed in (0, 1)]
    assert float(masks.iou(*found)) < 1
    assert masks.count_active(found[0]) == masks.count_active(found[1])


def test_more_weights_than_the_method_has():
    params, found = sparse(0.5)
    with pytest.raises(ValueError, match=r"'conv/kernel' has 36 of 22, .*sparsity=dstjax.masks.sparsity\(masks\)"):
        masks.from_params(params, method=methods.static(sparsity=0.7, distribution="uniform"))
    assert_same(masks.from_params(params, method=methods.one_shot(sparsity=0.7, prune_step=4)), found)


# --- Pruning a sparse checkpoint further ------------------------------------------------------------------------------

PRUNING = ["gmp", "one_shot", "str", "granet", "gap", "dpf", "dcil", "admm", "mest"]
CHANGES = {"mest": {"soft_bound": True}}


@few(2)
@pytest.mark.parametrize("name", [p if p in ("gmp", "granet", "dpf") else slow(p) for p in PRUNING])
def test_from_half_to_the_end(name):
    """Each update leaves no more active than there were, and the last one as many as the method promises."""
    params, found = sparse(0.5)
    assert masks.sparsity(found) == 0.5
    tx = conformance.sparsified(optax.adam(0.01), name, initial_masks=found, changes=CHANGES.get(name))
    params, state = dstjax.start(tx, params)
    assert_same(dstjax.get_masks(state), found)
    step, counts = jax.jit(lambda *a, **k: conformance.step(tx, *a, **k)), [61]
    for t in range(1, 13):
        grads = conformance.grads_at(params, t)
        params, state = step(params, state, grads, **conformance.needed(name, grads))
        dstjax.check_sparse(params, state)
        counts.append(int(conformance.counts_of(state).sum()))
    ends = conformance.make(name).masking
    assert counts[-1] == 37 == sum(dstjax.distributions.active_counts(ends.distribution, _shapes(), 0.7).values())
    if name not in ("gap", "mest"):  # which grow in between
        assert counts == sorted(counts, reverse=True)


def _shapes():
    return {n: trees.SHAPES[n] for n in trees.MASKED}


def test_the_state_says_where_it_ends():
    params, found = sparse(0.5)
    state = conformance.sparsified(optax.sgd(0.1), "gmp", initial_masks=found).init(params)
    assert state.targets.tolist() == [22, 9, 6]
    assert [row.requested for row in dstjax.summary(params, state).masked] == [22, 9, 6]


def test_masks_that_cannot_be_pruned_to_the_end():
    params, found = sparse(0.5)
    few = {**found, "list": [jnp.arange(20).reshape(5, 4) < 5, None]}
    with pytest.raises(ValueError, match=r"fewer active weights than method 'gmp' ends with: 'list/0' has 5 of .* 6"):
        conformance.sparsified(optax.sgd(0.1), "gmp", initial_masks=few).init(params)
    state = conformance.sparsified(optax.sgd(0.1), "gmp", changes={"scope": "global"}, initial_masks=few).init(params)
    assert state.targets.tolist() == [22, 9, 6]
    _, fewer = sparse(0.8)
    with pytest.raises(ValueError, match="have 25 active weights; method 'gmp', which prunes, expects at least 37"):
        conformance.sparsified(optax.sgd(0.1), "gmp", initial_masks=fewer).init(params)
    _, more = sparse(0.2)
    with pytest.raises(ValueError, match=r"'granet', which prunes, expects at least 37, .*, and at most 61, those of"):
        conformance.sparsified(optax.sgd(0.1), "granet", initial_masks=more).init(params)
    with pytest.raises(ValueError, match=r"61 active weights of 122; method 'rigl' .* expects 37.*masks.sparsity"):
        conformance.sparsified(optax.sgd(0.1), "rigl", initial_masks=found).init(params)


@pytest.mark.parametrize("structure", [structures.n_m(1, 2), structures.block(3, 5), structures.fan_in()], ids=str)
def test_masks_of_another_structure(structure):
    only = dict(maskable=lambda path, leaf: path == "dense/kernel", distribution="uniform")
    params, found = sparse(**only)
    method = methods.static(sparsity=0.5, structure=structure, **only)
    with pytest.raises(ValueError, match=r"of \['dense/kernel'\] are not of structure=.*method 'static' has"):
        dstjax.sparsify(optax.sgd(0.1), method, initial_masks=found).init(params)
    _, alike = sparse(structure=structure, **only)
    assert_same(dstjax.get_masks(dstjax.sparsify(optax.sgd(0.1), method, initial_masks=alike).init(params)), alike)


def test_any_masks_are_pruned_to_two_of_four():
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((8, 5)), jnp.float32)}
    found = dstjax.initial_masks.magnitude(params, sparsity=0.25)
    params = dstjax.apply_masks(params, found)
    tx = dstjax.sparsify(optax.sgd(0.1), methods.asp(prune_step=1), initial_masks=found)
    state = tx.init(params)
    params, state = conformance.step(tx, params, state, jax.tree.map(jnp.zeros_like, params))
    assert (dstjax.get_masks(state)["w"].reshape(2, 4, 5).sum(axis=1) == 2).all()
    dstjax.check_sparse(params, state)


def test_masks_of_the_total_of_a_distribution_are_those_of_the_end():
    """A global ranking has as many as the sparsity says, which need not be the sum over the layers: these stay."""
    params = {"v": jnp.ones((3, 5)), "w": jnp.ones((5, 3))}
    shapes = {n: x.shape for n, x in params.items()}
    assert sum(dstjax.distributions.active_counts("uniform", shapes, 0.3).values()) == 22
    flat = {"v": jnp.arange(15).reshape(3, 5) < 12, "w": jnp.arange(15).reshape(5, 3) < 9}  # 21 of 30
    for name in ("static", "rigl", "gap"):
        shared = {} if name == "static" else dict(update_period=2, end_step=9)
        method = methods.get(name, sparsity=0.3, distribution="uniform", **shared)
        state = dstjax.sparsify(optax.sgd(0.1), method, initial_masks=flat).init(params)
        assert state.targets.tolist() == [12, 9], name


def test_masks_for_a_population_of_sparsities():
    """Under the trace nobody can compare counts: the masks are taken as they are."""
    params, found = sparse(0.5)

    def init(sparsity):
        tx = dstjax.sparsify(
            optax.sgd(0.1), methods.static(sparsity=sparsity, distribution="uniform"), initial_masks=found
        )
        return tx.init(params)

    states = jax.vmap(init)(jnp.array([0.5, 0.7]))
    assert states.targets.tolist() == [[36, 15, 10]] * 2


@pytest.mark.parametrize(
    "structure", [structures.n_m(1, 2), slow(structures.block(3, 5)), structures.fan_in()], ids=str
)
def test_the_structure_is_checked_under_jit_too(structure):
    only = dict(maskable=lambda path, leaf: path == "dense/kernel", distribution="uniform")
    method = methods.static(sparsity=0.5, structure=structure, **only)
    params, alike = sparse(structure=structure, **only)
    state = jax.jit(dstjax.sparsify(optax.sgd(0.1), method, initial_masks=alike).init)(params)
    assert_same(dstjax.get_masks(state), alike)
    with pytest.raises(ValueError, match="are not of structure="):
        jax.jit(dstjax.sparsify(optax.sgd(0.1), method, initial_masks=sparse(**only)[1]).init)(params)
