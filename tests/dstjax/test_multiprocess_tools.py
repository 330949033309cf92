"""Two processes, each with a part of every tensor: the masks of one, and an error where only a whole will do."""

import pytest

from tests.processes import printed

PROGRAM = """
import numpy as np
import optax

import dstjax
from dstjax import exchange, methods

mesh = jax.make_mesh((4,), ("d",), axis_types=(getattr(jax.sharding.AxisType, given[0]),))


def spread(seed):
    draw = np.random.default_rng(seed).standard_normal
    found = {}
    for name, shape, spec in (("first", (8, 32), jax.P(None, "d")), ("last", (32, 4), jax.P("d"))):
        whole = np.asarray(draw(shape), np.float32)
        found[name] = jax.make_array_from_callback(shape, jax.NamedSharding(mesh, spec), lambda at, x=whole: x[at])
    return found


times = dict(sparsity=0.6, update_period=2, end_step=30)
tx = dstjax.sparsify(optax.adam(0.01), methods.rigl(**times), track=("exploration", "survival"))
params, state = dstjax.start(tx, spread(0))
update = jax.jit(tx.update)
for t in range(1, 5):
    updates, state = update(spread(t), state, params)
    params = optax.apply_updates(params, updates)
masks = dstjax.get_masks(state)
state = dstjax.set_masks(state, masks)
other = methods.static(sparsity=0.8)
params, adopted = dstjax.adopt(state, params, other)
taken = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.6), initial_masks=masks).init(params)
everywhere = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(mesh, jax.P()))
for tree in (masks, dstjax.get_masks(adopted), dstjax.get_masks(taken)):
    for x in everywhere(tree).values():
        print("found", np.packbits(np.asarray(x)).tobytes().hex())
print("found", dstjax.masks.count_active(state), dstjax.check_sparse(params, adopted))
print("found", float(dstjax.metrics.exploration_rate(state)), float(dstjax.metrics.survival_rate(state)))
if processes > 1:
    try:
        exchange.save_npz("lost.npz", params, adopted)
    except ValueError as error:
        assert "lies on devices of several processes" in str(error), error
    else:
        raise AssertionError("a part of the weights was written")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_two_processes_train_as_one_does(kind):
    (alone,) = printed(PROGRAM, 1, kind, devices=4)
    assert len(alone) == 8
    assert printed(PROGRAM, 2, kind, devices=2) == [alone, alone]
