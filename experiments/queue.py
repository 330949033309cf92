"""Runs cells: what is finished is not run again, what was interrupted goes on.

Cells that train take the fast path where they can (:mod:`experiments.training.fast`), many by one program; the others
are run one by one. What is printed says which.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dstjax.checks import check_choice
from experiments.training import fast
from experiments.training import run as training_run
from experiments.training.run import DivergedError
from experiments.training.workdir import Results

WIDTH = 30  # columns of a title that leaves room for what follows
PATHS = ("fast", "steps")


@dataclasses.dataclass(frozen=True)
class Training:
    """What a cell trains."""

    config: ConfigDict
    begin: Callable[[], None] = lambda: None  # called before it is trained
    said: Callable[[Results], str] = lambda summary: ""  # what is said of its summary


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell that is planned: a folder of its own, and what fills it."""

    name: str  # in errors
    title: str  # in the list of what runs
    folder: Path
    work: Callable[[], str]  # runs the cell; returns what is said of it, '' for nothing
    result: str = "summary.json"  # the file that a finished cell has
    training: Training | None = None  # what ``work`` does, where that is a run of training

    @property
    def finished(self) -> bool:
        """Whether its numbers are there."""
        return (self.folder / self.result).exists()


def training(name: str, title: str, folder: Path, what: Training) -> Job:
    """The job of a cell that trains."""

    def work() -> str:
        what.begin()
        return what.said(training_run.train_and_evaluate(what.config, folder, quiet=True))

    return Job(name, title, folder, work, training=what)


def run(jobs: Sequence[Job], *, place: str = "", failed: str = "failed", path: str = "fast") -> dict[Path, str]:
    """Runs what is not finished, jobs of one folder once; returns why cells diverged, by folder.

    Args:
      jobs: in the order in which they are run.
      place: where they are, in words.
      failed: what a cell that diverged has done, in a word.
      path: 'fast', or 'steps': every cell by its own programs, with checkpoints.

    Raises:
      ValueError: of a cell's config or folder, or an unknown path.
    """
    check_choice("path", path, PATHS)
    waiting = list({job.folder: job for job in jobs if not job.finished}.values())
    total = len({job.folder for job in jobs})
    done = total - len(waiting)
    print(f"{total} cells{place}" + (f", {done} of them finished before" if done else ""), flush=True)
    said = _Said(total, len(waiting), max(len(job.title) for job in jobs), failed)
    quick, slow = _paths(waiting) if path == "fast" else ([], waiting)
    if quick:
        _run_together(quick, said)
    for job in slow:
        said.begin(job)
        try:
            said.end(job.work())
        except DivergedError as error:
            said.fail(job, error)
        except (ValueError, OSError) as error:
            print(flush=True)
            raise ValueError(f"cell {job.name}: {error}") from error
    return said.failures


class _Said:
    """The line of each cell, and what is left."""

    def __init__(self, total: int, waiting: int, width: int, failed: str) -> None:
        self.total, self.waiting, self.width, self.failed = total, waiting, width, failed
        self.done, self.start = 0, time.perf_counter()
        self.failures: dict[Path, str] = {}

    def begin(self, job: Job) -> None:
        """Begins the line of a cell."""
        self.done += 1
        # What follows a long title stands below it: lines fit in 80 columns.
        title = f"{job.title:<{self.width}} " if self.width <= WIDTH else f"{job.title}\n    "
        number = self.total - self.waiting + self.done
        print(f"[{number:>{len(str(self.total))}}/{self.total}] {title}", end="", flush=True)

    def end(self, said: str) -> None:
        """Ends it."""
        gone = time.perf_counter() - self.start
        left = self.waiting - self.done
        print(f"{said}{clock(gone)}" + (f", {clock(gone / self.done * left)} left" if left else ""), flush=True)

    def fail(self, job: Job, error: DivergedError) -> None:
        """Ends it where the cell has diverged."""
        self.failures[job.folder] = str(error)
        print(f"{self.failed}: {error}", flush=True)


def _paths(waiting: Sequence[Job]) -> tuple[list[tuple[Job, fast.Planned]], list[Job]]:
    """Jobs for the fast path, and those that are run one by one; says how many, and why."""
    quick: list[tuple[Job, fast.Planned]] = []
    slow: list[Job] = []
    why: dict[str, None] = {}
    for job in waiting:
        planned = None if job.training is None else fast.planned(job.name, job.folder, job.training.config)
        if planned is not None and not planned.refused:
            quick.append((job, planned))
        else:
            slow.append(job)
            why["it is a probe" if planned is None else planned.refused] = None
    if quick:
        print(f"fast path: {len(quick)} cells by {len({cell.kind for _, cell in quick})} programs", flush=True)
    if slow:
        print(f"step by step: {len(slow)} cells ({'; '.join(why)})", flush=True)
    return quick, slow


def _run_together(quick: Sequence[tuple[Job, fast.Planned]], said: _Said) -> None:
    """Runs cells on the fast path."""
    whats = [job.training for job, _ in quick if job.training is not None]
    for what in whats:
        what.begin()
    for place, result in fast.train([cell for _, cell in quick]):
        job = quick[place][0]
        said.begin(job)
        if isinstance(result, DivergedError):
            said.fail(job, result)
        else:
            said.end(whats[place].said(result))


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
