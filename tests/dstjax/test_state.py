"""Masks read from and put into any optimiser state, the summary, and checkpoints."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import dstjax
from dstjax import methods
from tests import trees
from tests.stepping import compiled
from tests.thorough import slow

EVERY_OTHER = dict(sparsity=0.7, update_period=2, drop_fraction=0.5, drop_schedule="constant")
TRACK = ("exploration", "survival", "error")


def labels(params):
    return jax.tree.map(lambda p: "sparse" if p.ndim > 1 else "dense", params)


WRAPPERS = {
    "itself": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "partition": lambda tx: optax.partition({"sparse": tx, "dense": optax.adam(0.1)}, labels),
    "masked": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "all of them": lambda tx: optax.MultiSteps(optax.chain(optax.clip(1.0), optax.apply_if_finite(tx, 3)), 2),
}


def sparse(name="dst_ee", track=TRACK):
    method = methods.static(sparsity=0.7) if name == "static" else methods.get(name, **EVERY_OTHER)
    return dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method, track=track)


def advance(tx, params, state, first, steps):
    for t in range(first, first + steps):
        grads = jax.tree.map(lambda w, n: w + n, params, trees.like(params, t))
        updates, state = compiled(tx).update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


# --- Reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_masks_are_found_through_wrappers(wrapper):
    params = trees.everything()
    alone = dstjax.get_masks(sparse().init(params))
    state = WRAPPERS[wrapper](sparse()).init(params)
    masks = dstjax.get_masks(state)
    assert {n: m.dtype.name for n, m in trees.names(masks).items()} == dict.fromkeys(trees.MASKED, "bool")
    assert trees.names(masks).keys() == trees.names(alone).keys()
    assert {n: m.shape for n, m in trees.names(masks).items()} == {n: trees.SHAPES[n] for n in trees.MASKED}
    started = dstjax.apply_masks(params, state)
    assert dstjax.check_sparse(started, state)
    assert_same(dstjax.apply_masks(params, masks), started)
    assert dstjax.forward_params(started, state) is started


def test_masks_look_like_the_parameters():
    masks = dstjax.get_masks(sparse().init(trees.everything()))
    assert jax.tree.map(lambda m: m.shape, masks) == {
        "conv": {"bias": None, "kernel": (3, 3, 2, 4)},
        "dense": {"bias": None, "kernel": (6, 5)},
        "list": [(5, 4), None],
        "nothing": None,
        "scale": None,
    }


def test_masks_of_shapes():
    tx = sparse()
    state = tx.init(trees.everything())
    abstract = jax.eval_shape(lambda s: dstjax.get_masks(s), state)
    assert {n: m.shape for n, m in trees.names(abstract).items()} == {n: trees.SHAPES[n] for n in trees.MASKED}


def test_no_state_or_two_of_them_are_refused():
    params = trees.everything()
    for function in (dstjax.get_masks, lambda s: dstjax.forward_params(params, s), lambda s: dstjax.summary(params, s)):
        with pytest.raises(ValueError, match=r"found 0 states of dstjax.sparsify"):
            function(optax.adam(0.1).init(params))
        with pytest.raises(ValueError, match=r"found 2 states of dstjax.sparsify.*both of which mask"):
            function((sparse().init(params), sparse().init(params)))


def test_check_sparse_names_leaf_and_number():
    params = trees.everything()
    state = sparse().init(params)
    with pytest.raises(ValueError, match=r"dense/kernel: \d+ of 30"):
        dstjax.check_sparse(params, state)
    params = dstjax.apply_masks(params, state)
    inactive = jnp.argwhere(~dstjax.get_masks(state)["list"][0])[0]
    params["list"][0] = params["list"][0].at[tuple(inactive)].set(jnp.nan)  # NaN is not zero either
    with pytest.raises(ValueError, match=r"not finite: list/0: 1 of 20, "):
        dstjax.check_sparse(params, state)
    with pytest.raises(ValueError, match="no leaf of the parameters has the path of these masks: conv/kernel"):
        dstjax.check_sparse({"dense": params["dense"], "list": params["list"]}, state)


def test_check_and_apply_refuse_what_is_no_mask():
    params = trees.everything()
    for function in (dstjax.check_sparse, dstjax.apply_masks):
        with pytest.raises(ValueError, match="tree of boolean masks"):
            function(params, params)


# --- Replacing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["chain", "MultiSteps", *map(slow, ("itself", "apply_if_finite"))])
def test_set_masks_replaces_masks_counters_and_moments(wrapper):
    tx = WRAPPERS[wrapper](sparse())
    params = trees.everything()
    state = tx.init(params)
    params, state = advance(tx, dstjax.apply_masks(params, state), state, 1, 5)
    old = dstjax.get_masks(state)
    other = dstjax.get_masks(sparse("static", ()).init(jax.tree.map(jnp.zeros_like, params)))
    other = jax.tree.map(lambda m: jnp.flip(m), other)
    new = dstjax.set_masks(state, other)
    assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
    assert_same(dstjax.get_masks(new), other)
    assert_same(dstjax.get_masks(state), old)  # the old state is as it was
    found = optax.tree.get(new, "counters")
    counted = jax.tree.leaves(optax.tree.get(state, "counters"))
    seen = [m | (c > 0) for m, c in zip(jax.tree.leaves(other), counted, strict=True)]
    assert_same(jax.tree.leaves(found), [x.astype(c.dtype) for x, c in zip(seen, counted, strict=True)])
    for n, m in trees.names(other).items():
        trace = np.asarray(trees.names(optax.tree.get(new, "trace"))[n])
        before = np.asarray(trees.names(optax.tree.get(state, "trace"))[n])
        np.testing.assert_array_equal(trace, np.where(m, before, 0))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(new)]
    assert len(set(pointers)) == len(pointers)
    params = dstjax.apply_masks(params, new)
    params, new = advance(tx, params, new, 6, 3)
    assert dstjax.check_sparse(params, new)


@pytest.mark.parametrize("method", ["rigl", "dst_ee"])
def test_set_masks_keeps_what_was_explored(method):
    tx = sparse(method)
    state = tx.init(trees.everything())
    before = dstjax.get_masks(state)
    other = jax.tree.map(lambda m: ~m, before)
    new = dstjax.set_masks(state, other)
    assert float(dstjax.metrics.exploration_rate(new)) == 1.0
    assert float(dstjax.metrics.exploration_rate(state)) < 1.0


def test_set_masks_with_another_count():
    """The given count holds from then on."""
    tx = sparse("rigl")
    params = trees.everything()
    state = tx.init(params)
    one = jax.tree.map(lambda m: jnp.arange(m.size).reshape(m.shape) < 7, dstjax.get_masks(state))
    state = dstjax.set_masks(state, one)
    params, state = advance(tx, dstjax.apply_masks(params, state), state, 1, 6)
    assert {*dstjax.masks.count_active(dstjax.get_masks(state)).values()} == {7}
    assert dstjax.check_sparse(params, state)


def test_set_masks_takes_numpy_and_works_under_jit():
    tx = sparse()
    state = tx.init(trees.everything())
    flipped = jax.tree.map(lambda m: ~np.asarray(m), dstjax.get_masks(state))
    eager = dstjax.set_masks(state, flipped)
    jitted = jax.jit(dstjax.set_masks)(state, flipped)
    assert_same(eager, jitted)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(eager))


# --- Summary --------------------------------------------------------------------------------------------------------


def test_summary_of_a_tree():
    tx = dstjax.sparsify(optax.adam(0.1), methods.rigl(**EVERY_OTHER, distribution="uniform"))
    params = trees.everything()
    state = tx.init(params)
    report = dstjax.summary(params, state)
    rows = {row.path: (row.shape, row.size, row.requested, row.active) for row in report.leaves}
    assert rows == {
        "conv/bias": ((4,), 4, None, 4),
        "conv/kernel": ((3, 3, 2, 4), 72, 22, 22),
        "dense/bias": ((5,), 5, None, 5),
        "dense/kernel": ((6, 5), 30, 9, 9),
        "list/0": ((5, 4), 20, 6, 6),
        "list/1": ((4,), 4, None, 4),
        "scale": ((), 1, None, 1),
    }
    assert [row.path for row in report.masked] == list(trees.MASKED)
    assert report.density == pytest.approx(37 / 122)
    state_without_inner = jax.tree.leaves(state._replace(inner_state=None))
    assert report.state_bytes == sum(leaf.nbytes for leaf in state_without_inner)
    lines = str(report).splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["leaf", "shape", "weights", "active", "requested", "realised"]
    assert re.split(r"\s{2,}", lines[2].strip()) == ["conv/kernel", "(3, 3, 2, 4)", "72", "22", "0.305556", "0.305556"]
    assert re.split(r"\s{2,}", lines[1].strip()) == ["conv/bias", "(4,)", "4", "4", "dense", "1.000000"]
    assert re.split(r"\s{2,}", lines[8].strip()) == ["masked leaves", "122", "37", f"{37 / 122:.6f}", f"{37 / 122:.6f}"]
    assert re.split(r"\s{2,}", lines[9].strip()) == ["all leaves", "136", "51", "0.375000", "0.375000"]
    assert lines[10] == f"sparse state: {report.state_bytes:,} bytes, {report.state_bytes / 122:.3f} per masked weight"
    assert lines[11:] == [
        "masked, window window in out: conv/kernel",
        "masked, in out: dense/kernel, list/0",
        "dense, one axis: list/1",
        "dense, bias or scale: conv/bias, dense/bias, scale",
    ]
    shapes = jax.eval_shape(lambda: trees.everything())
    assert str(dstjax.summary(shapes, state)) == str(report)


def test_summary_shows_what_is_realised_after_set_masks():
    tx = sparse("static", ())
    params = trees.everything()
    state = tx.init(params)
    full = dstjax.set_masks(state, jax.tree.map(jnp.ones_like, dstjax.get_masks(state)))
    rows = {row.path: row for row in dstjax.summary(params, full).masked}
    assert rows["list/0"].active == 20
    assert rows["list/0"].density == 1.0
    assert rows["list/0"].requested < 20


def test_summary_through_wrappers_and_of_a_dense_network():
    params = trees.everything()
    for wrapper in WRAPPERS.values():
        assert "conv/kernel" in str(dstjax.summary(params, wrapper(sparse()).init(params)))
    dense = dstjax.summary(params, dstjax.sparsify(optax.sgd(0.1), methods.dense()).init(params))
    assert dense.density == 1.0
    assert dense.masked == ()
    assert "dense" in str(dense)


def test_summary_refuses_other_parameters():
    state = sparse().init(trees.everything())
    with pytest.raises(ValueError, match="dense/kernel"):
        dstjax.summary({"conv": trees.everything()["conv"]}, state)


def test_masks_cost_a_bit_per_weight():
    params = {"w": jnp.zeros((128, 256)), "b": jnp.zeros(256)}
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(**EVERY_OTHER))
    assert dstjax.summary(params, tx.init(params)).state_bytes <= 128 * 256 // 8 + 64


# --- Checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [slow("rigl"), "dst_ee"])
def test_a_checkpoint_holds_the_state_bit_for_bit(name, tmp_path):
    """k + m steps are k steps, save, restore, m steps."""
    tx = optax.chain(optax.clip(1.0), sparse(name))
    params = trees.everything()
    state = tx.init(params)
    params, state = advance(tx, dstjax.apply_masks(params, state), state, 1, 5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "five", (params, state))
        checkpointer.wait_until_finished()
        abstract = jax.eval_shape(lambda: (params, state))
        from_shapes = checkpointer.restore(tmp_path / "five", abstract)
        from_arrays = checkpointer.restore(tmp_path / "five", (params, state))
    assert_same(from_shapes, (params, state))
    assert_same(from_arrays, (params, state))
    assert jax.tree.map(jax.typeof, from_shapes) == jax.tree.map(jax.typeof, (params, state))
    assert_same(advance(tx, *from_shapes, 6, 5), advance(tx, params, state, 6, 5))


def test_a_state_survives_pickle_and_flatten():
    tx = sparse()
    state = tx.init(trees.everything())
    leaves, treedef = jax.tree.flatten(state)
    assert_same(treedef.unflatten(leaves), state)
    assert_same(jax.tree.map(jnp.array, jax.device_get(state)), state)
