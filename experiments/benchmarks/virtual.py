"""Runs a module in a process of its own on many virtual devices of the CPU."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PER_PROCESS = 2048  # no process has more virtual devices


def run(module: str, devices: int, *arguments: str, timeout: float = 1800) -> list[dict[str, Any]]:
    """The JSON objects that ``python -m module --devices N ...`` prints, a line each.

    Beyond 2,048 devices a second process lends half of them; it runs nothing. The module calls :func:`join` first.

    Raises:
      RuntimeError: the process failed; holds the end of its error output.
    """
    processes = 1 if devices <= PER_PROCESS else 2
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    kept = [f for f in environment.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
    environment["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={devices // processes}"])
    environment["DSTJAX_BENCHMARK_PROCESSES"] = f"{processes} {_free_port()}"
    command = [sys.executable, "-m", module, "--devices", str(devices), *arguments]
    others = [
        subprocess.Popen(
            [*command, "--rank", str(rank)],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for rank in range(1, processes)
    ]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    finally:
        for other in others:
            other.kill()
            other.wait()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def join(rank: int) -> None:
    """Connects the processes of :func:`run`, where there is more than one; those of a rank above 0 end here."""
    processes, port = (int(x) for x in os.environ.get("DSTJAX_BENCHMARK_PROCESSES", "1 0").split())
    if processes == 1:
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, rank)
    jax.devices()  # all processes list their devices together
    if rank:
        threading.Event().wait()  # until it is killed


def leave() -> None:
    """Ends the process without waiting for the others, which wait for nothing."""
    sys.stdout.flush()
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
