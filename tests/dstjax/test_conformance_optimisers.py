"""Conformance: any optimiser inside, and the wrappers outside that keep exact zeros or break them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from tests import trees
from tests.conformance import (
    KINDS,
    METHODS,
    ORDERED,
    ORDERS,
    STEPS,
    assert_exact,
    assert_valid,
    grads_at,
    is_update,
    make,
    needed,
    needs_masks,
    order_of,
    sparsified,
    started,
    step,
)
from tests.thorough import few, slow

# --- Inside: any optimiser --------------------------------------------------------------------------------------------


def is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def by_rank(params):
    return jax.tree.map(lambda p: "matrix" if p.ndim > 1 else "other", params)


def scheduled(learning_rate):
    return optax.adamw(learning_rate, weight_decay=0.1)


INNER = {
    "sgd": lambda: optax.sgd(0.1),
    "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "momentum in bfloat16": lambda: optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.bfloat16),
    "adam": lambda: optax.adam(0.1),
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.1),
    "amsgrad": lambda: optax.amsgrad(0.1),
    "lion": lambda: optax.lion(0.01),
    "rmsprop": lambda: optax.rmsprop(0.01, centered=True, momentum=0.9),
    "adagrad": lambda: optax.adagrad(0.1),
    "adadelta": lambda: optax.adadelta(0.1),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=4),
    "adabelief": lambda: optax.adabelief(0.1),
    "lamb": lambda: optax.lamb(0.1),
    "lars": lambda: optax.lars(0.1),
    "novograd": lambda: optax.novograd(0.1),
    "radam": lambda: optax.radam(0.1),
    "rprop": lambda: optax.rprop(0.1),
    "sign_sgd": lambda: optax.sign_sgd(0.01),
    "yogi": lambda: optax.yogi(0.1),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=1),
    "optimistic": lambda: optax.optimistic_gradient_descent(0.1),
    "muon": lambda: optax.contrib.muon(0.05),
    "schedule_free_sgd": lambda: optax.contrib.schedule_free_sgd(0.1),
    "ademamix": lambda: optax.contrib.ademamix(0.01),
    "adopt": lambda: optax.contrib.adopt(0.1),
    "ema": lambda: optax.chain(optax.ema(0.9), optax.scale(-0.1)),
    "clip, decay, noise": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), optax.add_noise(0.1, 0.5, key=0), optax.sgd(0.1)
    ),
    "warm-up": lambda: optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.1, 3, 10)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(scheduled)(learning_rate=0.1),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "MultiSteps itself": lambda: optax.MultiSteps(optax.adam(0.1), 2),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 3),
    "partition": lambda: optax.partition({"matrix": optax.adam(0.1), "other": optax.sgd(0.1)}, by_rank),
    "masked decay": lambda: optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), is_matrix), optax.sgd(0.1, momentum=0.9)
    ),
    "sgd from a plain pair": lambda: optax.GradientTransformation(
        lambda p: None, lambda u, s, p=None: (jax.tree.map(lambda g: -0.1 * g, u), None)
    ),
}  # fmt: skip
# One of each order, one of stages, one that remembers; random growth takes longest to compile and adds nothing here.
QUICK = {"dst_ee": "skip", "rigl": "update_then_step", "rigl_itop": "step_then_update", "iee": None, "snfs": None}


def ordered(name, order):
    return {"update_order": order} if name in ORDERED and order else {}


def follow_inner(name, order, inner, jitted):
    tx = sparsified(INNER[inner](), name, changes=ordered(name, order))

    def one(params, state, grads):
        return step(tx, params, state, grads, **needed(name, grads))

    one = jax.jit(one) if jitted else one
    params, state = started(tx, None if needs_masks(name) else trees.few())
    first = jax.tree.leaves(params)
    types = jax.tree.map(jax.typeof, state)
    moved = [False] * len(first)
    for t in range(1, STEPS + 1):
        params, state = one(params, state, grads_at(params, t))
        assert_valid(name, params, state, t)
        assert jax.tree.map(jax.typeof, state) == types
        moved = [m or bool((a != b).any()) for m, a, b in zip(moved, first, jax.tree.leaves(params), strict=True)]
    assert all(moved)  # every leaf was trained
    assert all(np.isfinite(w).all() for w in jax.tree.leaves(params))


PAIRS = [*zip(itertools.cycle(QUICK), INNER)]
# What counts steps or averages of its own, inside what remembers or stands still.
OWN = [("iee", "MultiSteps"), ("iee", "schedule_free_sgd"), ("snfs", "momentum in bfloat16"), ("snfs", "adafactor")]
# Like one of the others in what they keep: as moments of each weight, numbers of each leaf, a count.
ALIKE = {
    *("nesterov", "adamw", "amsgrad", "adagrad", "adadelta", "adabelief", "lars", "novograd", "rprop", "sign_sgd"),
    *("yogi", "optimistic", "ademamix", "adopt", "ema", "warm-up", "masked decay", "lion", "radam", "lamb"),
}
LATER = {*ALIKE, *(inner for _, inner in OWN)}


@few(4)
@pytest.mark.parametrize(("name", "inner"), [slow(n, i) if i in LATER else (n, i) for n, i in PAIRS] + OWN)
def test_inner_optimisers(name, inner):
    """Compiled, inside one of five methods; inside one of them all are traced below."""
    follow_inner(name, QUICK[name], inner, jitted=True)


@few(4)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("name", "order"), [("dst_ee", "update_then_step"), slow("iee", None)])
def test_inner_optimisers_under_a_trace(name, order, inner):
    """The program of a step that may be a mask update is made for every one of them."""
    tx = sparsified(INNER[inner](), name, changes=ordered(name, order))
    carry = started(tx)
    types = jax.tree.map(lambda x: (x.shape, x.dtype), carry)
    extra = needed(name, carry[0])
    after = jax.eval_shape(functools.partial(step, tx, **extra), *carry, carry[0])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == types


def share(part):
    """A seventh of all pairs of a method and an optimiser: each method with five, each optimiser with five."""
    return [(n, i) for a, n in enumerate(METHODS) for b, i in enumerate(INNER) if (a + b) % 7 == part]


# Each kind of method with every optimiser, two of them in each order, and the others with a seventh.
EAGER = [(n, o, i) for n in KINDS for o in (ORDERS if n in ("set", "dst_ee") else [None]) for i in INNER]
EAGER += [(n, None, i) for n, i in share(3) if n not in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "inner"), share(0))
def test_all_inner_optimisers_compiled(name, inner):
    order = ORDERS[([*METHODS].index(name) + [*INNER].index(inner)) % 3]
    follow_inner(name, order, inner, jitted=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "order", "inner"), EAGER)
def test_all_inner_optimisers(name, order, inner):
    follow_inner(name, order, inner, jitted=False)


@few(2)
@pytest.mark.parametrize(
    "inner", ["nesterov", "MultiSteps", "partition", "schedule_free_sgd", *map(slow, ("adamw", "lion", "rmsprop"))]
)
def test_moments_of_inactive_weights_are_zero(inner):
    """Found by path and shape whatever the optimiser; also what schedule-free and MultiSteps keep."""
    tx = dstjax.sparsify(INNER[inner](), make("rigl", update_order="step_then_update"))
    params, state = started(tx)
    one = jax.jit(functools.partial(step, tx))
    for t in range(1, STEPS + 1):
        before = trees.names(dstjax.get_masks(state))
        params, state = one(params, state, grads_at(params, t))
        if t in (3, 6, 9):
            masks = trees.names(dstjax.get_masks(state))
            found = 0
            for path, leaf in jax.tree_util.tree_flatten_with_path(state.inner_state)[0]:
                at = jax.tree_util.keystr(path, simple=True, separator="/")
                for n, m in masks.items():
                    if at.endswith(n) and leaf.shape == m.shape:
                        assert not np.asarray(leaf, np.float32)[~np.asarray(m & before[n])].any(), at
                        found += 1
            assert found >= len(masks)


@pytest.mark.parametrize("name", ["rigl", slow("set"), "iee"])
def test_moments_of_a_dense_leaf_whose_path_ends_like_that_of_a_masked_one(name):
    """'head/w' is dense and of the shape of 'w': its moments are those of the optimiser alone, or stand still."""
    tx = sparsified(optax.sgd(0.1, momentum=0.9), name, changes={"maskable": lambda path, leaf: path == "w"})
    plain = optax.sgd(0.1, momentum=0.9)
    draw = lambda t: jnp.asarray(np.random.default_rng(t).standard_normal((4, 6)), jnp.float32)  # noqa: E731
    params, state = started(tx, {"w": draw(0), "head": {"w": draw(1)}})
    expected = plain.init(params["head"])
    for t in range(1, STEPS + 1):
        grads = {"w": draw(10 + t), "head": {"w": draw(50 + t)}}
        exploring = bool(dstjax.is_exploring(state))
        skipped = order_of(name) == "skip" and is_update(name, t)
        _, other = plain.update(grads["head"], expected)
        expected = expected if exploring or skipped else other
        params, state = step(tx, params, state, grads)
        trace = optax.tree.get(state.inner_state, "trace")
        np.testing.assert_allclose(trace["head"]["w"], optax.tree.get(expected, "trace")["w"], rtol=1e-6)


def test_copies_of_the_parameters_are_sparse_too():
    """Schedule-free keeps a second copy of the weights, and evaluates at a mixture of both."""
    tx = dstjax.sparsify(optax.contrib.schedule_free_sgd(0.1), make("rigl"))
    params, state = started(tx)
    one = jax.jit(functools.partial(step, tx))
    for t in range(1, STEPS + 1):
        params, state = one(params, state, grads_at(params, t))
        assert dstjax.check_sparse(optax.contrib.schedule_free_eval_params(state.inner_state, params), state)


# --- Outside: the wrappers that keep exact zeros, and those that do not -----------------------------------------------


def labels(params):
    return jax.tree.map(lambda p: "sparse" if p.ndim > 1 else "dense", params)


def inject(learning_rate):
    return dstjax.sparsify(optax.sgd(learning_rate, momentum=0.9), make("dst_ee"))


KEEPS_ZEROS = {
    "chain(clip, sparsify)": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "named_chain": lambda tx: optax.named_chain(("clip", optax.clip(1.0)), ("sparse", tx)),
    "chain of chains": lambda tx: optax.chain(optax.chain(optax.clip(1.0), tx)),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "partition": lambda tx: optax.partition({"sparse": tx, "dense": optax.adam(0.1)}, labels),
    "masked": lambda tx: optax.masked(tx, is_matrix),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(inject)(learning_rate=0.1),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step, **_: step % 4 != 3),
    "skip_not_finite in MultiSteps": lambda tx: optax.MultiSteps(
        tx, 2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
}  # fmt: skip


# Like others of both tables in what they do to the state, or to the updates.
NAMED = {"named_chain", "chain of chains", "skip_not_finite in MultiSteps", "clip", "add_decayed_weights"}


@few(2)
@pytest.mark.parametrize("jitted", [True, slow(False)])
@pytest.mark.parametrize("wrapper", [slow(n) if n in NAMED else n for n in KEEPS_ZEROS])
def test_wrappers_that_keep_exact_zeros(wrapper, jitted):
    tx = KEEPS_ZEROS[wrapper](dstjax.sparsify(optax.sgd(0.1, momentum=0.9), make("dst_ee")))
    params, state = started(tx, trees.few())
    one = jax.jit(functools.partial(step_with_extras, tx)) if jitted else functools.partial(step_with_extras, tx)
    initial = jax.tree.leaves(dstjax.get_masks(state))
    for t in range(1, 2 * STEPS):
        params, state = one(params, state, grads_at(params, t), jnp.float32(1.0))
        assert_exact(params, state)
    assert any((a != b).any() for a, b in zip(initial, jax.tree.leaves(dstjax.get_masks(state)), strict=True))


def step_with_extras(tx, params, state, grads, value):
    """Unknown extra arguments pass through all of them."""
    updates, state = tx.update(grads, state, params, value=value, something="else")
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("rewire", [True, False])
def test_a_decision_at_trace_time_reaches_through_wrappers(rewire):
    """MultiSteps stands outermost: inside other wrappers it takes no extra arguments, which is optax's own limit."""
    sparse = dstjax.sparsify(optax.sgd(0.1), make("rigl"))
    tx = optax.MultiSteps(optax.chain(optax.clip(1.0), optax.apply_if_finite(sparse, 3)), 1)
    params, state = started(tx)
    _, new = tx.update(grads_at(params, 0), state, params, rewire=rewire)
    pairs = zip(*(jax.tree.leaves(dstjax.get_masks(s)) for s in (state, new)), strict=True)
    assert any((a != b).any() for a, b in pairs) == rewire


BREAKS_ZEROS = {
    "scale": lambda tx: optax.chain(tx, optax.scale(0.5)),
    "clip": lambda tx: optax.chain(tx, optax.clip(1e-3)),
    "add_decayed_weights": lambda tx: optax.chain(tx, optax.add_decayed_weights(0.1)),
    "add_noise": lambda tx: optax.chain(tx, optax.add_noise(0.1, 0.5, key=0)),
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step, **_: step % 4 != 3),
}


def first_refusal(tx):
    """What check_sparse says about the first step that left the masks."""
    params, state = started(tx, trees.few())
    one = jax.jit(functools.partial(step, tx))
    for t in range(1, STEPS + 1):
        params, state = one(params, state, grads_at(params, t))
        dstjax.check_sparse(params, state)


@few(2)
@pytest.mark.parametrize("wrapper", [slow(n) if n in NAMED else n for n in BREAKS_ZEROS])
def test_wrappers_that_break_exact_zeros_are_found(wrapper):
    tx = BREAKS_ZEROS[wrapper](dstjax.sparsify(optax.sgd(0.1, momentum=0.9), make("rigl")))
    with pytest.raises(ValueError, match=r"inactive weights are not zero: .*kernel"):
        first_refusal(tx)


def test_what_breaks_outside_holds_inside():
    inner = optax.chain(optax.sgd(0.1), optax.scale(0.5), optax.clip(1e-3), optax.add_decayed_weights(0.1))
    first_refusal(dstjax.sparsify(optax.contrib.schedule_free(inner, 0.1), make("rigl")))
