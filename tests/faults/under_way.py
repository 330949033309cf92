"""Faults while a run trains, in this process: what the system refuses, and what is deleted under its feet."""

import contextlib
import errno
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.faults.lab import Lab, Outcome, arguments, command


class NotPermittedError(Exception):
    """This machine does not let the fault happen."""


@contextlib.contextmanager
def disk(lab: Lab, kilobytes: int) -> Iterator[Path]:
    """A file system in memory of that size."""
    place = lab.work / "disk"
    place.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode:
        raise NotPermittedError(made.stderr.decode())
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def full_disk(lab: Lab, rng: random.Random) -> Outcome:
    """The file system is full after some of the run, from nothing or half-way."""
    with disk(lab, 100_000) as place:
        started = rng.random() < 0.5
        if started:
            shutil.copytree(lab.half(), place / "run")
        used = int(subprocess.run(["du", "-sk", place], capture_output=True, text=True, check=True).stdout.split()[0])
        remount(place, f"size={used + 4 * rng.randrange(1, 40)}k")
        ended = command(lab.train, arguments(place / "run"))
        return lab.outcome(place / "run", ended, lambda: remount(place, "size=100000k"), had=started)


def read_only(lab: Lab, rng: random.Random) -> Outcome:
    """The file system is read-only when the run starts, or goes on."""
    with disk(lab, 100_000) as place:
        if rng.random() < 0.7:
            shutil.copytree(lab.half() if rng.random() < 0.7 else lab.finished(), place / "run")
        remount(place, "ro")
        ended = command(lab.train, arguments(place / "run"))
        return lab.outcome(place / "run", ended, lambda: remount(place, "rw"))


def read_only_under_way(lab: Lab, rng: random.Random) -> Outcome:
    """The file system becomes read-only, as the kernel makes one that has errors."""
    with disk(lab, 100_000) as place:

        def strike() -> None:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=False)  # refused while a file is written
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(place / "run" / "metrics.jsonl"))

        with at_record(rng.randrange(1, 18), strike):
            ended = command(lab.train, arguments(place / "run"))
        return lab.outcome(place / "run", ended, lambda: remount(place, "rw"), had=False)


def file_size_limit(lab: Lab, rng: random.Random) -> Outcome:
    """No file may grow beyond a size, as ``ulimit -f`` has it."""
    started = rng.random() < 0.5
    workdir = lab.half() if started else lab.work / "new"
    shutil.rmtree(lab.work / "new", ignore_errors=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def back() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    resource.setrlimit(resource.RLIMIT_FSIZE, (rng.choice((300, 1000, 2000, 4000, 6000)), before[1]))
    try:
        ended = command(lab.train, arguments(workdir))
    finally:
        back()
    return lab.outcome(workdir, ended, back, had=started)


def few_files(lab: Lab, rng: random.Random) -> Outcome:
    """The process may open few files more than it has now."""
    started = rng.random() < 0.5
    workdir = lab.half() if started else lab.work / "new"
    shutil.rmtree(lab.work / "new", ignore_errors=True)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = max(map(int, os.listdir("/proc/self/fd")))

    def back() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    resource.setrlimit(resource.RLIMIT_NOFILE, (now + rng.randrange(8, 14), before[1]))
    try:
        ended = command(lab.train, arguments(workdir))
    finally:
        back()
    return lab.outcome(workdir, ended, back, had=started)


@contextlib.contextmanager
def at_record(number: int, strike: Any) -> Iterator[None]:
    """Does something before that record of metrics.jsonl is written."""
    from experiments.training.recording import Metrics

    write, count = Metrics.write, [0]

    def writing(self: Any, *args: Any, **kwargs: Any) -> None:
        count[0] += 1
        if count[0] == number:
            strike()
        write(self, *args, **kwargs)

    with mock.patch.object(Metrics, "write", writing):
        yield


def failing_calls(lab: Lab, rng: random.Random) -> Outcome:
    """One call of the system fails, once: a write, a sync, a rename, a folder that is made or listed."""
    started = rng.random() < 0.5
    workdir = lab.half() if started else lab.work / "new"
    shutil.rmtree(lab.work / "new", ignore_errors=True)
    name = rng.choice(("fsync", "replace", "rename", "mkdir", "unlink", "scandir"))
    code = rng.choice((errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES))
    number, count, call = rng.randrange(1, 9), [0], getattr(os, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        inside = name == "fsync" or str(args[0] if args else "").startswith(str(workdir))
        count[0] += inside
        if inside and count[0] == number:
            raise OSError(code, os.strerror(code), str(args[0]))
        return call(*args, **kwargs)

    with mock.patch.object(os, name, failing):
        ended = command(lab.train, arguments(workdir))
    return lab.outcome(workdir, ended, lambda: None, had=started)


def deleted(lab: Lab, rng: random.Random) -> Outcome:
    """The workdir, its checkpoints, one of them or its records are deleted while it trains."""
    workdir = lab.work / "new"
    shutil.rmtree(workdir, ignore_errors=True)
    what = rng.choice((".", "checkpoints", "metrics.jsonl", "checkpoints/16", "config.json"))

    def strike() -> None:
        path = workdir / what
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    with at_record(rng.randrange(6, 20), strike):
        ended = command(lab.train, arguments(workdir))
    return lab.outcome(workdir, ended, lambda: shutil.rmtree(workdir, ignore_errors=True), had=False)


def two_runs(lab: Lab, rng: random.Random) -> Outcome:
    """Another process trains in the folder already."""
    import fcntl

    workdir = lab.half()
    with (workdir / "config.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # locks are of the open file, so it is as if another process had it
        ended = command(lab.train, arguments(workdir))
    return lab.outcome(workdir, ended, lambda: None)


def odd_names(lab: Lab, rng: random.Random) -> Outcome:
    """A workdir with a name that is too long, not UTF-8, or takes a file for a folder."""
    (lab.work / "a file").touch()
    name = rng.choice(
        (
            "x" * rng.randrange(256, 400),
            os.fsdecode(b"caf\xe9"),
            os.fsdecode(b"\xff/run"),
            "a file/run",
            "a file",
            "/".join(["y" * 200] * 25),
            "no\0name",
            "\U0001f600" * rng.randrange(64, 90),
        )
    )
    return lab.outcome(lab.work / name, command(lab.train, arguments(lab.work / name)), None, had=False)
