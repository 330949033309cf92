"""Signals, heard as on a terminal.

A shell that runs a command in the background has it, and all that it starts, ignore ^C; ``nohup`` the end of the
terminal.
"""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def hearing() -> Iterator[None]:
    """Within, this process and those that it starts hear the signals that they would ignore."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    ignored = [number for number in handlers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
