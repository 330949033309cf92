"""Runs cells one by one: what is finished is not run again, what was interrupted goes on."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.training.run import DivergedError

WIDTH = 30  # columns of a title that leaves room for what follows


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell that is planned: a folder of its own, and what fills it."""

    name: str  # in errors
    title: str  # in the list of what runs
    folder: Path
    work: Callable[[], str]  # runs the cell; returns what is said of it, '' for nothing
    result: str = "summary.json"  # the file that a finished cell has

    @property
    def finished(self) -> bool:
        """Whether its numbers are there."""
        return (self.folder / self.result).exists()


def run(jobs: Sequence[Job], *, place: str = "", failed: str = "failed") -> dict[str, str]:
    """Runs what is not finished, jobs of one folder once; returns why cells diverged, by title.

    Args:
      jobs: in the order in which they are run.
      place: where they are, in words.
      failed: what a cell that diverged has done, in a word.

    Raises:
      ValueError: of a cell's config or folder.
    """
    waiting = list({job.folder: job for job in jobs if not job.finished}.values())
    total = len({job.folder for job in jobs})
    done = total - len(waiting)
    print(f"{total} cells{place}" + (f", {done} of them finished before" if done else ""), flush=True)
    width = max(len(job.title) for job in jobs)
    start, failures = time.perf_counter(), {}
    for i, job in enumerate(waiting, 1):
        # What follows a long title stands below it: lines fit in 80 columns.
        title = f"{job.title:<{width}} " if width <= WIDTH else f"{job.title}\n    "
        print(f"[{done + i:>{len(str(total))}}/{total}] {title}", end="", flush=True)
        try:
            said = job.work()
        except DivergedError as error:
            failures[job.title] = str(error)
            print(f"{failed}: {error}", flush=True)
            continue
        except (ValueError, OSError) as error:
            print(flush=True)
            raise ValueError(f"cell {job.name}: {error}") from error
        gone = time.perf_counter() - start
        rest = f", {clock(gone / i * (len(waiting) - i))} left" if i < len(waiting) else ""
        print(f"{said}{clock(gone)}{rest}", flush=True)
    return failures


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
