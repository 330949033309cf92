"""Signals: raised in a command, kept in a loop, and an end where nobody answers."""

import os
import signal
import subprocess
import sys

import pytest

from experiments import stopping

NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_command_is_interrupted(number):
    before = signal.getsignal(number)
    with pytest.raises(stopping.Interrupted) as raised, stopping.watching("again"):
        os.kill(os.getpid(), number)
    assert raised.value.number == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", NUMBERS)
def test_a_loop_keeps_the_first_signal_and_ends_at_the_second(number):
    with stopping.watching("again"), stopping.deferred() as asked:
        assert asked() == 0
        os.kill(os.getpid(), number)
        assert asked() == number
        with pytest.raises(stopping.Interrupted):
            os.kill(os.getpid(), number)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.watching("again"), stopping.deferred() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_in_compiled_code_ends_all_the_same():
    """A call into C that Python's handlers wait for: here one that is given all the time in the world."""
    script = (
        "import ctypes, signal, threading, os\nfrom experiments import stopping\nstopping.ANSWER_SECONDS = 0.5\n"
        "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        "with stopping.watching('the same command goes on.'):\n"
        "    lock = ctypes.create_string_buffer(64)\n"
        "    libc = ctypes.CDLL(None)\n"
        "    libc.pthread_mutex_lock(lock)\n"
        "    libc.pthread_mutex_lock(lock)\n"  # waits for itself
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == "SIGTERM: the same command goes on.\n"
