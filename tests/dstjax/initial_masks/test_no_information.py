"""Scores that say nothing about a layer are refused by name, instead of a choice by place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax import initial_masks
from tests.thorough import slow

RNG = np.random.default_rng(0)
PARAMS = {
    "first": jnp.asarray(RNG.standard_normal((4, 6)), jnp.float32),
    "second": jnp.asarray(RNG.standard_normal((2, 6, 6)), jnp.float32),  # two layers
    "third": jnp.asarray(RNG.standard_normal((6, 3)), jnp.float32),
}
LAYOUT = {"second": "stack in out", "first": "in out", "third": "in out"}
X = jnp.asarray(RNG.standard_normal((5, 4)), jnp.float32)


def forward(params, x, frozen=()):
    p = {n: jax.lax.stop_gradient(w) if n in frozen else w for n, w in params.items()}
    h = jnp.tanh(x @ p["first"])
    for i in range(2):
        layer = p["second"][i]
        h = h + jnp.tanh(h @ (jax.lax.stop_gradient(layer) if f"second[{i}]" in frozen else layer))
    return h @ p["third"]


def loss(frozen):
    return lambda params, batch: jnp.mean(forward(params, batch, frozen) ** 2)


@pytest.mark.parametrize("frozen", [("third",), slow(("first", "second")), ("second[1]",)], ids=str)
@pytest.mark.parametrize("rule", ["snip", slow("grasp"), slow("iterative_snip"), "force"])
@pytest.mark.parametrize("scope", ["global", slow("layer")])
def test_a_frozen_layer_is_named(rule, frozen, scope):
    names = [n for n in ("first", "second[0]", "second[1]", "third") if n in frozen or n.split("[")[0] in frozen]
    with pytest.raises(ValueError, match=f"{rule}.* finds no information in layers ") as error:
        getattr(initial_masks, rule)(loss(frozen), PARAMS, [X], sparsity=0.5, layout=LAYOUT, scope=scope)
    assert f"layers {names}:" in str(error.value)


def test_what_every_layer_has_is_no_matter():
    for rule in (initial_masks.snip, initial_masks.force):
        masks = rule(loss(()), PARAMS, [X], sparsity=0.5, layout=LAYOUT)
        assert sum(int(m.sum()) for m in jax.tree.leaves(masks)) == 57
    frozen = ("third",)
    without = initial_masks.snip(
        loss(frozen), PARAMS, [X], sparsity=0.5, layout={"third": None, "first": "in out", "second": "stack in out"}
    )
    assert without["third"] is None
    whole = initial_masks.snip(loss(frozen), PARAMS, [X], sparsity=0.0, layout=LAYOUT)
    assert bool(whole["third"].all())  # nothing was to be chosen


def test_a_layer_that_overflows_is_named():
    params = PARAMS | {"third": jnp.full((6, 3), jnp.inf)}
    with pytest.raises(ValueError, match=r"magnitude finds no information in layers \['third'\]"):
        initial_masks.magnitude(params, sparsity=0.5, layout=LAYOUT)
    with pytest.raises(ValueError, match=r"magnitude finds no information in layers \['second\[0\]'\]"):
        initial_masks.magnitude(
            PARAMS | {"second": PARAMS["second"].at[0].set(0)}, sparsity=0.5, scope="global", layout=LAYOUT
        )


def without_a_slope(params, batch):
    """A finite loss whose gradient is NaN in half of a layer."""
    return loss(())(params, batch) + 0 * jnp.sum(jnp.sqrt(0 * params["second"][1, :3]))


@pytest.mark.parametrize("rule", ["snip", "iterative_snip", "force"])  # the Hessian of grasp spreads them everywhere
@pytest.mark.parametrize("scope", ["global", slow("layer")])
def test_scores_that_are_not_finite_are_named(rule, scope):
    with pytest.raises(ValueError, match=rf"{rule}.* finds scores that are not finite: 18 of 'second\[1\]';"):
        getattr(initial_masks, rule)(without_a_slope, PARAMS, [X], sparsity=0.5, layout=LAYOUT, scope=scope)


def test_scores_that_decide_nothing_may_be_anything():
    """Those of a layer that stays whole, and those of weights that an earlier round removed."""
    whole = initial_masks.snip(without_a_slope, PARAMS, [X], sparsity=0.0, layout=LAYOUT)
    assert bool(whole["second"].all())

    def fails_where_removed(params, batch):
        return loss(())(params, batch) + 0 * jnp.sum(jnp.sqrt(jnp.abs(params["first"])))

    masks = initial_masks.iterative_snip(fails_where_removed, PARAMS, [X], sparsity=0.5, rounds=3, layout=LAYOUT)
    assert sum(int(m.sum()) for m in jax.tree.leaves(masks)) == 57


def test_weights_that_are_not_finite_are_named():
    params = PARAMS | {"first": PARAMS["first"].at[0, :2].set(jnp.nan), "third": PARAMS["third"].at[0, 0].set(jnp.inf)}
    with pytest.raises(ValueError, match=r"magnitude finds scores that are not finite: 2 of 'first', 1 of 'third';"):
        initial_masks.magnitude(params, sparsity=0.5, layout=LAYOUT)


def test_a_layer_without_flow_is_named():
    """It leads to no output."""
    params = PARAMS | {"unused": jnp.ones((3, 3))}
    with pytest.raises(ValueError, match=r"synflow, in round 1 of 2, finds no information in layers \['unused'\]"):
        initial_masks.synflow(forward, params, (4,), sparsity=0.5, rounds=2)
