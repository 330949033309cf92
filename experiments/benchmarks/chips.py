"""Devices that are not here, to compile for: their compilers come with packages and run on a CPU."""

import importlib.util
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from experiments.benchmarks import layouts

# One chip: the smallest topology that has such a chip, whose first device is taken.
TPUS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
# What libtpu would otherwise ask a machine that has TPUs; and that several processes may compile at once.
ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# A GPU as XLA describes one, from the data sheet of NVIDIA's H100 (SXM, 80 GB).
GPUS: dict[str, Mapping[str, object]] = {
    "h100": {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": 233472,
        "shared_memory_per_block_optin": 232448,
        "threads_per_core_limit": 2048,
        "core_count": 132,
        "fpus_per_core": 128,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": 3_352_320_000_000,
        "l2_cache_size": 52_428_800,
        "clock_rate_ghz": 1.98,
        "device_memory_size": 84_942_979_072,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "cuda_compute_capability": "{ major: 9 }",
    }
}
USUAL = (*TPUS, "v5e:16x16")
EXPECTED = f"{', '.join(TPUS)}, a slice such as v5e:16x16, h100, or so many of them as in h100:8"


class Target(NamedTuple):
    """What programs are compiled for."""

    name: str
    mesh: Mesh
    platform: str  # as ``jax.default_backend`` names it where such a device is
    compiler: tuple[str, str]  # package and version


def target(name: str) -> Target:
    """One chip as a mesh of Auto axes, or several as one of Explicit axes.

    Args:
      name: of TPUS or GPUS for one; with a colon TPUs as libtpu names a slice, or a number of GPUs on one machine.

    Raises:
      ValueError: the compiler is not installed, or does not know the devices.
    """
    kind, _, shape = name.partition(":")
    if kind in GPUS:
        platform, package = "gpu", "jax-cuda12-pjrt"
        found = _gpus(name, kind, shape or "1")
    else:
        platform, package = "tpu", "libtpu"
        found = _tpus(name, shape)
    one = not shape or len(found) == 1
    mesh = layouts.mesh(1, "auto", found[:1]) if one else layouts.mesh(len(found), "explicit", found)
    return Target(name, mesh, platform, (package, version(package)))


def _tpus(name: str, shape: str) -> list[jax.Device]:
    if not shape and name not in TPUS:
        raise ValueError(f"topology {name!r} is not known; expected {EXPECTED}.")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu, the compiler for TPUs, is not installed here; `make tpu` installs it into .venv-tpu.")
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(TPUS.get(name, name), "tpu").devices)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"topology {name!r} is not accepted by libtpu {version('libtpu')}: {error}. Expected {EXPECTED}."
        ) from error


def _gpus(name: str, kind: str, number: str) -> list[jax.Device]:
    if not number.isdecimal() or not int(number):
        raise ValueError(f"topology {name!r} is not known; expected {EXPECTED}.")
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise ValueError(
            "jax-cuda12-plugin, the compiler for CUDA, is not installed here; `make cuda` installs it into .venv-cuda."
        )
    from jax.experimental import topologies

    described = " ".join(f"{field}: {value}" for field, value in GPUS[kind].items()).replace(": {", " {")
    config = f'gpu_device_info {{ {described} }} platform_name: "CUDA" dnn_version_info {{ major: 9 }} '
    config += f'device_description_str: "{kind}"'
    shape = f"1x1x{number}"  # partitions, hosts, and devices of each
    try:
        return list(topologies.get_topology_desc(name, "cuda", topology=shape, target_config=config).devices)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"topology {name!r} is not accepted by jax's CUDA plugin: {error}.") from error
