"""Signals that ask a process to end: a loop finishes its step, saves and leaves; nothing else delays them for long."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGTERM is what schedulers send before they take a machine away
ANSWER_SECONDS = 10  # a program that XLA compiles is not interrupted: the process ends without it
SAVING_SECONDS = 60


class Interrupted(KeyboardInterrupt):  # no error, as its base is none
    """A signal has asked the process to end."""

    def __init__(self, number: int, said: str = "") -> None:
        """``said``: what has become of the work, '' where nothing is known."""
        super().__init__(said)
        self.number, self.said = number, said


class Watch:
    """Ends the process of a command when a signal asks for it, but lets a loop that keeps signals save first.

    A thread does so: what a handler raises is lost where Python happens to collect garbage or to import C code, and is
    not even raised before a call of C code returns.
    """

    def __init__(self, last_words: str, raised: tuple[int, ...]) -> None:
        """``raised``: signals that raise :class:`Interrupted` in place of the end."""
        self.last_words, self.raised = last_words, raised
        self.keeping = False
        self.answered, self.over = threading.Event(), threading.Event()

    def __call__(self, number: int, frame: Any) -> None:
        """The handler, which Python calls between two of its own instructions."""
        if number in self.raised:
            raise Interrupted(number)

    def listen(self, end: int) -> None:
        """Reads the numbers of signals, which come whatever the main thread does."""
        while (number := os.read(end, 1)[0]) != 0:
            if number not in (getattr(signal, name) for name in NAMES):
                continue
            if self.keeping:
                if self.answered.wait(ANSWER_SECONDS) and self.over.wait(SAVING_SECONDS):
                    continue
            elif number in self.raised:
                continue
            if not self.over.is_set():
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                print(f"{signal.Signals(number).name}: {self.last_words}", file=sys.stderr, flush=True)
                os._exit(128 + number)


@contextlib.contextmanager
def watching(last_words: str, *, program: bool = True) -> Iterator[None]:
    """Within, signals end the process with a line; see :class:`Watch`.

    Args:
      last_words: the line, after the name of the signal.
      program: whether the command is the program; within another one, as in a notebook, ^C raises :class:`Interrupted`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = Watch(last_words, () if program else (signal.SIGINT,))
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch.listen, args=(read,), daemon=True)
    thread.start()
    handlers = _install(watch)
    try:
        yield
    finally:
        _put_back(handlers)
        watch.over.set()
        signal.set_wakeup_fd(before)
        os.write(write, b"\0")
        thread.join()
        os.close(read)
        os.close(write)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Within, the first signal is kept: the function that is given returns its number, 0 before there is one.

    The second one raises :class:`Interrupted`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    kept: list[int] = []

    def keep(number: int, frame: Any) -> None:
        for watch in watches:
            watch.answered.set()
        if kept:
            raise Interrupted(number)
        kept.append(number)

    watches = {w for name in NAMES if isinstance(w := signal.getsignal(getattr(signal, name)), Watch)}
    for watch in watches:
        watch.keeping = True
    before = _install(keep)
    try:
        yield lambda: kept[0] if kept else 0
    finally:
        _put_back(before)
        if not kept:
            for watch in watches:
                watch.keeping = False


def _install(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Sets a handler, but for signals that are ignored, as under nohup; returns those of before."""
    numbers = [getattr(signal, name) for name in NAMES]
    return {n: signal.signal(n, handler) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}


def _put_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
