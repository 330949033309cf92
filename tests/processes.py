"""Runs a program as one process, or as several that make up one jax."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a program begins with: `processes`, and the other arguments as `given`.
HEAD = """
import sys

import jax

processes, given = int(sys.argv[1]), sys.argv[4:]
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{sys.argv[3]}", num_processes=processes, process_id=int(sys.argv[2]))
"""


def printed(program: str, processes: int, *given: str, devices: int) -> list[list[str]]:
    """The lines that each process prints that begin with 'found'; ``devices`` of each process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    env = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", HEAD + textwrap.dedent(program), str(processes)]
    started = [
        subprocess.Popen(
            [*command, str(i), port, *given], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
    return [[line for line in out.splitlines() if line.startswith("found")] for out, _ in results]
