"""Two processes, each with a part of every tensor: the masks of one, and an error where only a whole will do."""

import socket
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import sys

import jax
import numpy as np
import optax

processes, number, port = map(int, sys.argv[1:])
jax.config.update("jax_num_cpu_devices", 4 // processes)
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, number)

import dstjax
from dstjax import exchange, methods

mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.KIND,))


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
given = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.6), initial_masks=masks).init(params)
everywhere = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(mesh, jax.P()))
for tree in (masks, dstjax.get_masks(adopted), dstjax.get_masks(given)):
    for x in everywhere(tree).values():
        print(np.packbits(np.asarray(x)).tobytes().hex())
print(dstjax.masks.count_active(state), dstjax.check_sparse(params, adopted))
print(float(dstjax.metrics.exploration_rate(state)), float(dstjax.metrics.survival_rate(state)))
if processes > 1:
    try:
        exchange.save_npz("lost.npz", params, adopted)
    except ValueError as error:
        assert "lies on devices of several processes" in str(error), error
    else:
        raise AssertionError("a part of the weights was written")
"""


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def printed(kind, processes):
    program, port = textwrap.dedent(PROGRAM).replace("KIND", kind), free_port()
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, str(processes), str(i), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    found = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0] * processes, found
    return [[line for line in out.splitlines() if "Gloo" not in line and line.strip()] for out, _ in found]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_two_processes_train_as_one_does(kind):
    (alone,) = printed(kind, 1)
    assert len(alone) == 8
    assert printed(kind, 2) == [alone, alone]
