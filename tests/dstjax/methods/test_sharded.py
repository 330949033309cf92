"""Methods that read a whole layer or network choose the same masks on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dstjax
from dstjax import methods
from tests.thorough import few, slow

PERIOD = dict(update_period=1, end_step=9)
CASES = [
    ("snfs", dict(PERIOD, drop_schedule="constant"), {}),
    ("dsr", dict(PERIOD, threshold=0.3), {}),
    ("deepr", dict(noise=1.0), {}),
    ("soft_deepr", dict(noise=1.0), {}),
    ("accset", PERIOD, {"metric": 0.5}),
    ("set", dict(PERIOD, grown_std=0.1, grow="one_neighbour"), {}),
    ("rigl", dict(PERIOD, grow="most_neighbours"), {}),
]


def masks_of(method, extra, place):
    rng = np.random.default_rng(0)
    params = place({"w": jnp.asarray(rng.standard_normal((16, 32)), jnp.float32)})
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    start = np.asarray(dstjax.get_masks(state)["w"])
    step = jax.jit(lambda p, s: tx.update(p, s, p, **extra))
    for _ in range(2):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    return start, np.asarray(dstjax.get_masks(state)["w"])


MESHES = [
    pytest.param(AxisType.Auto, P("x"), id="rows", marks=pytest.mark.slow),
    pytest.param(AxisType.Explicit, P(None, "x"), id="columns", marks=pytest.mark.slow),
    pytest.param(AxisType.Explicit, P("x", "y"), id="both"),
]
QUICK = ("snfs", "deepr")


@few(1)
@pytest.mark.parametrize(("kind", "spec"), MESHES)
@pytest.mark.parametrize(
    ("name", "options", "extra"),
    [case if case[0] in QUICK else slow(*case) for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_the_same_masks_on_meshes(name, options, extra, kind, spec):
    method = methods.get(name, sparsity=0.6, **options)
    start, expected = masks_of(method, extra, lambda params: params)
    if name != "snfs":  # all gradients of inactive weights are zero here, so it grows what it dropped
        assert (start != expected).any()
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        _, found = masks_of(method, extra, lambda params: jax.device_put(params, NamedSharding(mesh, spec)))
    np.testing.assert_array_equal(found, expected)
