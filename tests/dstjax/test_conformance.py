"""One table of methods times one product of checks, in the manner of optax's battery.

Compiling is the cost here, so each method is compiled once in each rewire mode (the fixture ``run``) and most checks
read that one recorded run. Checks over many inner optimisers run eagerly, where nothing but single operations compiles.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import trees

STEPS = 11
ORDERS = ["skip", "step_then_update", "update_then_step"]
MOVING = dict(sparsity=0.7, update_period=3, start_step=3, end_step=10, drop_fraction=0.5, drop_schedule="constant")
METHODS = {
    "dense": dict(),
    "static": dict(sparsity=0.7),
    "set": MOVING,
    "rigl": MOVING,
    "rigl_itop": MOVING,
    "mest": MOVING,
    "dst_ee": {**MOVING, "coefficient": 0.1},
}
REWIRING = [name for name in METHODS if name not in ("dense", "static")]
TRACK = ("exploration", "survival", "error")


def test_every_method_is_in_the_table():
    assert {*METHODS} == {*methods.names()}


def make(name, **changes):
    return methods.get(name, **{**METHODS[name], **changes})


def started(tx, params=None):
    params = trees.everything() if params is None else params
    state = tx.init(params)
    return dstjax.apply_masks(params, state), state


def assert_exact(params, state):
    """Inactive weights are 0 and each leaf has as many active ones as at init."""
    dstjax.check_sparse(params, state)
    found = dstjax.get_masks(state)
    counts = [int(m.sum()) for m in jax.tree.leaves(found)]
    assert counts == np.asarray(optax.tree.get(state, "targets")).tolist()


def assert_same(a, b):
    chex.assert_trees_all_equal(a, b, strict=True)


def grads_at(params, t):
    return jax.tree.map(lambda w, n: w + n, params, trees.like(params, t))


class Run(NamedTuple):
    """A recorded run: what a user would hold after 0, 1, ... steps."""

    tx: Any
    method: Any
    start: tuple
    auto: list  # rewire=None
    told: list  # rewire=True and False, as the host decides
    traces: dict


def step(tx, params, state, grads, rewire=None):
    updates, state = tx.update(grads, state, params, rewire=rewire)
    return optax.apply_updates(params, updates), state


@pytest.fixture(scope="module", params=METHODS)
def run(request):
    method = make(request.param)
    tx = dstjax.sparsify(optax.adamw(0.05), method, seed=1, track=TRACK)
    traces = {None: 0, True: 0, False: 0}

    @functools.partial(jax.jit, static_argnames="rewire")
    def jitted(params, state, grads, rewire=None):
        traces[rewire] += 1
        return step(tx, params, state, grads, rewire)

    start = started(tx)
    auto, told = [start], [start]
    for t in range(1, STEPS + 1):
        auto.append(jitted(*auto[-1], grads_at(auto[-1][0], t)))
        told.append(jitted(*told[-1], grads_at(told[-1][0], t), rewire=bool(method.is_update_step(t))))
    return Run(tx, method, start, auto, told, traces)


def test_exact_after_every_step(run):
    for params, state in run.auto + run.told:
        assert_exact(params, state)


def test_one_compilation_for_each_rewire_mode(run):
    expected = {None: 1, False: 1, True: 1 if run.method.name in REWIRING else 0}
    assert run.traces == expected


def test_host_decided_is_the_same(run):
    """Masks, counters and what is tracked bit for bit, parameters and moments to rounding: the programs differ."""
    for (params, state), (params_told, state_told) in zip(run.auto, run.told, strict=True):
        for field in ("step", "masks", "counters", "targets", "key"):
            assert_same(getattr(state, field), getattr(state_told, field))
        chex.assert_trees_all_close(params, params_told, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(state.inner_state, state_told.inner_state, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(state.tracked, state_told.tracked, rtol=1e-5)


def test_eager_is_the_same_as_jit(run):
    params, state = run.start
    for t in range(1, STEPS + 1):
        params, state = step(run.tx, params, state, grads_at(run.auto[t - 1][0], t))
        for field in ("step", "masks", "counters", "targets", "key"):
            assert_same(getattr(state, field), getattr(run.auto[t][1], field))
        chex.assert_trees_all_close(params, run.auto[t][0], rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(state.tracked, run.auto[t][1].tracked, rtol=1e-5)


def test_the_state_keeps_its_tree_shapes_and_types(run):
    """Also what ``jax.typeof`` sees (weak types, shardings): it decides whether the next call compiles again."""
    first = jax.tree.map(jax.typeof, run.start)
    for state in run.auto + run.told:
        assert jax.tree.structure(state) == jax.tree.structure(run.start)
        assert jax.tree.map(jax.typeof, state) == first
        assert all(type(leaf) is type(jnp.zeros(())) for leaf in jax.tree.leaves(state))  # no NumPy scalars


def test_no_two_buffers_are_the_same(run):
    """Or donating the train state would fail. Of a fresh state, of an eager update, of a jitted one."""
    eager = [step(run.tx, *run.start, grads_at(run.start[0], t), rewire=t == 0) for t in (0, 1)]
    for params, state in [run.start, run.auto[1], run.auto[3], *eager]:
        held = jax.tree.leaves((params, state))
        pointers = [leaf.unsafe_buffer_pointer() for leaf in held if leaf.size]
        assert len(set(pointers)) == len(pointers)


def test_init_needs_shapes_alone(run):
    shapes = jax.eval_shape(lambda: trees.everything())
    abstract = jax.eval_shape(run.tx.init, shapes)
    state = run.start[1]
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    from_shapes = run.tx.init(shapes)
    assert_same(from_shapes._replace(inner_state=None), run.tx.init(trees.everything())._replace(inner_state=None))
    assert_same(jax.jit(run.tx.init)(trees.everything()), run.tx.init(trees.everything()))


def test_masks_change_when_the_method_says_so(run):
    for t in range(1, STEPS + 1):
        pairs = zip(*(jax.tree.leaves(dstjax.get_masks(run.auto[i][1])) for i in (t - 1, t)), strict=True)
        changed = any((a != b).any() for a, b in pairs)
        assert changed == (run.method.name in REWIRING and t in (3, 6, 9))
        assert changed == bool(run.method.is_update_step(t))


@pytest.mark.parametrize("name", ["static", "rigl_itop", "dst_ee"])
def test_donation_of_the_whole_train_state(name):
    tx = dstjax.sparsify(optax.adam(0.05), make(name), track=TRACK)
    donating = jax.jit(lambda carry, grads: step(tx, *carry, grads), donate_argnums=0)
    carry = started(tx)
    reference = jax.tree.map(jnp.array, carry)
    for t in range(1, 8):
        grads = grads_at(reference[0], t)
        before, carry = carry, donating(carry, grads)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before) if leaf.size)
        reference = step(tx, *reference, grads)
    assert_same(dstjax.get_masks(carry[1]), dstjax.get_masks(reference[1]))
    chex.assert_trees_all_close(carry, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_kept(name, order, dtype):
    tx = dstjax.sparsify(
        optax.sgd(0.1, momentum=0.9), make(name, **(dict(update_order=order) if name in REWIRING else {}))
    )
    params, state = started(tx, trees.everything(dtype))
    for t in range(1, 8):
        updates, state = tx.update(grads_at(params, t), state, params)
        assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        params = optax.apply_updates(params, updates)
        assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        assert_exact(params, state)
    assert {m.dtype for m in jax.tree.leaves(optax.tree.get(state, "trace"))} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("grads", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("weights", [jnp.float32, jnp.bfloat16])
def test_gradients_of_another_dtype_than_the_weights(weights, grads):
    tx = dstjax.sparsify(optax.adam(0.1), make("dst_ee"))
    params, state = started(tx, trees.everything(weights))
    for t in range(1, 8):
        updates, state = tx.update(jax.tree.map(lambda g: g.astype(grads), grads_at(params, t)), state, params)
        params = optax.apply_updates(params, updates)
        assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype(weights)}
        assert_exact(params, state)


@pytest.mark.parametrize("name", ["static", "set", "dst_ee"])
def test_vmap_over_seeds(name):
    """Each lane is the run of its own seed: masks bit for bit."""

    def run(seed, told):
        tx = dstjax.sparsify(optax.sgd(0.05, momentum=0.9), make(name), seed=seed)
        params, state = started(tx)

        def body(carry, xs):
            carry = step(tx, *carry, jax.tree.map(jnp.add, carry[0], xs))
            return carry, dstjax.get_masks(carry[1])

        noise = [trees.like(params, t) for t in range(1, STEPS + 1)]
        if told:  # a host loop, with the same decision for all seeds
            history = []
            for t, n in enumerate(noise, 1):
                params, state = step(
                    tx, params, state, jax.tree.map(jnp.add, params, n), rewire=bool(make(name).is_update_step(t))
                )
                history.append(dstjax.get_masks(state))
            return params, jax.tree.map(lambda *m: jnp.stack(m), *history)
        (params, state), history = jax.lax.scan(body, (params, state), jax.tree.map(lambda *n: jnp.stack(n), *noise))
        return params, history

    seeds = jnp.array([0, 5, 123456])
    params, masks = jax.jit(jax.vmap(functools.partial(run, told=False)))(seeds)
    host_params, host_masks = jax.vmap(functools.partial(run, told=True))(seeds)
    assert_same(masks, host_masks)
    chex.assert_trees_all_close(params, host_params, rtol=1e-4, atol=1e-5)
    for i, seed in enumerate(seeds):
        single = run(int(seed), told=True)
        assert_same(jax.tree.map(lambda m, i=i: m[i], masks), single[1])
        chex.assert_trees_all_close(jax.tree.map(lambda w, i=i: w[i], params), single[0], rtol=1e-4, atol=1e-5)
    assert any((m[0] != m[1]).any() for m in jax.tree.leaves(masks))


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
FAST = {"dst_ee": "skip", "set": "update_then_step", "rigl_itop": "step_then_update"}


def follow_inner(name, order, inner, jitted):
    changes = dict(update_order=order) if name in REWIRING else {}
    tx = dstjax.sparsify(INNER[inner](), make(name, **changes))
    one = functools.partial(step, tx)
    one = jax.jit(one) if jitted else one
    params, state = started(tx)
    first = jax.tree.leaves(params)
    types = jax.tree.map(jax.typeof, state)
    moved = [False] * len(first)
    for t in range(1, STEPS + 1):
        params, state = one(params, state, grads_at(params, t))
        assert_exact(params, state)
        assert jax.tree.map(jax.typeof, state) == types
        moved = [m or bool((a != b).any()) for m, a, b in zip(moved, first, jax.tree.leaves(params), strict=True)]
    assert all(moved)  # every leaf was trained
    assert all(np.isfinite(w).all() for w in jax.tree.leaves(params))


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", FAST)
def test_inner_optimisers(name, inner):
    follow_inner(name, FAST[name], inner, jitted=False)


@pytest.mark.parametrize("inner", INNER)
def test_inner_optimisers_under_a_trace(inner):
    """The program of a step that may be a mask update is made for every one of them; a few are run below."""
    for name, order in FAST.items():
        tx = dstjax.sparsify(INNER[inner](), make(name, update_order=order))
        carry = started(tx)
        types = jax.tree.map(lambda x: (x.shape, x.dtype), carry)
        after = jax.eval_shape(functools.partial(step, tx), *carry, carry[0])
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == types


@pytest.mark.parametrize("inner", ["adam", "muon", "MultiSteps", "partition", "adafactor", "optimistic"])
def test_inner_optimisers_compiled(inner):
    follow_inner("dst_ee", "skip", inner, jitted=True)


@pytest.mark.slow
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", METHODS)
def test_all_inner_optimisers_compiled(name, inner):
    order = ORDERS[([*METHODS].index(name) + [*INNER].index(inner)) % 3]
    follow_inner(name, order, inner, jitted=True)


@pytest.mark.slow
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", REWIRING)
def test_all_inner_optimisers(name, order, inner):
    follow_inner(name, order, inner, jitted=False)


@pytest.mark.parametrize(
    "inner", ["nesterov", "adamw", "lion", "rmsprop", "MultiSteps", "partition", "schedule_free_sgd"]
)
def test_moments_of_inactive_weights_are_zero(inner):
    """Found by path and shape whatever the optimiser; also what schedule-free and MultiSteps keep."""
    tx = dstjax.sparsify(INNER[inner](), make("rigl", update_order="step_then_update"))
    params, state = started(tx)
    for t in range(1, STEPS + 1):
        before = trees.names(dstjax.get_masks(state))
        params, state = step(tx, params, state, grads_at(params, t))
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


def test_copies_of_the_parameters_are_sparse_too():
    """Schedule-free keeps a second copy of the weights, and evaluates at a mixture of both."""
    tx = dstjax.sparsify(optax.contrib.schedule_free_sgd(0.1), make("rigl"))
    params, state = started(tx)
    for t in range(1, STEPS + 1):
        params, state = step(tx, params, state, grads_at(params, t))
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


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("wrapper", KEEPS_ZEROS)
def test_wrappers_that_keep_exact_zeros(wrapper, jitted):
    tx = KEEPS_ZEROS[wrapper](dstjax.sparsify(optax.sgd(0.1, momentum=0.9), make("dst_ee")))
    params, state = started(tx)
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
    params, state = started(tx)
    for t in range(1, STEPS + 1):
        params, state = step(tx, params, state, grads_at(params, t))
        dstjax.check_sparse(params, state)


@pytest.mark.parametrize("wrapper", BREAKS_ZEROS)
def test_wrappers_that_break_exact_zeros_are_found(wrapper):
    tx = BREAKS_ZEROS[wrapper](dstjax.sparsify(optax.sgd(0.1, momentum=0.9), make("rigl")))
    with pytest.raises(ValueError, match=r"inactive weights are not zero: .*kernel"):
        first_refusal(tx)


def test_what_breaks_outside_holds_inside():
    inner = optax.chain(optax.sgd(0.1), optax.scale(0.5), optax.clip(1e-3), optax.add_decayed_weights(0.1))
    first_refusal(dstjax.sparsify(optax.contrib.schedule_free(inner, 0.1), make("rigl")))
