"""Runs the work of a process in a child, so that one line is left of it where C++ code ends it.

JAX's runtime ends a process at once, with a stack of C++ functions, when it loses the others of a run. Nothing within
that process can prevent it.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable

LOST = (
    "error: another process of this run has ended or cannot be reached; start the same command again on every host, "
    "and it goes on from the last checkpoint."
)
# What XLA, gRPC and Abseil write to the terminal about a connection that is lost.
NOISE = re.compile(
    rb"[EWIF]\d{4} |\*\*\* |\s+@ +\S|RPC: |\s*$|:UNKNOWN:|.*CoordinationService|WARNING: All log|terminate called"
)
PR_SET_PDEATHSIG = 1


def supervised(work: Callable[[], int]) -> int:
    """Runs ``work`` in a child and returns its exit status, or 2 and a line where it was ended by its runtime.

    To be called before anything starts threads. Signals go to the child.
    """
    read, write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        os.close(read)
        os.dup2(write, 2)
        os.close(write)
        _end_with(parent)
        os.setpgid(0, 0)  # ^C reaches the parent alone, which passes it on
        sys.exit(work())
    os.close(write)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {n: signal.signal(n, lambda number, frame: _send(child, number)) for n in numbers}
    try:
        with os.fdopen(read, "rb") as errors:
            for line in errors:
                if not NOISE.match(line):
                    sys.stderr.buffer.write(line)
                    sys.stderr.flush()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status == -signal.SIGABRT:
        print(LOST, file=sys.stderr)
        return 2
    return status if status >= 0 else 128 - status


def _send(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _end_with(parent: int) -> None:
    """Ends this process when the parent is killed, where the system can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
