"""One context of MLIR for many programs, as jax 0.12 has it too.

Older jax makes one for every program, which takes as long as a small program itself, and eager tests have thousands of
small ones. This reaches into a private module of jax, and does nothing where that has changed.
"""

import threading
from collections.abc import Callable
from typing import Any

USES = 100  # of a context: what it knows of programs stays in memory as long as it does


class _Held(threading.local):
    """The context of a thread: a dialect that one thread registers must not meet another."""

    context: Any = None
    uses = 0


def share() -> None:
    """Makes programs share contexts, from here on."""
    try:
        from jax._src.interpreters import mlir
    except ImportError:
        return
    make: Callable[[], Any] | None = getattr(mlir, "make_ir_context", None)
    if make is None or hasattr(mlir, "_thread_local_context"):
        return
    held = _Held()

    def shared() -> Any:
        if held.uses % USES == 0:
            held.context = make()
        held.uses += 1
        return held.context

    mlir.make_ir_context = shared
