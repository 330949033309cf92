"""Everything that is refused: a ValueError with the name, the value, and what would be accepted."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import distributions, methods
from tests import trees

GOOD = dict(sparsity=0.5, update_period=2, end_step=9)


def refuses(pattern, name="rigl", **changes):
    with pytest.raises(ValueError, match=pattern) as caught:
        methods.get(name, **{**GOOD, **changes})
    return str(caught.value)


def init(method=None, params=None, inner=None):
    tx = dstjax.sparsify(inner or optax.sgd(0.1), method or methods.rigl(**GOOD))
    params = trees.everything() if params is None else params
    return tx, params, tx.init(params)


# --- Hyper-parameters -------------------------------------------------------------------------------------------------

NUMBERS = {
    "sparsity": (["rigl", "set", "static"], [-0.1, 1.0, 1.5, math.nan, math.inf, "0.9", None, True, [0.9]]),
    "drop_fraction": (["rigl", "dst_ee"], [-0.1, 1.1, math.nan, "0.3", None, True]),
    "update_period": (["rigl", "mest"], [0, -5, 1.5, "100", None, True, math.nan]),
    "start_step": (["rigl", "rigl_itop"], [-1, 0.5, "0", None, True]),
    "end_step": (["rigl", "set"], [0, -1, 9.5, "9", True]),
    "coefficient": (["dst_ee"], [-1e-3, math.nan, math.inf, "0.1", None, True]),
    "epsilon": (["dst_ee"], [0, -1.0, math.nan, math.inf, "1", None]),
    "lambda_": (["mest"], [-1.0, math.nan, math.inf, "1", None]),
}


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [(m, name, value) for name, (ms, values) in NUMBERS.items() for m in ms for value in values],
)
def test_numbers_out_of_range_or_of_another_type(method, name, value):
    changes = {name: value}
    if method == "static":
        with pytest.raises(ValueError, match=rf"{name}=.*expected") as caught:
            methods.static(**changes)
        message = str(caught.value)
    else:
        message = refuses(rf"{name}=.*expected", method, **changes)
    assert f"{name}={value!r}" in message


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("distribution", "erkk", "erk"),
        ("distribution", "unifrom", "uniform"),
        ("distribution", 3, None),
        ("distribution", None, None),
        ("drop_schedule", "cosin", "cosine"),
        ("drop_schedule", 0.3, None),
        ("drop", "magnitud", "magnitude"),
        ("drop", "gradient", None),  # a growth rule
        ("drop", 3, None),
        ("grow", "gradients", "gradient"),
        ("grow", "magnitude", None),  # a drop criterion
        ("grow", None, None),
        ("scope", "globl", "global"),
        ("update_order", "step_then_updat", "step_then_update"),
        ("update_order", None, None),
        ("rounding", "flor", "floor"),
    ],
)
def test_names_that_do_not_exist(name, value, near):
    message = refuses(f"{name}={re.escape(repr(value))} is not known", **{name: value})
    assert "Accepted: " in message
    if near:
        assert f"did you mean {near!r}?" in message


@pytest.mark.parametrize(
    ("method", "misspelt", "near"),
    [
        ("rigl", "sparcity", "sparsity"),
        ("dst_ee", "coeficient", "coefficient"),
        ("static", "distribtion", "distribution"),
        ("mest", "lambda", "lambda_"),
        ("set", "update_peroid", "update_period"),
        ("dense", "sparsity", None),
    ],
)
def test_misspelt_hyperparameters(method, misspelt, near):
    with pytest.raises(ValueError, match=f"method '{method}' has no hyper-parameter '{misspelt}'") as caught:
        methods.get(method, **{misspelt: 0.5})
    assert near is None or f"did you mean {near!r}?" in str(caught.value)


def test_hyperparameters_of_another_method():
    refuses("'rigl' has no hyper-parameter 'coefficient'", coefficient=0.1)
    refuses("'set' has no hyper-parameter 'lambda_'", "set", lambda_=0.1)


def test_misspelt_methods():
    with pytest.raises(ValueError, match="method 'rigle' is not known; did you mean 'rigl'"):
        methods.get("rigle", sparsity=0.5)
    with pytest.raises(ValueError, match=r"Accepted: accset, admm, asp, .*, dst_ee, dynset"):
        methods.hyperparameters("something")
    with pytest.raises(ValueError, match="method None is not known"):
        methods.get(None)


def test_a_missing_sparsity():
    for name in ("rigl", "static", "set"):
        with pytest.raises(ValueError, match="sparsity=None is not accepted"):
            methods.get(name, **({} if name == "static" else {"end_step": 9, "update_period": 2}))


def test_contradictions():
    refuses(r"end_step=9 is not accepted with start_step=9", start_step=9)
    refuses(r"end_step=5 is not accepted with start_step=9", start_step=9, end_step=5)
    refuses("update_period=100 leaves no mask update", update_period=100)
    refuses("update_period=10 leaves no mask update between start_step=11 and end_step=20", update_period=10,
            start_step=11, end_step=20)  # fmt: skip
    for schedule in ("cosine", "linear", "cosine_floor", lambda t: 0.1):
        refuses("is not accepted with end_step=None", end_step=None, drop_schedule=schedule)
    refuses("grow='random' is not accepted by 'dst_ee'", "dst_ee", grow="random")
    refuses("lambda_=0.5 is not accepted together with drop='magnitude'", "mest", lambda_=0.5, drop="magnitude")
    refuses("epsilon=20 is not accepted together with sparsity", "set", epsilon=20)
    with pytest.raises(ValueError, match="epsilon=20 is not accepted together with sparsity or distribution"):
        methods.set(epsilon=20, distribution="er")


def test_schedules_that_leave_the_range():
    refuses(r"drop_schedule gives 1.5 at step 2; expected fractions in \[0, 1\]", drop_schedule=lambda t: 1.5)
    refuses("drop_schedule gives -0.5 at step 6", drop_schedule=lambda t: 0.5 if t < 6 else -0.5)
    refuses("drop_schedule gives nan at step 2", drop_schedule=lambda t: math.nan)


def test_flags():
    refuses("counters=1 is not accepted; expected True, False or None", counters=1)
    refuses("signed='yes' is not accepted; expected True or False", "dst_ee", signed="yes")
    refuses("maskable='kernel' is not accepted; expected a function", maskable="kernel")


def test_counters_that_the_growth_rule_needs():
    tx, params, state = init(methods.rigl(**GOOD, grow="dst_ee", counters=False))
    with pytest.raises(ValueError, match="needs counters"):
        tx.update(params, state, params, rewire=True)


# --- Density maps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("densities", "pattern"),
    [
        ({}, "distribution={} is not accepted"),
        ({"kernel": 0.0}, r"distribution\['kernel'\]=0.0 is not accepted; expected a density in \(0, 1\]"),
        ({"kernel": 1.2}, r"distribution\['kernel'\]=1.2"),
        ({"kernel": "0.5"}, r"distribution\['kernel'\]='0.5'"),
        ({"kernel": None}, r"distribution\['kernel'\]=None"),
        ({"kernel": math.nan}, r"distribution\['kernel'\]=nan"),
        ({"(": 0.5}, "pattern '\\(' is no regular expression"),
        ({3: 0.5}, "pattern 3 is no regular expression"),
    ],
)
def test_maps_that_are_none(densities, pattern):
    refuses(pattern, sparsity=None, distribution=densities)


def test_a_map_must_use_every_pattern_and_cover_every_leaf():
    def of(densities):
        return init(methods.static(sparsity=None, distribution=densities))

    with pytest.raises(ValueError, match=r"patterns \['nothing'\] are the first match of no leaf"):
        of({"nothing": 0.5, ".": 0.5})
    with pytest.raises(ValueError, match=r"patterns \['conv'\] are the first match of no leaf"):
        of({".*": 0.5, "conv": 0.1})  # hidden by the pattern before it
    with pytest.raises(ValueError, match=r"no distribution pattern matches \['list/0'\].*density 1.0 keeps"):
        of({"kernel": 0.5})
    with pytest.raises(ValueError, match="finds nothing to mask"):
        of({".*": 1.0})


def test_a_map_that_contradicts_the_sparsity():
    with pytest.raises(ValueError, match=r"sparsity=0.9 contradicts the \{regex: density\} map, which gives 0.5"):
        init(methods.static(sparsity=0.9, distribution={"kernel|list/0": 0.5}))
    init(methods.static(sparsity=0.5, distribution={"kernel|list/0": 0.5}))


def test_a_function_that_forgets_a_leaf_or_leaves_the_range():
    with pytest.raises(ValueError, match=r"returned densities for \['conv/kernel'\], expected one for each"):
        init(methods.static(sparsity=0.5, distribution=lambda shapes, sparsity: {"conv/kernel": 0.5}))
    with pytest.raises(ValueError, match=r"density of 'conv/kernel'=1.5 is not accepted"):
        init(methods.static(sparsity=0.5, distribution=lambda shapes, sparsity: dict.fromkeys(shapes, 1.5)))
    with pytest.raises(ValueError, match="epsilon=0 is not accepted"):
        distributions.epsilon(0)


# --- Trees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"b": jnp.ones(4), "s": jnp.ones(())}, {}, [], None, {"nothing": None}], ids=str)
def test_nothing_to_mask(params):
    for name in ("rigl", "static"):
        method = methods.get(name, **(GOOD if name == "rigl" else {"sparsity": 0.5}))
        tx = dstjax.sparsify(optax.sgd(0.1), method)
        with pytest.raises(ValueError, match="finds nothing to mask"):
            tx.init(params)


def test_maskable_that_chooses_nothing():
    with pytest.raises(ValueError, match="finds nothing to mask"):
        init(methods.rigl(**GOOD, maskable=lambda path, leaf: False))


@pytest.mark.parametrize(
    ("distribution", "sparsity"), [("uniform", 0.9), ("erk", 0.999), ("er", 0.999), ({"w": 0.01, "v": 0.5}, None)]
)
def test_a_leaf_too_small_for_its_density(distribution, sparsity):
    params = {"w": jnp.ones((3, 3)), "v": jnp.ones((40, 40))}
    with pytest.raises(ValueError, match=r"leaf 'w' of shape \(3, 3\) is too small.*at least 0\.111"):
        init(methods.static(sparsity=sparsity, distribution=distribution), params)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_an_empty_leaf(distribution):
    with pytest.raises(ValueError, match=r"leaf 'w' of shape \(0, 3\) has no weights to mask"):
        init(
            params={"w": jnp.ones((0, 3)), "v": jnp.ones((4, 4))},
            method=methods.static(sparsity=0.5, distribution=distribution),
        )


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_, jnp.complex64])
def test_integer_and_complex_leaves(dtype):
    params = {"table": jnp.ones((4, 4), dtype), "w": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match=f"leaf 'table' has dtype {np.dtype(dtype)}; only real floating leaves"):
        init(params=params)
    # Left out, they may be there.
    _, _, state = init(methods.rigl(**GOOD, maskable=lambda path, leaf: path == "w"), params)
    assert trees.names(dstjax.get_masks(state)).keys() == {"w"}


# --- Calls ----------------------------------------------------------------------------------------------------------


def test_missing_params():
    tx, params, state = init()
    with pytest.raises(ValueError, match=r"needs the parameters: call tx.update\(grads, opt_state, params\)"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="needs the parameters"):
        optax.chain(optax.clip(1.0), tx).update(params, (optax.EmptyState(), state))


@pytest.mark.parametrize("rewire", [1, "yes", 0.5, np.array([True, False])], ids=str)
def test_a_decision_of_another_type(rewire):
    tx, params, state = init()
    with pytest.raises(ValueError, match=r"rewire=.* is not accepted; expected None, True or False"):
        tx.update(params, state, params, rewire=rewire)


def test_a_traced_decision():
    tx, params, state = init()
    with pytest.raises(ValueError, match=r"rewire=.* is not accepted; .*known at trace time"):
        jax.jit(lambda r: tx.update(params, state, params, rewire=r))(True)


def without(tree, key):
    return {k: v for k, v in tree.items() if k != key}


def test_parameters_whose_tree_is_not_the_one_at_init():
    tx, params, state = init()
    for other, pattern in [
        (without(params, "dense"), "missing: dense/bias, dense/kernel"),
        ({**params, "extra": jnp.ones((2, 2))}, "unexpected: extra"),
        ({**params, "list": tuple(params["list"])}, "the same paths in other containers"),
    ]:
        with pytest.raises(ValueError, match=f"tree of the parameters is not the one at init; {pattern}"):
            tx.update(other, state, other)
        with pytest.raises(ValueError, match=f"tree of the updates is not the one at init; {pattern}"):
            tx.update(other, state, params)


def test_leaves_of_another_shape():
    tx, params, state = init()
    other = {**params, "dense": {**params["dense"], "kernel": jnp.ones((5, 6))}}
    with pytest.raises(ValueError, match=r"parameter 'dense/kernel' has shape \(5, 6\); expected \(6, 5\)"):
        tx.update(params, state, other)
    with pytest.raises(ValueError, match=r"update 'dense/kernel' has shape \(5, 6\); expected \(6, 5\)"):
        tx.update(other, state, params)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (dict(method="rigl"), "method='rigl' is not accepted; expected one from dstjax.methods"),
        (dict(method=methods.rigl), "method=.* is not accepted"),
        (dict(inner="sgd"), "inner='sgd' is not accepted; expected an optax transformation"),
        (dict(inner=optax.sgd), "inner=.* is not accepted"),
        (dict(seed=0.5), "seed=0.5 is not accepted; expected an integer or a PRNG key"),
        (dict(seed=None), "seed=None is not accepted"),
        (dict(seed="0"), "seed='0' is not accepted"),
        (dict(seed=True), "seed=True is not accepted"),
        (dict(seed=jnp.arange(2)), "seed=.* is not accepted"),
        (dict(seed=jax.random.split(jax.random.key(0))), "seed=.* is not accepted"),
        (dict(track=["explorations"]), "track='explorations' is not known; did you mean 'exploration'"),
        (dict(track="nothing"), "track='nothing' is not known"),
        (dict(track=[3]), "track=3 is not known"),
    ],
)
def test_arguments_of_sparsify(arguments, pattern):
    with pytest.raises(ValueError, match=pattern):
        dstjax.sparsify(**{"inner": optax.sgd(0.1), "method": methods.rigl(**GOOD), **arguments})


# --- Masks ----------------------------------------------------------------------------------------------------------


def test_masks_that_do_not_fit():
    _, _, state = init()
    good = dstjax.get_masks(state)
    kernel = good["dense"]["kernel"]

    def with_kernel(mask):
        return {**good, "dense": {"bias": None, "kernel": mask}}

    with pytest.raises(ValueError, match=r"'dense/kernel' has shape \(5, 6\) and dtype bool; expected \(6, 5\)"):
        dstjax.set_masks(state, with_kernel(kernel.T))
    with pytest.raises(ValueError, match=r"'dense/kernel' has shape .* and dtype float32; expected"):
        dstjax.set_masks(state, with_kernel(kernel.astype(jnp.float32)))
    with pytest.raises(ValueError, match="the mask for 'dense/kernel' has shape"):
        dstjax.set_masks(state, with_kernel(kernel.astype(jnp.uint8)))
    with pytest.raises(ValueError, match=r"masks for \[\] are unexpected and for \['dense/kernel'\] missing"):
        dstjax.set_masks(state, with_kernel(None))
    with pytest.raises(ValueError, match=r"masks for \['dense/bias'\] are unexpected"):
        dstjax.set_masks(state, {**good, "dense": {"bias": jnp.ones(5, bool), "kernel": kernel}})
    with pytest.raises(ValueError, match="'dense/kernel' has no active weight"):
        dstjax.set_masks(state, with_kernel(jnp.zeros_like(kernel)))
    with pytest.raises(ValueError, match="found 0 states"):
        dstjax.set_masks(optax.sgd(0.1).init(good), good)


def test_apply_masks_of_another_tree():
    _, params, state = init()
    with pytest.raises(ValueError, match="no weight has the path of these masks: dense/kernel"):
        dstjax.apply_masks(without(params, "dense"), state)
    with pytest.raises(ValueError, match="the mask of 'dense/kernel' has shape"):
        dstjax.apply_masks({**params, "dense": {"bias": jnp.ones(5), "kernel": jnp.ones((6, 6))}}, state)


def test_mask_error_of_another_tree():
    _, params, state = init()
    with pytest.raises(ValueError, match="dense/kernel"):
        dstjax.metrics.mask_error(without(params, "dense"), state)
