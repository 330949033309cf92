"""What the rules of a method return is checked by name: shapes, dtypes, and that it is an array at all."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.method import rewiring


class Shared(NamedTuple):
    x: float


def returning(x):
    return lambda *args: x


BASE = dict(sparsity=0.5, update_period=1)
W = (4, 4)
WRONG = {
    **{
        f"{name} that is no array": (dict([(name, returning(x))]), rf"{what}=.* returned {x!r}; expected an array")
        for name, what, x in (
            *(("n_kept", "n_kept", None), ("n_grown", "n_grown", "some"), ("gradient", "gradient", None)),
            *(("drop_score", "drop", "some"), ("grow_score", "grow", None), ("new_weights", "new_weights", "some")),
        )
    },
    "leaf that is nothing": (dict(leaf=returning(None)), "leaf=.* returned None; expected what is remembered"),
    "leaf that is a number": (dict(leaf=returning(0.0)), "leaf=.* returned float; expected what is remembered"),
    "leaf that is a list": (dict(leaf=returning([[0.0] * 4] * 4)), "leaf=.* returned float; expected what is"),
    "second_mask that is no list": (dict(second_mask=returning(None)), "second_mask=.* returned None; expected a list"),
    "gradient of eight bits": (
        dict(gradient=returning(jnp.zeros(W, jnp.float8_e4m3fn))),
        r"gradient=.* returned float8_e4m3fn\[4, 4\] for a leaf of float32",
    ),
    "n_kept of another shape": (dict(n_kept=returning(jnp.zeros(3, jnp.int32))), r"n_kept=.* returned int32\[3\]"),
    "n_kept of floats": (dict(n_kept=returning(jnp.zeros(1))), r"n_kept=.* returned float32\[1\]; expected integers"),
    "n_grown of floats": (dict(n_grown=returning(jnp.zeros(()))), r"n_grown=.* returned float32\[\]"),
    "drop of another shape": (dict(drop_score=returning(jnp.zeros(4))), r"drop=.* returned float32\[4\] for a leaf"),
    "grow that is complex": (dict(grow_score=returning(jnp.zeros(W, jnp.complex64))), r"grow=.* returned complex64"),
    "grow that is a scalar": (dict(grow_score=returning(1.0)), r"grow=.* returned float32\[\] for a leaf of shape"),
    "gradient of another shape": (dict(gradient=returning(jnp.zeros(4))), r"gradient=.* returned float32\[4\]"),
    "gradient of integers": (
        dict(gradient=returning(jnp.zeros(W, jnp.int32))),
        r"gradient=.* expected floating numbers",
    ),
    "new_weights of another shape": (
        dict(new_weights=returning(jnp.zeros(4))),
        r"new_weights=.* returned float32\[4\]",
    ),
    "before_step of another shape": (
        dict(leaf=lambda leaf: leaf.weight, before_step=returning(jnp.zeros(4))),
        r"before_step=.* returned float32\[4\]; expected float32\[4, 4\], as at first",
    ),
    "before_step of another dtype": (
        dict(leaf=lambda leaf: leaf.weight, before_step=returning(jnp.zeros(W, jnp.int32))),
        r"before_step=.* returned int32\[4, 4\]; expected float32\[4, 4\]",
    ),
    "after_step of another tree": (
        dict(leaf=lambda leaf: leaf.weight, after_step=returning((1.0, 2.0))),
        r"after_step=.* returned PyTreeDef.*; expected PyTreeDef.*, as at first",
    ),
    "after_update of another dtype": (
        dict(shared=Shared(1.0), after_update=returning(Shared(jnp.int32(1)))),
        r"after_update=.* returned int32\[\] at x; expected float32\[\]",
    ),
    "second_mask of numbers": (
        dict(second_mask=lambda layers, masks: [jnp.zeros(W)]),
        r"second_mask=.* returned float32\[4, 4\].*expected bool",
    ),
    "second_mask of too many": (
        dict(second_mask=lambda layers, masks: [*masks, *masks]),
        "second_mask=.* returned 2 masks; expected 1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_rule_returns_is_checked_by_name(name):
    changes, message = WRONG[name]
    order = "step_then_update"
    method = rewiring("x", **BASE, drop_schedule="constant", update_order=order).but(**changes)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params = {"w": jnp.ones(W)}
    with pytest.raises(ValueError, match=f"the rule {message}"):
        tx.update(params, tx.init(params), params, rewire=True)


def test_what_is_shared_is_numbers():
    with pytest.raises(ValueError, match="shared='a' is not accepted; expected numbers"):
        methods.rigl(**BASE, end_step=9).but(shared="a")


def test_trainable_is_boolean():
    method = methods.dpf(sparsity=0.5, end_step=50).but(trainable=lambda leaf: leaf.weight)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params = {"w": jnp.ones(W)}
    with pytest.raises(ValueError, match=r"the rule trainable=.* returned float32\[4, 4\].*expected bool"):
        tx.update(params, tx.init(params), params)
