"""Data that is not read: cut out of the arguments, or met by zeros, whichever is less work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dstjax
from dstjax import masks as masks_lib
from tests.small_networks import like, normal, relative


def network(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def turned(p, x):
    """The weights of the first layer on the left, and data with two axes of inputs."""
    h = jnp.einsum("ijo,nij->on", p["a"].reshape(4, 16, -1), x.reshape(-1, 4, 16))
    return jnp.tanh(h).T @ p["b"]


def gathered(function, *args):
    """The shapes of what is gathered from arrays in a program."""
    found = []

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "gather":
                found.append(eqn.invars[0].aval.shape)
            for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    look(inner)

    look(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def reduced(hidden, function=network):
    """A network of 64 inputs of which every fifth is not read, and its smaller one."""
    params = like({"a": (64, hidden), "b": (hidden, 3)})
    masks = {"a": jnp.ones((64, hidden), bool).at[::5].set(False), "b": jnp.ones((hidden, 3), bool)}
    masked = masks_lib.apply(params, masks)
    smaller, fewer, report = dstjax.compact(function, params, masks, normal(2, 64))
    assert fewer["a"].shape == (51, hidden)
    return masked, smaller, fewer, report


@pytest.mark.parametrize(
    ("batch", "hidden", "what"),
    [(256, 20, "weights"), (1, 20, "data"), (2, 20, "data"), (256, 400, "data")],
)
def test_what_is_less_work_is_done(batch, hidden, what):
    masked, smaller, fewer, _ = reduced(hidden)
    x = normal(batch, 64)
    assert relative(network(masked, x), smaller(fewer, x)) < 1e-6
    assert gathered(smaller, fewer, x) == [(51, hidden) if what == "weights" else (batch, 64)]


@pytest.mark.parametrize("function", [network, turned])
def test_gradients_are_those_of_what_is_left(function):
    if function is turned:
        params = like({"a": (64, 20), "b": (20, 3)})
        masks = {"a": jnp.ones((64, 20), bool).at[32:48].set(False), "b": jnp.ones((20, 3), bool)}
        masked = masks_lib.apply(params, masks)
        smaller, fewer, report = dstjax.compact(function, params, masks, normal(2, 64))
    else:
        masked, smaller, fewer, report = reduced(20)
    x = normal(256, 64)

    def gradients(function, p):
        return jax.grad(lambda p: jnp.sum(jnp.sin(function(p, x))))(p)

    expected = report.cut_state(gradients(function, masked))
    assert relative(expected, gradients(smaller, fewer)) < 1e-5


def test_a_program_with_its_gradient_inside():
    params = like({"a": (64, 20), "b": (20, 3)})
    masks = {"a": jnp.ones((64, 20), bool).at[::5].set(False), "b": jnp.ones((20, 3), bool)}
    masked, x = masks_lib.apply(params, masks), normal(256, 64)

    def step(p, x):
        return jax.grad(lambda p: jnp.sum(jnp.sin(network(p, x))))(p)["b"]

    smaller, fewer, _ = dstjax.compact(step, params, masks, x)
    assert relative(step(masked, x), smaller(fewer, x)) < 1e-5


def test_what_is_reported_is_the_work_that_is_done():
    params = like({"a": (64, 20), "b": (20, 3)})
    masks = {"a": jnp.ones((64, 20), bool).at[::5].set(False), "b": jnp.ones((20, 3), bool)}
    reports = [dstjax.compact(network, params, masks, normal(batch, 64))[2] for batch in (1, 256)]
    work = [{row.path: row.after for row in report.rows} for report in reports]
    assert [np.prod(w["a"]) for w in work] == [51 * 20] * 2
    assert [report.flops[1] // batch for report, batch in zip(reports, (1, 256), strict=True)] == [
        2 * (51 * 20 + 20 * 3),
        2 * (64 * 20 + 20 * 3),
    ]
