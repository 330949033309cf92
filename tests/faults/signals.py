"""Faults of processes: killed, asked to end, with other devices, one of two. Each is a process of its own."""

import contextlib
import importlib.machinery
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.lab import BIT_FOR_BIT, OTHER, REFUSED, ROOT, TRACEBACK, WRONG, Ended, Lab, Outcome, arguments, left

STEPS = "240"  # enough that there is a middle
LEAVE_SECONDS = 30  # on a machine that does other things too
CONTEXT = multiprocessing.get_context("forkserver")  # a process that has imported all there is to import forks others
CONTEXT.set_forkserver_preload(["experiments.train", "experiments.training.run", "experiments.supervising"])


def environment(lab: Lab, devices: int) -> dict[str, str]:
    """That of a process, with the programs that others have compiled."""
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(lab.folder / "programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(ROOT),
    }


def child(given: list[str], others: dict[str, str], files: tuple[str, str]) -> None:
    """The command, which kills itself within a write where FAULTS_CALL says so: in which call, and in which of them."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(others)
    name, number = others.get("FAULTS_CALL", "").partition(":")[::2]
    if name:
        call, count = getattr(os, name), [0]

        def dying(*args: Any, **kwargs: Any) -> Any:
            inside = name == "fsync" or given[3] in str(args[0] if args else "")
            count[0] += inside
            if inside and count[0] == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        setattr(os, name, dying)
    from experiments import train

    sys.modules["__main__"].__spec__ = importlib.machinery.ModuleSpec("experiments.train", None)  # as a user starts it
    sys.exit(train.main(given))


class Child:
    """A process that runs the command; it has all modules from the start, or imports them as a user's does."""

    def __init__(self, lab: Lab, given: list[str], others: dict[str, str], *, bare: bool = False) -> None:
        Child.number = getattr(Child, "number", 0) + 1
        self.files = tuple(str(lab.work / f"{Child.number}.{name}") for name in ("out", "err"))
        for file in self.files:
            Path(file).touch()  # it may be killed before it writes
        self.bare: subprocess.Popen[bytes] | None = None
        if bare:
            with open(self.files[0], "wb") as out, open(self.files[1], "wb") as err:
                self.bare = subprocess.Popen(
                    [sys.executable, "-m", "experiments.train", *given],
                    cwd=lab.folder,
                    env={**os.environ, **others},
                    stdout=out,
                    stderr=err,
                )
            return
        self.forked = CONTEXT.Process(target=child, args=(given, others, self.files))
        self.forked.start()

    def poll(self) -> int | None:
        return self.bare.poll() if self.bare else self.forked.exitcode

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.bare.pid if self.bare else self.forked.pid or 0, number)

    def end(self) -> Ended:
        if self.bare:
            self.bare.wait(300)
        else:
            self.forked.join(300)
        status = self.poll()
        if status is None:
            self.send(signal.SIGKILL)
        out, err = (Path(file).read_text(errors="replace") for file in self.files)
        return Ended(-999 if status is None else status, out, err)


def start(lab: Lab, given: list[str], devices: int = 1, *, bare: bool = False, **others: str) -> Child:
    """Starts the command; ``others``: variables of its environment."""
    return Child(lab, given, {**environment(lab, devices), **others}, bare=bare)


def end(process: Child) -> Ended:
    return process.end()


def whole(lab: Lab, **fields: str) -> Path:
    """A longer run that nothing disturbs."""
    workdir = lab.folder / "-".join(["long", *fields.values()])
    if not (workdir / "summary.json").exists():
        ended = end(start(lab, arguments(workdir, steps=STEPS, **fields)))
        assert ended.status == 0, ended.err
    return workdir


def went_on(lab: Lab, workdir: Path, **fields: str) -> Outcome:
    """Gives the command again, to its end."""
    had = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    ended = end(start(lab, arguments(workdir, steps=STEPS, **fields)))
    text = ended.out + ended.err
    if "Traceback" in text:
        return Outcome(TRACEBACK, text[-2000:])
    if ended.status != 0:
        return Outcome(OTHER, f"{ended.status}: {text[-1500:]}")
    if left(workdir) != left(whole(lab, **fields)):
        return Outcome(WRONG, text[-500:])
    if had and not any(word in text for word in ("going on from", "is finished")):
        return Outcome("silent restart", text[-500:])
    return Outcome(BIT_FOR_BIT, "")


def until_begun(process: Child, workdir: Path, records: int) -> None:
    """Waits for so many records."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= records):
        time.sleep(0.005)


def killed(lab: Lab, rng: random.Random) -> Outcome:
    """SIGKILL, once or twice."""
    workdir = _fresh(lab)
    whole(lab)
    for _ in range(rng.randrange(1, 3)):
        process = start(lab, arguments(workdir, steps=STEPS))
        until_begun(process, workdir, rng.randrange(0, 85))
        time.sleep(0.2 * rng.random())
        process.send(signal.SIGKILL)
        end(process)
    return went_on(lab, workdir)


def killed_within(lab: Lab, rng: random.Random) -> Outcome:
    """SIGKILL within a call of the system."""
    workdir = _fresh(lab)
    whole(lab)
    call = f"{rng.choice(('fsync', 'replace', 'rename', 'mkdir', 'unlink'))}:{rng.randrange(1, 40)}"
    end(start(lab, arguments(workdir, steps=STEPS), FAULTS_CALL=call))
    outcome = went_on(lab, workdir)
    return outcome._replace(said=f"{call} {outcome.said}")


def asked(lab: Lab, rng: random.Random) -> Outcome:
    """A signal that asks a process to end, at any moment: it saves, says so in a line and leaves within seconds."""
    workdir = _fresh(lab)
    whole(lab)
    early = rng.random() < 0.3
    process = start(lab, arguments(workdir, steps=STEPS), bare=early)
    if not early:
        until_begun(process, workdir, rng.randrange(1, 85))
    else:
        time.sleep(0.5 + 8 * rng.random())
    number = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    began = time.monotonic()
    if process.poll() is None:
        process.send(number)
    ended = end(process)
    took = time.monotonic() - began
    if "Traceback" in ended.err:
        return Outcome(TRACEBACK, ended.err[-2000:])
    if ended.status not in (0, 128 + number, -number) or took > LEAVE_SECONDS:
        return Outcome(OTHER, f"{ended.status} after {took:.1f} s: {ended.err[-1000:]}")
    outcome = went_on(lab, workdir)
    return outcome._replace(said=f"{number.name}, {took:.1f} s, {ended.err.strip()[-100:]}; {outcome.said}")


def devices(lab: Lab, rng: random.Random) -> Outcome:
    """A run goes on with another number of devices, and another."""
    fields = {"devices": "all"}
    workdir, one = _fresh(lab), whole(lab)
    numbers = rng.sample((1, 2, 4, 8), 3)
    for number in numbers[:-1]:
        process = start(lab, arguments(workdir, steps=STEPS, **fields), devices=number)
        until_begun(process, workdir, 20 if number == numbers[0] else 60)
        if process.poll() is None:
            process.send(rng.choice((signal.SIGTERM, signal.SIGKILL)))
        ended = end(process)
        if "Traceback" in ended.err:
            return Outcome(TRACEBACK, ended.err[-2000:])
    ended = end(start(lab, arguments(workdir, steps=STEPS, **fields), devices=numbers[-1]))
    if "Traceback" in ended.err:
        return Outcome(TRACEBACK, ended.err[-2000:])
    if ended.status != 0:
        return Outcome(OTHER, f"{numbers}: {ended.status}: {ended.err[-1000:]}")
    a, b = (json.loads((run / "summary.json").read_text()) for run in (workdir, one))
    same = left(workdir)["masks"] == left(one)["masks"]
    near = np.allclose(a["test_loss"], b["test_loss"], rtol=1e-2)
    return Outcome(BIT_FOR_BIT if same and near else WRONG, f"devices {numbers}: masks equal, losses to rounding")


def one_of_two(lab: Lab, rng: random.Random) -> Outcome:
    """One of two processes that train together is killed: the other says so and ends, and both go on later."""
    workdir = _fresh(lab)
    whole(lab)
    pair = two(lab, workdir)
    until_begun(pair[0], workdir, rng.randrange(3, 60))
    victim = rng.randrange(2)
    pair[victim].send(signal.SIGKILL)
    began = time.monotonic()
    end(pair[victim])
    ended = end(pair[1 - victim])
    took = time.monotonic() - began
    said = f"process {victim} killed; the other ended after {took:.1f} s: {ended.err.strip().splitlines()[-1:]}"
    if "Traceback" in ended.err:
        return Outcome(TRACEBACK, ended.err[-2000:])
    if ended.status != 2 or took > LEAVE_SECONDS:
        return Outcome(OTHER, f"{ended.status}: {said} {ended.err[-1500:]}")
    again = [end(p) for p in two(lab, workdir)]
    if [a.status for a in again] != [0, 0]:
        return Outcome("lost", again[0].err[-1000:])
    same = left(workdir)["masks"] == left(whole(lab))["masks"]
    return Outcome(REFUSED if same else WRONG, said)


def two(lab: Lab, workdir: Path) -> list[Child]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    given = arguments(workdir, steps=STEPS, devices="all")
    common = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    return [start(lab, given, **common, JAX_PROCESS_ID=str(i)) for i in range(2)]


def _fresh(lab: Lab) -> Path:
    shutil.rmtree(lab.work / "run", ignore_errors=True)
    return lab.work / "run"
