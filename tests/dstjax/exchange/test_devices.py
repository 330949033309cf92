"""A state of one device goes on on eight, and comes back, whatever form its masks have there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import exchange, methods

TX = dstjax.sparsify(optax.adam(0.05), methods.dst_ee(sparsity=0.6, update_period=2, end_step=16), track=["survival"])


def trained(params, state, steps=4):
    step = jax.jit(TX.update)
    for _ in range(steps):
        updates, state = step(jax.tree.map(jnp.sin, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def on_eight(params, specs):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return {n: jax.device_put(x, jax.NamedSharding(mesh, specs[n])) for n, x in params.items()}


@pytest.mark.parametrize(("rows", "axis"), [(128, 0), (16, 0), (8, 0), (24, 1), (7, 1)])
def test_training_goes_on_on_other_devices(rows, axis):
    params = {"kernel": jax.random.normal(jax.random.key(0), (rows, 16)), "bias": jnp.zeros(16)}
    split = on_eight(params, {"kernel": jax.P(*[None] * axis, "x"), "bias": jax.P()})
    one, fresh = trained(*dstjax.start(TX, params)), dstjax.start(TX, split)
    moved = exchange.place_like(one, fresh)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), moved) == jax.tree.map(lambda x: (x.shape, x.dtype), fresh)
    assert moved[1].masks["kernel"].sharding.is_equivalent_to(fresh[1].masks["kernel"].sharding, 2)
    assert len(moved[0]["kernel"].sharding.device_set) == 8
    for x, y in zip(*map(jax.tree.leaves, (exchange.place_like(moved, one), one)), strict=True):
        np.testing.assert_array_equal(x, y)
    here, there = trained(*one), trained(*moved)
    np.testing.assert_array_equal(dstjax.get_masks(here[1])["kernel"], dstjax.get_masks(there[1])["kernel"])
    np.testing.assert_allclose(here[0]["kernel"], there[0]["kernel"], rtol=1e-6)
    assert dstjax.check_sparse(*there)


def test_what_does_not_fit_is_refused():
    one = dstjax.start(TX, {"kernel": jnp.ones((16, 16))})
    with pytest.raises(
        ValueError, match=r"leaf \[0\]\['kernel'\] has shape \(16, 16\) and dtype float32; expected \(8, 8\)"
    ):
        exchange.place_like(one, dstjax.start(TX, {"kernel": jnp.ones((8, 8))}))
    with pytest.raises(ValueError, match="expected a state of the same optimiser and parameters"):
        exchange.place_like(one, dstjax.start(TX, {"w": jnp.ones((16, 16))}))
    with pytest.raises(ValueError, match=r"has shape .* and dtype uint8; expected .* and float32"):
        exchange.place_like({"a": jnp.ones((2, 16), jnp.uint8)}, {"a": jnp.ones((2, 16))})


def test_arrays_of_numpy_are_placed_and_shapes_are_no_place():
    one = dstjax.start(TX, {"kernel": jax.random.normal(jax.random.key(0), (16, 16))})
    read = jax.tree.map(np.asarray, one)  # as a checkpoint may give them
    moved = exchange.place_like(read, one)
    for x, y in zip(jax.tree.leaves(moved), jax.tree.leaves(one), strict=True):
        assert isinstance(x, jax.Array)
        np.testing.assert_array_equal(x, y)
    for like in (read, jax.eval_shape(lambda: one)):
        with pytest.raises(ValueError, match=r"in like; expected arrays on devices, as dstjax.start gives them"):
            exchange.place_like(one, like)
