"""The catalogue: names, defaults of the papers, and methods that must coincide."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import criteria, methods
from tests import trees
from tests.thorough import lighter, slow

ORDERS = ["skip", "step_then_update", "update_then_step"]
STEPS = lighter(12, 24)
SHARED = dict(sparsity=0.7, update_period=2, end_step=21)


def run(method, steps=STEPS, **kwargs):
    """Masks after each step, and the last parameters and state, of a noisy quadratic."""
    params = trees.everything()
    tx = dstjax.sparsify(optax.sgd(0.05, momentum=0.9), method, seed=3, **kwargs)
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    history = []
    for t in range(steps):
        grads = jax.tree.map(lambda w, n: w + n, params, trees.like(params, t))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        history.append([np.asarray(m) for m in jax.tree.leaves(dstjax.get_masks(state))])
    return history, params, state


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# The names of the public contract, and what the papers compare with beside.
PROMISED = {
    *("dense", "static", "set", "rigl", "rigl_itop", "snfs", "dsr", "deepr", "mest", "dst_ee", "iee", "accset", "lset"),
    *("dynset", "granet", "gap", "gmp", "top_kast", "dpf", "sr_ste", "srigl", "str", "sis", "admm", "snip", "grasp"),
    *("synflow", "soft_deepr", "magnitude", "force", "iterative_snip", "one_shot", "dcil", "asp", "ste"),
}


def test_the_catalogue():
    assert {*methods.names()} >= PROMISED
    for name in methods.names():
        assert made(name).name == name
        assert "Reference" in inspect.getdoc(methods.CATALOGUE[name]) or name in ("dense", "static")
        assert getattr(methods, name) is methods.CATALOGUE[name]


def made(name):
    """A method with what it requires and its defaults beside."""
    known = methods.hyperparameters(name)
    given = dict(sparsity=0.9, end_step=10_000, prune_step=5_000)
    return methods.get(
        name, **{n: v for n, v in given.items() if n in known and not (name == "set" and n == "end_step")}
    )


def test_defaults_of_the_papers():
    rigl = methods.hyperparameters("rigl")
    assert (rigl["update_period"], rigl["drop_fraction"], rigl["drop_schedule"]) == (100, 0.3, "cosine")
    assert (rigl["drop"], rigl["grow"], rigl["distribution"]) == ("magnitude", "gradient", "erk")
    seven = {n: made(n) for n in ("static", "set", "rigl", "rigl_itop", "mest", "dst_ee")}
    assert {n: "skip" if m.updates is None else m.updates.order for n, m in seven.items()} == {
        "static": "skip", "set": "skip", "rigl": "skip", "mest": "skip", "dst_ee": "skip",
        "rigl_itop": "step_then_update",
    }  # fmt: skip
    assert seven["rigl_itop"].updates.n_kept.ceil
    assert seven["rigl_itop"].updates.schedule.update_period == 4000
    assert seven["set"].updates.n_kept.fractions.at(0) == 0.3
    assert {n for n in methods.names() if made(n).updates is not None and made(n).updates.counters} == {"dst_ee"}


def test_signatures_show_every_hyperparameter():
    for name in ("set", "rigl", "rigl_itop", "mest", "dst_ee"):
        shown = methods.hyperparameters(name)
        assert {"sparsity", "update_period", "end_step", "drop", "maskable"} <= shown.keys()
        assert ("grow" in shown) == (name != "dst_ee")  # which is a growth rule itself
        assert shown["sparsity"] is inspect.Parameter.empty


@pytest.mark.parametrize("order", ["skip", *map(slow, ORDERS[1:])])
def test_dst_ee_without_exploration_is_rigl(order):
    """Bit for bit, with the same fraction and the same order; signed or not makes no difference either."""
    rigl = run(methods.rigl(**SHARED, drop_fraction=0.5, update_order=order))
    for signed in (False, True):
        dst_ee = run(methods.dst_ee(**SHARED, drop_fraction=0.5, coefficient=0.0, signed=signed, update_order=order))
        assert_same(rigl[:2], dst_ee[:2])
        assert_same(rigl[2].inner_state, dst_ee[2].inner_state)
    assert any((a != b).any() for a, b in zip(rigl[0][0], rigl[0][-1], strict=True))


def test_exploration_finds_weights_that_rigl_does_not():
    low, high = (
        float(dstjax.metrics.exploration_rate(run(methods.dst_ee(**SHARED, coefficient=c))[2])) for c in (0.0, 100.0)
    )
    assert high > low


@pytest.mark.parametrize("order", ["step_then_update", "update_then_step"])
def test_rigl_that_moves_nothing_is_static(order):
    static = run(methods.static(sparsity=0.7))
    still = run(methods.rigl(**SHARED, drop_fraction=0.0, update_order=order))
    assert_same(static[:2], still[:2])


def test_rigl_that_moves_nothing_but_skips_steps():
    """With the default order the optimiser does not see t = 2, 4, ... before the end, and that is all."""
    method = methods.rigl(**SHARED, drop_fraction=0.0)
    history, params, _ = run(method)
    assert_same(history[0], history[-1])
    tx = dstjax.sparsify(optax.sgd(0.05, momentum=0.9), methods.static(sparsity=0.7), seed=3)
    other = trees.everything()
    state = tx.init(other)
    other = dstjax.apply_masks(other, state)
    for t in range(STEPS):
        if not method.is_update_step(t + 1):
            grads = jax.tree.map(lambda w, n: w + n, other, trees.like(other, t))
            updates, state = tx.update(grads, state, other)
            other = optax.apply_updates(other, updates)
    assert_same(params, other)


def test_mest_without_gradient_drops_by_magnitude():
    grow = dict(grow="random", drop_fraction=0.5)
    assert_same(run(methods.mest(**SHARED, lambda_=0.0, **grow)), run(methods.rigl(**SHARED, drop="magnitude", **grow)))


def test_a_name_is_its_function():
    by_name = run(methods.set(**SHARED))
    by_function = run(methods.set(**SHARED, drop=criteria.set_fraction, grow=criteria.random))
    assert_same(by_name, by_function)


def test_the_seed_decides_everything_random():
    def masks(seed):
        tx = dstjax.sparsify(optax.sgd(0.1), methods.set(**SHARED), seed=seed)
        return dstjax.get_masks(tx.init(trees.everything()))

    assert_same(masks(5), masks(5))
    assert_same(masks(jax.random.key(5)), masks(jax.random.key(5)))
    assert_same(masks(5), jax.jit(masks)(5))  # a traced seed
    distinct = [masks(s) for s in (0, 1, jax.random.key(0), jax.random.key(1))]
    flat = [b"".join(np.asarray(m).tobytes() for m in jax.tree.leaves(tree)) for tree in distinct]
    assert len(set(flat)) == 4


def test_different_leaves_draw_differently():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5))
    masks = dstjax.get_masks(tx.init({"a": jnp.zeros((8, 8)), "b": jnp.zeros((8, 8))}))
    assert (masks["a"] != masks["b"]).any()


def test_initial_masks_are_uniform():
    """Over 800 seeds each of 24 weights is active equally often: chi-square within its 99.99 % range."""

    def mask(seed):
        tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.75), seed=seed)
        return dstjax.get_masks(tx.init({"w": jnp.zeros((4, 6))}))["w"]

    counts = np.asarray(jax.jit(jax.vmap(mask))(jnp.arange(800)).sum(0), float)
    assert counts.sum() == 800 * 6
    assert 5 < float(((counts - 200) ** 2 / 200).sum()) < 60


def test_maskable_chooses_the_leaves():
    method = methods.static(sparsity=0.5, maskable=lambda path, leaf: "bias" in path or leaf.ndim == 4)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    masks = trees.names(dstjax.get_masks(tx.init(trees.everything())))
    assert masks.keys() == {"conv/bias", "conv/kernel", "dense/bias"}


def test_dense_masks_nothing_and_changes_nothing():
    params, plain = trees.everything(), optax.adamw(0.1)
    tx = dstjax.sparsify(plain, methods.dense())
    state, plain_state = tx.init(params), plain.init(params)
    grads = trees.like(params, 0)
    updates, state = tx.update(grads, state, params)
    expected, _ = plain.update(grads, plain_state, params)
    assert_same(updates, expected)
    assert dstjax.get_masks(state) == {
        "conv": {"bias": None, "kernel": None}, "dense": {"bias": None, "kernel": None}, "list": [None, None],
        "nothing": None, "scale": None,
    }  # fmt: skip
