"""Where runs are hurt: a whole run to compare with, one that was left half-way, and what became of a run."""

import contextlib
import io
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
RULE = '''"""A growth rule of one's own."""

import jax.numpy as jnp


def grow(leaf):
    return jnp.abs(leaf.gradient)
'''
FIELDS = {
    **{"method": "rigl", "grow": "faults_rule:grow", "model.sizes": "(8,)", "steps": "48", "update_period": "4"},
    **{"sparsity": "0.8", "eval_every_epochs": "1", "checkpoint_every_epochs": "1", "seeds": "2"},
}
SAVED = (16, 32, 48)  # steps of its checkpoints
BIT_FOR_BIT, REFUSED = "went on bit for bit", "refused in a line"
LOST, RESTART, WRONG, TRACEBACK, OTHER = "lost", "silent restart", "wrong result", "traceback", "ended otherwise"
ENDS = (BIT_FOR_BIT, REFUSED, LOST, RESTART, WRONG, TRACEBACK, OTHER)


class Ended(NamedTuple):
    """How a command has ended."""

    status: int
    out: str
    err: str


class Outcome(NamedTuple):
    """What became of a fault."""

    end: str  # one of ENDS
    said: str  # the line, or what was wrong


def arguments(workdir: Path, **fields: str) -> list[str]:
    """Those of experiments.train for the small run."""
    given = {**FIELDS, **fields}
    start = ["--config", str(ROOT / "experiments" / "configs" / "digits.py"), "--workdir", str(workdir)]
    return [*start, *(f"--config.{name}={value}" for name, value in given.items())]


class Caught:
    """What is written to a file descriptor, by C++ too; through a pipe, which no limit and no full disk concerns."""

    def __init__(self, number: int) -> None:
        self.number, self.kept, self.parts = number, os.dup(number), []
        self.end, write = os.pipe()
        os.dup2(write, number)
        os.close(write)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while part := os.read(self.end, 65536):
            self.parts.append(part)

    def text(self) -> str:
        """All of it, once the descriptor is what it was."""
        os.dup2(self.kept, self.number)
        self.thread.join()
        os.close(self.kept)
        os.close(self.end)
        return b"".join(self.parts).decode(errors="replace")


def command(main: Callable[[list[str]], int], given: list[str]) -> Ended:
    """Runs a command in this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    caught, streams = [Caught(1), Caught(2)], (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), line_buffering=True) for n in (1, 2))
    try:
        status = main(given)
    except BaseException:  # what Python would print
        traceback.print_exc()
        status = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = streams
        texts = [one.text() for one in caught]
    return Ended(status, *texts)


def left(workdir: Path) -> dict[str, Any]:
    """What a finished run has left behind that must be the same in each."""
    summary = json.loads((workdir / "summary.json").read_text())
    for name in ("seconds", "sha256"):
        summary.pop(name)
    with np.load(workdir / "masks.npz") as stored:
        masks = {name: stored[name].tobytes() for name in stored.files}
    return {"summary": summary, "metrics": (workdir / "metrics.jsonl").read_bytes(), "masks": masks}


class Lab:
    """A folder with a run that is whole; faults get copies of it."""

    def __init__(self, folder: Path, *, whole: bool = True) -> None:
        from experiments import train

        self.folder, self.train = folder, train.main
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "faults_rule.py").write_text(RULE)
        os.chdir(folder)
        self.whole = folder / "whole"
        self.work = folder / f"work-{os.getpid()}"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if not whole:
            return
        if not (self.whole / "summary.json").exists():
            ended = command(self.train, arguments(self.whole))
            assert ended.status == 0, ended.err
        self.reference = left(self.whole)

    def finished(self, name: str = "run") -> Path:
        """A copy of the whole run."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        return shutil.copytree(self.whole, self.work / name)

    def half(self, name: str = "run", saved: int = 32) -> Path:
        """A copy as a kill after the checkpoint at that step would have left it, with a line half written."""
        workdir = self.finished(name)
        for file in ("summary.json", "masks.npz"):
            (workdir / file).unlink()
        for step in SAVED:
            if step > saved:
                shutil.rmtree(workdir / "checkpoints" / str(step))
        lines = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        written = [line for line in lines if json.loads(line)["step"] <= saved + 4]
        (workdir / "metrics.jsonl").write_bytes(b"".join(written) + b'{"kind": "tra')
        return workdir

    def outcome(self, workdir: Path, ended: Ended, repair: Callable[[], object] | None, *, had: bool = True) -> Outcome:
        """What became of a run.

        Args:
          workdir: of the run.
          ended: the command after the fault.
          repair: what a user does who reads the line, after which the command must give the same as ever; None where
            nothing can bring back what is gone, so that a line is all.
          had: whether there was a checkpoint from which to go on.
        """
        text = ended.out + ended.err
        if "Traceback" in text or "Error in " in ended.err:
            return Outcome(TRACEBACK, text[-2000:])
        if ended.status == 0:
            if not (workdir / "summary.json").exists() or left(workdir) != self.reference:
                return Outcome(WRONG, text[-500:])
            spoke = ("going on from", "is finished", "starting from step 0")
            if had and not any(word in text for word in spoke):
                return Outcome(RESTART, text[-500:])
            return Outcome(BIT_FOR_BIT, _last(ended.err))
        lines = [line for line in ended.err.splitlines() if line.strip()]
        if ended.status != 2 or not lines or not lines[-1].startswith("error: ") or len(lines) > 3:
            return Outcome(OTHER, f"{ended.status}: {text[-1500:]}")
        if repair is None:
            return Outcome(REFUSED, lines[-1])
        repair()
        again = command(self.train, arguments(workdir))
        if "Traceback" in again.out + again.err:
            return Outcome(TRACEBACK, again.err[-2000:])
        if again.status != 0:
            return Outcome(LOST, f"{lines[-1]} | {again.err[-500:]}")
        if left(workdir) != self.reference:
            return Outcome(WRONG, f"{lines[-1]} | then other results")
        return Outcome(REFUSED, lines[-1])

    def after(self, workdir: Path, repair: Callable[[], object] | None, *, had: bool = True) -> Outcome:
        """Runs the command after a fault; see :meth:`outcome`."""
        return self.outcome(workdir, command(self.train, arguments(workdir)), repair, had=had)


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
