"""Two processes of four devices each draw and rewire the masks that one device does."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """
    import hashlib, sys
    import numpy as np

    process, processes, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    import jax
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", num_processes=processes, process_id=process)
    import jax.numpy as jnp
    import optax
    import dstjax

    rng = np.random.default_rng(0)
    host = {"rows": rng.normal(size=(64, 32)), "grid": rng.normal(size=(32, 64)), "bias": np.zeros(16)}
    host = {name: np.round(x, 1).astype(np.float32) for name, x in host.items()}  # rounded: plenty of ties
    kind = getattr(jax.sharding.AxisType, sys.argv[4])
    if processes > 1:
        mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
        jax.set_mesh(mesh)
        specs = {"rows": jax.P("a"), "grid": jax.P("b", "a"), "bias": jax.P()}
        place = lambda x, spec: jax.make_array_from_callback(x.shape, jax.NamedSharding(mesh, spec), lambda i: x[i])
        params = {name: place(x, specs[name]) for name, x in host.items()}
    else:
        params = {name: jnp.asarray(x) for name, x in host.items()}

    method = dstjax.methods.get(sys.argv[5], sparsity=0.75, update_period=2, end_step=20)
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method, seed=7)

    @jax.jit
    def run(params):
        state = tx.init(params)
        params = dstjax.apply_masks(params, state)

        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda x: jnp.round(2 * x, 1) + 0.1, params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), length=9)
        masks = {name: mask for name, mask in dstjax.get_masks(state).items() if mask is not None}
        if processes > 1:  # gathered only to be compared
            whole = jax.NamedSharding(mesh, jax.P())
            masks = {n: jax.sharding.reshard(m, whole) if kind.name == "Explicit" else
                     jax.lax.with_sharding_constraint(m, whole) for n, m in masks.items()}
        return masks

    masks = run(params)
    digest = hashlib.sha256(b"".join(np.asarray(masks[name]).tobytes() for name in sorted(masks))).hexdigest()
    print("masks", digest, sum(int(np.asarray(m).sum()) for m in masks.values()), flush=True)
"""


def masks_of(processes: int, kind: str, method: str) -> set[str]:
    """The digests that the processes of one run print."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    devices = {1: 1, 2: 4}[processes]
    env = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", textwrap.dedent(RUN)]
    started = [
        subprocess.Popen(
            [*command, str(i), str(processes), port, kind, method],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        results = [p.communicate(timeout=240) for p in started]
    finally:
        for p in started:
            p.kill()
    for p, (_, error) in zip(started, results, strict=True):
        assert p.returncode == 0, error
    return {line for out, _ in results for line in out.splitlines() if line.startswith("masks")}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param("Auto", "dst_ee", marks=pytest.mark.slow),  # by default tests/experiments/training/test_hosts.py
        pytest.param("Explicit", "set", marks=pytest.mark.slow),
        pytest.param("Explicit", "dst_ee", marks=pytest.mark.slow),
    ],
)
def test_two_processes_make_the_masks_of_one(kind: str, method: str) -> None:
    alone = masks_of(1, kind, method)
    assert len(alone) == 1
    assert int(next(iter(alone)).split()[-1]) == 64 * 32 // 4 + 32 * 64 // 4
    assert masks_of(2, kind, method) == alone
