"""A method in one file of one's own: this one. It is made of public parts, and everything takes it."""

import ast
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import budgets
from dstjax.method import Method, rewiring
from dstjax.methods import catalogued
from dstjax.rules import Layers, Leaf, Value, value
from tests.stepping import compiled

PAPER = """@misc{nobody2026,
  author = {Nobody, A.},
  title = {Averages that wait},
  year = {2026},
}"""


@value
class Average(Value):
    """m <- decay * m + (1 - decay) * g."""

    decay: float

    def __call__(self, leaf: Leaf) -> jax.Array:
        return self.decay * leaf.memory + (1 - self.decay) * leaf.gradient


@value
class Waiting(Value):
    """Nothing is dropped while the mean loss since the last update is below ``enough``."""

    n_kept: budgets.NKept
    enough: float

    def __call__(self, layers: Layers) -> jax.Array:
        return jnp.where(layers.measured.now < self.enough, layers.active, self.n_kept(layers))


def nothing(leaf: Leaf) -> jax.Array:
    return jnp.zeros_like(leaf.weight)


@catalogued(
    "Patient",
    "sparse to sparse",
    PAPER,
    cost="dense_gradient_always",
    needs=("value=",),
    grow="momentum",
    drop_schedule="constant",
    update_order="step_then_update",
)
def patient(*, decay: float = 0.5, enough: float = 0.0, **shared) -> Method:
    """RigL by an average of the gradients, which waits while the loss is low."""
    base = rewiring("patient", **{"counters": False, **shared})
    waiting = Waiting(base.moving.n_kept, enough)
    return base.but(n_kept=waiting, leaf=nothing, before_step=Average(decay), measure="value", needs=("value",))


def trained(method, steps=12, jit=True, seed=0):
    tx = dstjax.sparsify(optax.adam(0.1), method, seed=seed)
    params = {"w": jax.random.normal(jax.random.key(1), (8, 12)), "b": jnp.zeros(12)}
    x = jax.random.normal(jax.random.key(2), (32, 8))
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)

    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((x @ p["w"] + p["b"][None] - 1) ** 2))(params)
        updates, state = compiled(tx).update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jit else step
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


MADE = dict(sparsity=0.75, update_period=3, end_step=11)


def test_it_stands_in_this_file_alone():
    source = Path(__file__).read_text()
    private = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dstjax._")
    ]
    assert not private
    assert "patient" not in dstjax.methods.names()


def test_it_is_a_value_with_checked_hyperparameters():
    one = patient(**MADE)
    assert one == patient(**MADE)
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(ValueError, match="method 'patient' has no hyper-parameter 'decai'; did you mean 'decay'"):
        patient(**MADE, decai=0.1)


def test_it_keeps_what_every_method_keeps():
    """Exact zeros and counts, the same masks jitted, other ones by seed, and it says what it lacks."""
    params, state = trained(patient(**MADE))
    assert dstjax.check_sparse(params, state)
    masks = dstjax.get_masks(state)["w"]
    assert int(masks.sum()) == 24
    np.testing.assert_array_equal(masks, dstjax.get_masks(trained(patient(**MADE), jit=False)[1])["w"])
    assert (masks != dstjax.get_masks(trained(patient(**MADE), seed=1)[1])["w"]).any()
    tx = dstjax.sparsify(optax.sgd(0.1), patient(**MADE))
    with pytest.raises(ValueError, match=r"method 'patient' needs value=; call tx.update\(..., value=...\)"):
        tx.update(params, tx.init(params), params, rewire=True)


def test_it_waits():
    first = dstjax.get_masks(trained(patient(**MADE), steps=0)[1])["w"]
    np.testing.assert_array_equal(dstjax.get_masks(trained(patient(**MADE, enough=1e9))[1])["w"], first)
    assert (dstjax.get_masks(trained(patient(**MADE))[1])["w"] != first).any()


def test_the_catalogue_and_the_costs_take_it():
    about = dstjax.methods.about(patient)
    assert (about.name, about.family, about.label) == ("patient", "sparse to sparse", "Patient")
    assert dstjax.methods.reference(patient) == PAPER
    assert dstjax.costs.training_flops(patient, sparse=0.2, dense=1.0, convention="paper") == pytest.approx(1.4)
