"""Scores of a user's own are tried at init, and a view is announced."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.rules import bind

PARAMS = {"w": jnp.ones((4, 4)), "small": {"kernel": jnp.ones((2, 4))}}
FIELDS = dict(sparsity=0.5, update_period=2, end_step=20)


def nowhere(number, leaf):
    return jnp.full(leaf.weight.shape, number)


def nan_everywhere(leaf):
    return leaf.gradient * jnp.nan


def negative_gradients(leaf):
    return jnp.log(leaf.gradient)  # NaN where the gradient is negative


@dataclasses.dataclass(frozen=True)
class Infinite:
    def __call__(self, leaf):
        return leaf.weight - jnp.inf


def of_memory(leaf):
    return leaf.memory["nothing of the kind"]


@pytest.mark.parametrize("field", ["grow", "drop"])
@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (nan_everywhere, "nan_everywhere"),
        (bind(nowhere, jnp.nan), r"nowhere\(nan\)"),
        (Infinite(), r"Infinite\(\)"),
        (lambda leaf: leaf.gradient / 0 * 0, "test_.*lambda|<lambda>"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_score_that_is_finite_nowhere(field, rule, name, compiled):
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(**FIELDS, **{field: rule}))
    init = jax.jit(tx.init) if compiled else tx.init
    with pytest.raises(ValueError, match=rf"the rule {field}=({name}) is not accepted: .* leaf 'small/kernel'"):
        jax.eval_shape(init, PARAMS)


@pytest.mark.parametrize("rule", [negative_gradients, of_memory, "gradient"])
def test_other_scores_pass(rule):
    dstjax.sparsify(optax.sgd(0.1), methods.rigl(**FIELDS, grow=rule)).init(PARAMS)


@pytest.mark.parametrize("name", ["top_kast", "iee", "dpf", "ste", "rigl"])
def test_dense_weights_behind_masks_are_announced(name, caplog):
    fields = FIELDS if name == "rigl" else dict(sparsity=0.5)
    method = methods.get(name, **({"end_step": 450, **fields} if name in ("iee", "dpf") else fields))
    with caplog.at_level(logging.WARNING, logger="dstjax.views"):
        jax.eval_shape(dstjax.sparsify(optax.sgd(0.1), method).init, PARAMS)
    said = [record.getMessage() for record in caplog.records if record.name == "dstjax.views"]
    assert len(said) == (name != "rigl")
    assert all(f"method {name!r} keeps dense weights" in text and "forward_params" in text for text in said)
