"""What a figure was measured on, and with."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from experiments.training.recording import versions

SETTINGS = ("XLA_FLAGS", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_NUM_THREADS")  # and all that begin with MALLOC_
HERE = Path(__file__).parent


def facts(device: jax.Device, command: str) -> dict[str, Any]:
    """The machine, the versions and the settings, for the first line of a file of results."""
    return {
        "command": command,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": {"platform": device.platform, "kind": device.device_kind},
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": _meminfo("MemTotal"),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": versions(),
        "commit": commit(),
        "malloc": malloc(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k in SETTINGS or k.startswith("MALLOC_")},
        "load": list(os.getloadavg()),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    return _meminfo("MemAvailable")


def commit() -> str:
    """The commit of the sources, with a plus if a tracked file differs from it; 'unknown' outside git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/dstjax", ":/experiments")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def malloc() -> str:
    """The allocator in words: large arrays cost page faults, and this decides how many."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        pages = text[text.index("[") + 1 : text.index("]")]
    except (OSError, ValueError):
        pages = "unknown"
    preload = os.environ.get("LD_PRELOAD", "")
    library = preload or (" ".join(platform.libc_ver()) if sys.platform == "linux" else "system")
    return f"{library}, {tunables or 'default'}, transparent huge pages: {pages}"


def _meminfo(field: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(field + ":"))
    except (OSError, StopIteration):
        return None
