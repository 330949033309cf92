"""What all rules share: the tree of masks, counts, schedules, shardings, and what they refuse."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

import dstjax
from dstjax import initial_masks, methods
from dstjax.initial_masks._goal import goal_of
from tests import trees
from tests.dstjax.initial_masks import networks
from tests.thorough import examples, few, slow

WITH_DATA = ("snip", "grasp", "iterative_snip", "force")
RULES = (*WITH_DATA, "magnitude", "synflow")


def quadratic(params, aim):
    """Positive curvature at each leaf, and slopes that differ."""
    return sum(jnp.sum((w - a) ** 2) for w, a in zip(jax.tree.leaves(params), jax.tree.leaves(aim), strict=True))


def outputs(params, x):
    return [w * jnp.sum(x) for w in jax.tree.leaves(params)]


def run(rule, params, **arguments):
    arguments = {"sparsity": 0.6} | arguments
    make = getattr(initial_masks, rule)
    if rule == "magnitude":
        return make(params, **arguments)
    if rule == "synflow":
        return make(outputs, params, (2,), rounds=2, **arguments)
    return make(quadratic, params, [trees.like(params, 3)], **arguments)


# --- The tree of masks ------------------------------------------------------------------------------------------------


@few(2)
@pytest.mark.parametrize("rule", RULES)
def test_masks_are_a_tree_like_the_parameters_that_set_masks_takes(rule):
    params = trees.everything()
    masks = run(rule, params)
    named = trees.names(masks)
    assert named.keys() == set(trees.MASKED)
    assert {n: m.shape for n, m in named.items()} == {n: trees.SHAPES[n] for n in trees.MASKED}
    assert all(m.dtype == bool for m in named.values())
    if rule == "magnitude":  # per layer by default, as static has it
        tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.6))
        state = dstjax.set_masks(tx.init(params), masks)
        stored = trees.names(dstjax.get_masks(state))
        assert all((stored[n] == m).all() for n, m in named.items())
    else:
        total = sum(math.prod(trees.SHAPES[n]) for n in trees.MASKED)
        assert sum(int(m.sum()) for m in named.values()) == total - math.floor(0.6 * total + 1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_per_layer_has_the_counts_of_its_distribution(rule):
    params = trees.everything()
    masks = trees.names(run(rule, params, scope="layer", distribution="er", maskable=lambda path, w: w.ndim > 2))
    counts = dstjax.distributions.active_counts("er", {"conv/kernel": trees.SHAPES["conv/kernel"]}, 0.6)
    assert {n: int(m.sum()) for n, m in masks.items()} == counts


@few(1)
@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        *[("snip", AxisType.Auto), ("force", AxisType.Explicit), slow("magnitude", AxisType.Explicit)],
        *[slow("magnitude", AxisType.Auto), slow("snip", AxisType.Explicit), slow("force", AxisType.Auto)],
    ],
)
def test_the_same_masks_on_eight_devices(rule, kind):
    rng = np.random.default_rng(0)
    params = {"a": np.float32(rng.standard_normal((16, 24))), "b": np.float32(rng.standard_normal((8, 16)))}
    aim = trees.like(params, 1)
    data = () if rule == "magnitude" else (quadratic,)
    arguments = {"sparsity": 0.8, "scope": "global"}
    expected = getattr(initial_masks, rule)(*data, params, *([[aim]] if data else []), **arguments)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        where = {"a": jax.NamedSharding(mesh, jax.P("x", "y")), "b": jax.NamedSharding(mesh, jax.P(None, "x"))}
        placed, aim = jax.device_put((params, jax.device_get(aim)), (where, where))
        masks = getattr(initial_masks, rule)(*data, placed, *([[aim]] if data else []), **arguments)
        for name, mask in masks.items():
            assert mask.sharding.is_equivalent_to(where[name], 2)
        masks = jax.device_get(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, expected[name])


@pytest.mark.parametrize("rule", ["magnitude", "snip", "grasp"])
def test_under_jit(rule):
    params, batches = networks.draw(seed=6)
    make = getattr(initial_masks, rule)
    of = (lambda p, b: make(p, sparsity=0.7)) if rule == "magnitude" else (
        lambda p, b: make(networks.loss, p, b, sparsity=0.7)
    )  # fmt: skip
    networks.assert_masks(jax.jit(of)(params, batches), networks.kernels(of(params, batches)))


# --- Counts of rounds -------------------------------------------------------------------------------------------------


def goal(shape, sparsity, scope="global"):
    return goal_of("x", {"w": jnp.zeros(shape)}, sparsity=sparsity, distribution=None, scope=scope, maskable=None)


def test_densities_fall_exponentially():
    """B5: at a final density of 0.1 in 100 rounds .9772 after the first, .3162 after the fiftieth, .1 at the end."""
    counts = [n for (n,) in goal((100, 100), 0.9).schedule(100)]
    assert counts[0] == 10_000 - math.floor((1 - 0.1 ** (1 / 100)) * 10_000) == 9773
    assert counts[49] == 3163
    assert counts[-1] == 1000


@settings(max_examples=examples(100))
@given(st.integers(1, 60), st.integers(0, 99), st.integers(1, 12), st.sampled_from(["layer", "global"]))
def test_rounds_never_add_and_end_at_the_goal(size, percent, rounds, scope):
    if size * (100 - percent) < 100:
        return  # refused: less than one weight would stay
    found = goal((1, size), percent / 100, scope)
    counts = [n for (n,) in found.schedule(rounds)]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == rounds
    assert [counts[-1]] == found.counts
    assert counts[0] <= size


# --- Bad input --------------------------------------------------------------------------------------------------------


def refuses(message, rule="snip", params=None, **arguments):
    with pytest.raises(ValueError, match=message):
        run(rule, trees.everything() if params is None else params, **arguments)


@pytest.mark.parametrize("rule", RULES)
def test_hyperparameters_out_of_range(rule):
    for sparsity in (-0.1, 1.0, math.nan, "0.9", True, None):
        refuses(f"sparsity={re.escape(repr(sparsity))} is not accepted", rule, sparsity=sparsity)
    refuses("scope='layr' is not known; did you mean 'layer'", rule, scope="layr")
    refuses("distribution='erk' is not accepted with scope='global'", rule, scope="global", distribution="erk")
    refuses("distribution='errk' is not known; did you mean", rule, scope="layer", distribution="errk")
    refuses("maskable=3 is not accepted", rule, maskable=3)


@pytest.mark.parametrize("rule", ["synflow", "iterative_snip", "force"])
@pytest.mark.parametrize("rounds", [0, 1.5, True, None])
def test_rounds_out_of_range(rule, rounds):
    data = ((2,),) if rule == "synflow" else ([0.0],)
    with pytest.raises(ValueError, match=r"rounds=.*expected an integer >= 1"):
        getattr(initial_masks, rule)(quadratic, trees.everything(), *data, sparsity=0.5, rounds=rounds)


def test_normalize_needs_a_common_ranking():
    refuses("normalize=True is not accepted with scope='layer'", "magnitude", normalize=True)
    refuses("normalize=1 is not accepted", "magnitude", normalize=1, scope="global")


def test_leaves_that_cannot_be_masked():
    refuses("finds nothing to mask", params={"b": jnp.ones(3)})
    refuses("dtype int32; only real floating", params={"w": jnp.ones((2, 2), jnp.int32)})
    refuses(r"leaf 'w' of shape \(0, 2\) has no weights to mask", params={"w": jnp.ones((0, 2)), "v": jnp.ones((2, 2))})
    refuses("'w' is a shape without values", params={"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)})
    refuses(
        "leaves 1 active weights for 2 masked leaves",
        params={"v": jnp.ones((1, 2)), "w": jnp.ones((1, 2))},
        sparsity=0.9,
    )
    large = {"w": jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)}
    refuses("would rank 4294967296 weights", "magnitude", params=large, scope="global")
    refuses(
        r"'w' of shape .* is too small",
        "magnitude",
        params={"w": jnp.ones((1, 2))},
        sparsity=0.9,
        distribution="uniform",
    )


def test_a_traced_sparsity():
    with pytest.raises(ValueError, match=r"sparsity=.*is traced; magnitude needs a number"):
        jax.jit(lambda s: initial_masks.magnitude({"w": jnp.ones((2, 2))}, sparsity=s))(0.5)


@pytest.mark.parametrize("rule", WITH_DATA)
def test_losses_and_batches_that_are_none(rule):
    make, params = getattr(initial_masks, rule), {"w": jnp.ones((2, 2))}

    def refused(message, loss=lambda p, b: jnp.sum(p["w"]) * b, batches=(1.0,)):
        with pytest.raises(ValueError, match=message):
            make(loss, params, batches, sparsity=0.5)

    refused("batches is empty", batches=[])
    refused("batches is empty", batches=iter(()))
    refused(r"mapping with the keys \['x'\], one batch; pass a list", batches={"x": 1.0})
    refused("batches=3 is not accepted; expected an iterable", batches=3)
    refused("loss_fn=3 is not accepted", loss=3)
    refused(r"returned an array of shape \(2,\) and dtype float32", loss=lambda p, b: p["w"][0])
    refused(r"shape \(\) and dtype int32; expected one real number", loss=lambda p, b: jnp.int32(1))
    refused("returned a tuple; expected one real number", loss=lambda p, b: (jnp.sum(p["w"]), {}))
    refused("returned a NoneType", loss=lambda p, b: None)
    refused("the loss of batch 1 is nan", batches=[1.0, math.nan])
    refused("the loss of batch 0 is inf", batches=[math.inf])
