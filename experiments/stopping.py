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
    """Answers signals for a command: by :class:`Interrupted`, or by the end of the process where nobody answers."""

    def __init__(self, last_words: str) -> None:
        self.last_words = last_words
        self.answered, self.over = threading.Event(), threading.Event()

    def __call__(self, number: int, frame: Any) -> None:
        """The handler, which Python calls between two of its own instructions."""
        self.answered.set()
        raise Interrupted(number)

    def listen(self, end: int) -> None:
        """Reads the numbers of signals, which come whatever the main thread does."""
        number = os.read(end, 1)
        if not number or not number[0]:
            return
        answered = self.answered.wait(ANSWER_SECONDS)
        if (answered and self.over.wait(SAVING_SECONDS)) or self.over.is_set():
            return
        print(f"{signal.Signals(number[0]).name}: {self.last_words}", file=sys.stderr, flush=True)
        os._exit(128 + number[0])


@contextlib.contextmanager
def watching(last_words: str) -> Iterator[None]:
    """Within, signals raise :class:`Interrupted`, and end the process where that takes too long.

    Args:
      last_words: said where the process ends so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = Watch(last_words)
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
    before: dict[int, Any] = {}

    def keep(number: int, frame: Any) -> None:
        if isinstance(watch := before.get(number), Watch):
            watch.answered.set()
        if kept:
            raise Interrupted(number)
        kept.append(number)

    before.update(_install(keep))
    try:
        yield lambda: kept[0] if kept else 0
    finally:
        _put_back(before)


def _install(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Sets a handler, but for signals that are ignored, as under nohup; returns those of before."""
    numbers = [getattr(signal, name) for name in NAMES]
    return {n: signal.signal(n, handler) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}


def _put_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
