"""Leaves that are frozen, or have no gradient, stand still: weights, masks and counters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods, structures
from tests import conformance, trees
from tests.thorough import few, slow

FROZEN = ("dense/kernel", "conv/bias")
STEPS = 8


def marks(params, frozen=FROZEN):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/") in frozen, params
    )


def partitioned(params):
    labels = jax.tree.map(lambda f: "frozen" if f else "trained", marks(params))
    return optax.partition({"trained": optax.adam(0.05), "frozen": optax.set_to_zero()}, labels)


INNER = {
    "partition": partitioned,
    "masked": lambda p: optax.chain(optax.adam(0.05), optax.masked(optax.set_to_zero(), marks(p))),
    "before": lambda p: optax.chain(optax.masked(optax.set_to_zero(), marks(p)), optax.sgd(0.05)),
    "scaled": lambda p: optax.chain(optax.masked(optax.set_to_zero(), marks(p)), optax.scale(-0.05)),
    "freeze": lambda p: optax.chain(optax.adam(0.05), optax.freeze(marks(p))),
}
NAMES = ["set", "dst_ee", "snfs", "granet", "gmp", "dpf", "srigl", "iee"]
REST = [n for n in conformance.METHODS if n not in NAMES and conformance.make(n).updates is not None]


def run(tx, name, without_gradient=(), rewire=None):
    params, state = conformance.started(tx)
    first = params, state
    update = jax.jit(functools.partial(tx.update, rewire=rewire))
    for t in range(1, STEPS + 1):
        by_name = trees.names(conformance.grads_at(params, t))
        dense = trees.names(params)
        grads = jax.tree_util.tree_map_with_path(
            lambda path, _, by_name=by_name, dense=dense: (
                lambda n: 0 * dense[n] if n in without_gradient else by_name[n]
            )(jax.tree_util.keystr(path, simple=True, separator="/")),
            params,
        )
        updates, state = update(grads, state, params, **conformance.needed(name, grads))
        params = optax.apply_updates(params, updates)
    return first, (params, state)


def assert_still(first, last, name):
    (w, before), (v, after) = first, last
    dstjax.check_sparse(v, after)
    for n in FROZEN:
        np.testing.assert_array_equal(trees.names(v)[n], trees.names(w)[n])
    mask = FROZEN[0]
    old, new = (trees.names(dstjax.get_masks(s)) for s in (before, after))
    np.testing.assert_array_equal(new[mask], old[mask])
    if conformance.make(name).updates.counters:
        np.testing.assert_array_equal(trees.names(after.counters)[mask], trees.names(before.counters)[mask])
    weights = [(trees.names(v)[n], trees.names(w)[n]) for n in old if n != mask]
    assert any((a != b).any() for a, b in [*((new[n], old[n]) for n in old), *weights]), "nothing else moved"


@few(2)
@pytest.mark.parametrize("name", [*NAMES, *(slow(n) for n in REST)])
@pytest.mark.parametrize("inner", ["partition", *(slow(n) for n in INNER if n != "partition")])
def test_frozen_in_the_optimiser(name, inner):
    tx = conformance.sparsified(INNER[inner](trees.everything()), name)
    assert_still(*run(tx, name), name)


@few(2)
@pytest.mark.parametrize("inner", list(INNER))
def test_however_it_is_frozen(inner):
    tx = conformance.sparsified(INNER[inner](trees.everything()), "rigl")
    assert_still(*run(tx, "rigl"), "rigl")


@pytest.mark.parametrize("name", ["rigl", "dst_ee", "set", slow("snfs"), slow("dsr")])
def test_without_a_gradient(name):
    tx = conformance.sparsified(optax.sgd(0.05), name)
    assert_still(*run(tx, name, without_gradient=FROZEN), name)


PRUNING = {
    "one_shot": (methods.one_shot, {"prune_step": 4}),
    "one_shot, together": (methods.one_shot, {"prune_step": 4, "scope": "global"}),
    "gmp": (methods.gmp, {"update_period": 2, "end_step": 5}),
    "gmp, together": (methods.gmp, {"update_period": 2, "end_step": 5, "scope": "global"}),
    "admm": (methods.admm, {"update_period": 2, "end_step": 5}),
    "str": (methods.str, {"end_step": 5}),
    "mest": (methods.mest, {"soft_bound": True, "update_period": 2, "end_step": 5}),
    "dpf": (methods.dpf, {"update_period": 2, "end_step": 5}),
    "granet": (methods.granet, {"update_period": 2, "end_step": 5}),
    "granet, together": (methods.granet, {"update_period": 2, "end_step": 5, "scope": "global"}),
}


def uneven():
    draw = np.random.default_rng(0)
    return {n: {"kernel": jnp.asarray(draw.normal(size=s), jnp.float32)} for n, s in (("a", (8, 12)), ("b", (6, 8)))}


@few(3)
@pytest.mark.parametrize(("make", "given"), PRUNING.values(), ids=PRUNING)
def test_a_batch_that_does_not_reach_a_layer_at_the_last_update_breaks_no_promise(make, given):
    method = make(sparsity=0.9, **given)
    tx = dstjax.sparsify(optax.sgd(0.01), method)
    params, state = dstjax.start(tx, uneven())
    update = jax.jit(tx.update)
    for t in range(1, 8):
        grads = jax.tree.map(jnp.ones_like, params)
        if t in (3, 4):
            grads["b"]["kernel"] = jnp.zeros((6, 8))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    counts = np.array([*dstjax.masks.count_active(state).values()])
    assert counts.sum() == state.targets.sum()
    if method.promises == "reached":
        assert counts.tolist() == state.targets.tolist()


@pytest.mark.parametrize(
    ("make", "structure"),
    [
        (lambda s: methods.asp(n=1, m=2, prune_step=2), None),
        (lambda s: methods.one_shot(sparsity=0.5, prune_step=2, structure=s), structures.n_m(2, 4)),
        (lambda s: methods.one_shot(sparsity=0.5, prune_step=2, structure=s), structures.fan_in(0)),
        (lambda s: methods.one_shot(sparsity=0.5, prune_step=2, structure=s), structures.block(2, 2)),
    ],
    ids=["1:2", "2:4", "fan-in", "blocks"],
)
def test_a_layer_without_a_gradient_is_pruned_to_its_structure(make, structure):
    """Its largest weights lie side by side, so that what is dropped first leaves some groups too few."""
    method = make(structure)
    tx = dstjax.sparsify(optax.sgd(0.01), method, layout="in out")
    params = {n: jnp.arange(1.0, 129.0).reshape(16, 8) for n in "ab"}
    masks = []
    for reached in (1.0, 0.0):
        now, state = dstjax.start(tx, params)
        for _ in range(3):
            updates, state = tx.update({"a": jnp.zeros((16, 8)) + reached, "b": jnp.ones((16, 8))}, state, now)
            now = optax.apply_updates(now, updates)
        masks.append(dstjax.get_masks(state))
    assert dstjax.masks.count_active(masks[1]) == {"a": 64, "b": 64}
    np.testing.assert_array_equal(masks[0]["a"], masks[1]["a"])
    assert dstjax.check_sparse(now, state)


def test_what_is_frozen_has_no_part_in_a_ranking_of_all_layers():
    found = []
    for scale in (1e-3, 1e3):
        inner = optax.partition({"t": optax.adam(0.01), "f": optax.set_to_zero()}, {"a": "t", "b": "f"})
        tx = dstjax.sparsify(inner, methods.granet(sparsity=0.5, initial_sparsity=0.2, update_period=2, end_step=9))
        params = uneven()
        params["b"]["kernel"] *= scale
        params, state = dstjax.start(tx, params)
        update, first = jax.jit(tx.update), dstjax.masks.count_active(state)
        for t in range(10):
            updates, state = update(jax.tree.map(lambda x, t=t: jnp.cos(x * t), params), state, params)
            params = optax.apply_updates(params, updates)
        now = dstjax.masks.count_active(state)
        assert now["b/kernel"] == first["b/kernel"]
        found.append(now["a/kernel"])
    assert found == [int(state.targets[0])] * 2


def test_in_one_ranking_of_all_layers():
    tx = conformance.sparsified(partitioned(trees.everything()), "rigl", changes=dict(scope="global"))
    first, last = run(tx, "rigl")
    assert_still(first, last, "rigl")
    assert conformance.counts_of(last[1]).sum() == conformance.counts_of(first[1]).sum()


def test_what_all_layers_share_goes_to_those_that_move():
    tx = conformance.sparsified(partitioned(trees.everything()), "snfs")
    first, last = run(tx, "snfs")
    assert abs(conformance.counts_of(last[1]).sum() - conformance.counts_of(first[1]).sum()) <= 2


def test_a_layer_of_a_stack():
    method = methods.rigl(sparsity=0.5, update_period=1, end_step=9, drop_fraction=0.5)
    tx = dstjax.sparsify(optax.sgd(0.1), method, layout="stack in out")
    params, state = dstjax.start(tx, {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 4)), jnp.float32)})
    grads = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 4)), jnp.float32).at[1].set(0)}
    before, after = dstjax.get_masks(state)["w"], dstjax.get_masks(tx.update(grads, state, params)[1])["w"]
    assert (before != after).any(axis=(1, 2)).tolist() == [True, False, True]


def test_a_rate_of_zero_freezes_nothing():
    tx = conformance.sparsified(optax.sgd(0.0), "set")
    params, state = conformance.started(tx)
    after = tx.update(conformance.grads_at(params, 3), state, params, rewire=True)[1]
    old, new = (trees.names(dstjax.get_masks(s)) for s in (state, after))
    assert all((old[n] != new[n]).any() for n in old)


def test_no_rule_for_new_weights_moves_what_is_frozen():
    """Soft DeepR sets dormant weights to the lowest value that they may have, whatever the optimiser does."""
    tx = dstjax.sparsify(optax.set_to_zero(), methods.soft_deepr(sparsity=0.9, learning_rate=0.05, l1=0.01))
    params = {"kernel": jax.random.normal(jax.random.key(0), (16, 24))}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        np.testing.assert_array_equal(updates["kernel"], 0)
