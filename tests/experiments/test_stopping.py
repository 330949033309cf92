"""Signals: raised in a command, kept in a loop, and an end where nobody answers."""

import os
import signal
import subprocess
import sys

import pytest

from experiments import stopping

NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def ended(body):
    """How a program ends that does this, indented, under the watch of a command."""
    script = (
        "import ctypes, gc, os, signal, sys, threading, time\nfrom experiments import stopping\n"
        f"stopping.ANSWER_SECONDS = stopping.SAVING_SECONDS = 0.5\nwith stopping.watching('go on.'):\n{body}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", NUMBERS)
def test_a_command_ends_in_a_line(number):
    assert ended(f"    os.kill(os.getpid(), {int(number)})\n    time.sleep(30)") == (
        128 + number,
        f"{number.name}: go on.\n",
    )


def test_a_signal_while_garbage_is_collected_is_not_lost():
    body = (
        "    gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGTERM))\n    gc.collect()\n    time.sleep(30)"
    )
    assert ended(body) == (128 + signal.SIGTERM, "SIGTERM: go on.\n")


def test_a_loop_that_does_not_come_back_is_not_waited_for():
    body = (
        "    with stopping.deferred() as asked:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(30)"
    )
    assert ended(body) == (128 + signal.SIGTERM, "SIGTERM: go on.\n")


def test_in_another_program_the_keyboard_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(stopping.Interrupted), stopping.watching("again", program=False):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


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
    body = (
        "    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        "    lock = ctypes.create_string_buffer(64)\n"
        "    libc = ctypes.CDLL(None)\n"
        "    libc.pthread_mutex_lock(lock)\n"
        "    libc.pthread_mutex_lock(lock)\n"  # waits for itself
    )
    assert ended(body) == (128 + signal.SIGTERM, "SIGTERM: go on.\n")
