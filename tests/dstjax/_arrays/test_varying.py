"""What varies over the devices of a ``shard_map``, and that nothing happens elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dstjax._arrays.varying import varying_as

NUMBERS = {"float": np.array([-1.5, 0.0, np.inf], np.float32), "bool": np.array([True, False]), "byte": np.uint8(200)}


def test_elsewhere_a_tree_is_itself():
    tree = {k: jnp.asarray(v) for k, v in NUMBERS.items()}
    assert varying_as(tree, jnp.ones(3)) is tree
    assert str(jax.make_jaxpr(lambda t: varying_as(t, t["float"]))(tree)).count("add") == 0


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4)])
def test_numbers_stay_and_their_types_vary(shape):
    mesh = jax.make_mesh((8,), ("device",))

    def varies(x):
        return "{V:device}" in str(jax.typeof(x))

    def body(piece):
        tree = jax.tree.map(jnp.asarray, NUMBERS)
        like = jnp.zeros(shape, piece.dtype) + piece[0]
        assert not varies(jax.tree.leaves(varying_as(tree, jax.ShapeDtypeStruct(shape, jnp.float32)))[0])
        found = varying_as(tree, jnp.ones(2), like)
        assert all(varies(x) for x in jax.tree.leaves(found))
        return jax.tree.map(lambda x: x[None], found)

    with jax.set_mesh(mesh):
        pieces = jax.device_put(np.arange(8.0, dtype=np.float32), jax.NamedSharding(mesh, P("device")))
        found = jax.jit(jax.shard_map(body, in_specs=P("device"), out_specs=P("device")))(pieces)
    for name, x in NUMBERS.items():
        np.testing.assert_array_equal(found[name], np.stack([x] * 8))
        assert found[name].dtype == x.dtype
