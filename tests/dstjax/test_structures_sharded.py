"""Structures on eight devices: the masks of one, in every layout that a type can hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dstjax
from dstjax import methods, program
from dstjax.structures import block, channels, fan_in, filters, heads, n_m
from tests.thorough import few

MOVING = dict(
    sparsity=0.5, distribution="uniform", drop_fraction=0.4, drop_schedule="constant", update_period=2, end_step=14
)
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
LAYOUTS = {  # of a mesh of 2 by 4: on how many devices inputs and outputs lie
    "inputs": (P("a"), P(None, None, "a")),
    "outputs": (P(None, "b"), P(None, None, None, "b")),
    "both": (P("a", "b"), P(None, None, "a", "b")),
    "cut": (P(("a", "b")), P(None, None, ("a", "b"))),  # groups of four on several devices
    "replicated": (P(), P()),
}
STRUCTURES = {"n_m": n_m(2, 4), "block": block(4, 2), "fan_in": fan_in()}
WIDE = {"conv": (1, 2, 8, 16), "dense": (16, 24)}


def on_mesh(structure, place):
    """All masks of a short run of RigL."""
    method = methods.rigl(**MOVING, structure=STRUCTURES[structure])
    tx = dstjax.sparsify(optax.sgd(0.1), method, seed=1)

    def draw(t):
        rng = np.random.default_rng(t)
        return place({n: np.asarray(rng.standard_normal(s), np.float32) for n, s in WIDE.items()})

    @jax.jit
    def step(params, state, noise):
        updates, state = tx.update(jax.tree.map(jnp.add, params, noise), state, params)
        return optax.apply_updates(params, updates), state

    params = draw(0)
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    history = [dstjax.get_masks(state)]
    for t in range(1, 5):
        params, state = step(params, state, draw(t))
        history.append(dstjax.get_masks(state))
    return jax.device_get(history)


@functools.cache
def on_one_device(structure):
    return on_mesh(structure, lambda tree: jax.tree.map(jnp.asarray, tree))


def on_eight(structure, kind, layout):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(KINDS[kind],) * 2)
    with jax.set_mesh(mesh):
        where = dict(zip(["dense", "conv"], (NamedSharding(mesh, s) for s in LAYOUTS[layout]), strict=True))
        return on_mesh(structure, lambda tree: jax.device_put(tree, where))


REFUSED = [("n_m", "cut"), ("block", "cut")]
EXPLICIT = [(s, layout) for s in STRUCTURES for layout in LAYOUTS if (s, layout) not in REFUSED]


def check_eight(structure, kind, layout):
    expected = on_one_device(structure)
    found = on_eight(structure, kind, layout)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (expected[0]["dense"] != expected[-1]["dense"]).any()


# Groups cut into pieces, and what counts whole columns; the slow tests have all layouts of all structures.
QUICK = [("n_m", "auto", "cut"), ("fan_in", "explicit", "both")]


@few(1)
@pytest.mark.parametrize(("structure", "kind", "layout"), QUICK)
def test_the_same_masks_on_eight_devices(structure, kind, layout):
    check_eight(structure, kind, layout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("structure", "kind", "layout"),
    [(s, "explicit", layout) for s, layout in EXPLICIT]
    + [(s, "auto", layout) for s in STRUCTURES for layout in LAYOUTS],
)
def test_the_same_masks_in_every_layout(structure, kind, layout):
    check_eight(structure, kind, layout)


@pytest.mark.parametrize(("structure", "layout"), REFUSED)
def test_what_explicit_axes_cannot_hold_is_refused(structure, layout):
    with pytest.raises(
        ValueError, match=r"pieces of .*, which groups of 4 do not fit; expected pieces of a multiple of 4"
    ):
        on_eight(structure, "explicit", layout)


# --- Units and channels, of which one lies on several devices -------------------------------------------------------


UNITS = {  # structure, layout, shape of a leaf, and how its axes lie on a mesh of 2 by 4
    "inputs of filters": (filters(), "in out", (16, 24), P("a")),
    "both axes of filters": (filters(), "out in", (16, 24), P("a", "b")),
    "filters of a convolution": (filters(), "window window in out", (1, 2, 8, 16), P(None, None, "a", "b")),
    "layers of filters": (filters(), "stack in out", (4, 16, 24), P("b", "a")),
    "inputs of heads": (heads(), "in out out", (16, 8, 8), P("a", "b")),
    "within heads": (heads(), "in out out", (16, 8, 8), P(None, "a", "b")),
    "heads that are read": (heads(), "in in out", (8, 8, 16), P(None, "b", "a")),
}
RULES = ["rigl", "set", "top_kast"]  # the masks of the last are nothing but repeated flags of units


def short_run(method, layout, shapes, place, steps=3):
    """All masks of a short run."""
    tx = dstjax.sparsify(optax.sgd(1.0), method, layout=layout, seed=1)

    def draw(t):
        rng = np.random.default_rng(t)
        return place({n: np.asarray(rng.standard_normal(s), np.float32) for n, s in shapes.items()})

    params = draw(0)
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    step, history = jax.jit(tx.update), [dstjax.get_masks(state)]
    for t in range(1, steps + 1):
        updates, state = step(draw(t), state, params)
        params = optax.apply_updates(params, updates)
        history.append(dstjax.get_masks(state))
    return history


def check_units(kind, specs, run):
    """The masks of one device, each cut like its leaf."""
    expected = run(lambda tree: jax.tree.map(jnp.asarray, tree))
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(KINDS[kind],) * 2)
    with jax.set_mesh(mesh):
        where = {n: NamedSharding(mesh, spec) for n, spec in specs.items()}
        found = run(lambda tree: jax.device_put(tree, where))
    for masks, one in zip(found, expected, strict=True):
        for name, mask in masks.items():
            np.testing.assert_array_equal(mask, one[name])
            assert mask.sharding.is_equivalent_to(where[name], mask.ndim), (name, mask.sharding)
    assert any((one[n] != expected[0][n]).any() for one in expected for n in one)


def check_case(case, kind, rule):
    structure, layout, shape, spec = UNITS[case]
    drop = {} if rule == "top_kast" else {"drop_fraction": 0.5, "drop_schedule": "constant"}
    method = methods.get(rule, sparsity=0.5, update_period=1, end_step=9, structure=structure, **drop)
    check_units(kind, {"w": spec}, lambda place: short_run(method, layout, {"w": shape}, place))


@pytest.mark.parametrize(
    ("case", "kind", "rule"),
    [
        ("filters of a convolution", "explicit", "rigl"),
        ("within heads", "explicit", "set"),
        ("inputs of filters", "auto", "top_kast"),
    ],
)
def test_units_that_lie_on_several_devices(case, kind, rule):
    check_case(case, kind, rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", UNITS)
def test_units_that_lie_on_several_devices_in_every_layout(case, kind, rule):
    check_case(case, kind, rule)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_that_lie_on_several_devices(kind):
    def network(params, x):
        return jax.nn.relu(x @ params["a"] + params["bias"][None]) @ params["b"]

    shapes = {"a": (16, 24), "b": (24, 8), "bias": (24,)}
    found = program.channels(network, {n: np.ones(s, np.float32) for n, s in shapes.items()}, np.ones((2, 16)))
    method = methods.gmp(sparsity=0.5, update_period=1, end_step=3, structure=channels(found))
    specs = {"a": P("a", "b"), "b": P("b"), "bias": P("b")}
    layout = {"^.$": "in out", "bias": None}
    check_units(kind, specs, lambda place: short_run(method, layout, shapes, place))
