"""What is refused of hyper-parameters and density maps: a ValueError with name, value, and what would be accepted."""

import inspect
import math
import re

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
    "coefficient": (["dst_ee"], [-1e-3, math.nan, math.inf, "0.1", True]),
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
    refuses("drop_schedule gives -0.5 at step 8", drop_schedule=lambda t: jnp.where(t < 6, 0.5, -0.5))
    refuses("drop_schedule gives nan at step 2", drop_schedule=lambda t: math.nan)


def test_schedules_that_no_trace_can_call():
    """The host calls them, a limited number of times, and finds a wrong share at any step."""
    jumps = lambda t: 0.5 if t < 6 else 0.1  # noqa: E731
    shares = methods.rigl(**{**GOOD, "drop_schedule": jumps}).moving.n_kept.fractions
    known = methods.rigl(**{**GOOD, "drop_schedule": lambda t: jnp.where(t < 6, 0.5, 0.1)}).moving.n_kept.fractions
    for i in range(len(shares.steps) + 1):
        assert int(shares.of(jnp.int32(10**6), jnp.int32(i))) == int(known.of(jnp.int32(10**6), jnp.int32(i)))
    refuses(r"cannot be traced, .* with jnp.where instead of if", drop_schedule=jumps, end_step=10**6)
    refuses(r"drop_schedule gives 2.0 at step", drop_schedule=lambda t: 2.0 if t == 4 else 0.1)
    refuses(r"gives an array of shape \(2,\); expected a scalar", drop_schedule=lambda t: jnp.ones(2) * t)


@pytest.mark.parametrize(
    ("name", "changes", "pattern"),
    [
        ("rigl", dict(drop_schedule=lambda t: None), "drop_schedule gives None at step 2; expected fractions"),
        ("rigl", dict(drop_schedule=lambda t: "half"), "drop_schedule gives 'half' at step 2; expected fractions"),
        ("iee", dict(update_period=4, stages=3), "stages=3 is not accepted; expected three numbers of steps"),
        ("iee", dict(update_period=4, stages=("a", "b", "c")), "stages=.* is not accepted; expected three numbers"),
        ("iee", dict(update_period=4, stages=(2.0, 1.0, 1.0)), "stages=.* is not accepted; expected three numbers"),
        ("iee", dict(update_period=4, end_step=10**12), "end_step=1000000000000 is not accepted; expected less than"),
        ("one_shot", dict(prune_step=10**12, update_period=None, end_step=None), "prune_step=1000000000000 is not"),
        ("asp", dict(prune_step=10**12, sparsity=None, update_period=None, end_step=None), "prune_step=10000000"),
        ("sis", dict(prune_step=10**12, update_period=None, end_step=None), "prune_step=1000000000000 is not"),
        (
            "granet",
            dict(initial_sparsity=None),
            r"initial_sparsity=None is not accepted; expected a number in \[0, 1\)",
        ),
        ("dynset", dict(lag=10**12), "lag=1000000000000 is not accepted; expected at most 65536"),
        ("dst_ee", dict(scale=np.ones(3)), r"scale is an array of shape \(3,\), which is not accepted by 'dst_ee'"),
        ("mest", dict(drop=jnp.ones(3)), r"drop is an array of shape \(3,\), which is not accepted by 'mest'"),
        ("dst_ee", dict(grow="gradient"), "grow='gradient' is not accepted by 'dst_ee', a growth rule itself"),
        ("srigl", dict(structure=dstjax.structures.WEIGHT), "structure=.* is not accepted by 'srigl', which has its"),
    ],
)
def test_values_of_another_kind(name, changes, pattern):
    given = {n: v for n, v in {**GOOD, **changes}.items() if v is not None or n == "initial_sparsity"}
    with pytest.raises(ValueError, match=pattern):
        methods.get(name, **given)


@pytest.mark.parametrize("name", [n for n in methods.names() if n != "dense"])
def test_every_default_that_is_listed_is_accepted(name):
    """That of what is required is one that does."""
    required = {**GOOD, "prune_step": 3, "end_step": 60_000, "threshold": 0.1, "update_period": 5}
    defaults = methods.hyperparameters(name)
    given = {
        n: required[n] if d in (inspect.Parameter.empty, None) and n in required else d for n, d in defaults.items()
    }
    assert methods.get(name, **given).name == name


def test_what_rules_for_leaves_return():
    with pytest.raises(ValueError, match=r"maskable=.* returned array.* for leaf .*; expected True or False"):
        init(methods.rigl(**GOOD, maskable=lambda path, leaf: np.ones(3, bool)))
    with pytest.raises(
        ValueError, match=r"distribution=.* returned 3; expected \{path: density\} with one for each of"
    ):
        init(methods.rigl(**GOOD, distribution=lambda shapes, sparsity: 3))


def test_flags():
    refuses("counters=1 is not accepted; expected True, False or None", counters=1)
    refuses("signed='yes' is not accepted; expected True or False", "dst_ee", signed="yes")
    refuses("maskable='kernel' is not accepted; expected a function", maskable="kernel")


def test_counters_that_the_growth_rule_needs():
    with pytest.raises(ValueError, match="counters=False is not accepted with grow_score=DstEE"):
        methods.rigl(**GOOD, grow="dst_ee", counters=False)


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
