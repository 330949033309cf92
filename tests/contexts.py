"""One context of MLIR for all programs of a module of tests.

jax makes one for every program, which takes as long as a small program itself, and eager tests have thousands of small
ones. Whoever uses dstjax has none of this: it reaches into a private module of jax, and does nothing where that has
changed.
"""

from collections.abc import Callable
from typing import Any

_held: list[Any] = []


def share() -> None:
    """Makes programs take the context that is held, from here on."""
    try:
        from jax._src.interpreters import mlir
    except ImportError:
        return
    make: Callable[[], Any] | None = getattr(mlir, "make_ir_context", None)
    if make is None:
        return

    def shared() -> Any:
        if not _held:
            _held.append(make())
        return _held[0]

    mlir.make_ir_context = shared


def forget() -> None:
    """Lets go of the context: what it knows of programs stays in memory as long as it does."""
    _held.clear()
