"""Whether the tasks of the proxies tell methods apart: static against dynamic, in units of the standard error.

A task is accepted when the standard error of the paired difference between a static mask and the best dynamic method is
at most a third of that difference. Whether it can also tell DST-EE from RigL is said beside: the same third.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import data, queue
from experiments.configs.tasks import TASKS
from experiments.report.statistics import Difference, paired
from experiments.reproduce import planning
from experiments.reproduce.cells import Cell
from experiments.reproduce.reading import Measured, read

DYNAMIC = ("set", "rigl", "dst_ee")
METHODS = ("static", *DYNAMIC)
SEEDS, SEEDS_OF_PAIR = 8, 16  # the second of RigL and DST-EE, which are close
SHARE = 1 / 3  # of the spread, that a standard error may have


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """What a task tells."""

    task: str
    accuracy: dict[str, float]  # by method, percent
    best: str  # of the dynamic methods
    spread: Difference  # best minus static
    pair: Difference  # DST-EE minus RigL
    seconds: float  # of all its runs

    @property
    def accepted(self) -> bool:
        """Whether it tells a static mask from the best dynamic method."""
        return self.spread.standard_error <= SHARE * self.spread.mean

    @property
    def tells_pair(self) -> bool:
        """Whether a difference of a third of the spread between DST-EE and RigL would be seen."""
        return self.accepted and self.pair.standard_error <= SHARE * self.spread.mean

    @property
    def needed(self) -> str:
        """What it would take where one of the two is not reached; ''."""
        if self.spread.mean <= 0:
            return "static is not worse: no number of seeds would do"
        if min(self.spread.n, self.pair.n) < 2:
            return "one seed has no spread: more of them"
        parts = [("static", self.spread)] if not self.accepted else []
        parts += [("DST-EE - RigL", self.pair)] if self.pair.standard_error > SHARE * self.spread.mean else []
        seeds = [
            f"{what}: {math.ceil(d.n * (d.standard_error / (SHARE * self.spread.mean)) ** 2)} seeds"
            for what, d in parts
        ]
        return ", ".join(seeds)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**dataclasses.asdict(self), "accepted": self.accepted, "tells_pair": self.tells_pair}


def accept(
    names: Sequence[str], workdir: Path, *, seeds: int | None, path: str
) -> tuple[list[Acceptance], dict[str, str]]:
    """Runs static and dynamic methods on tasks.

    Args:
      names: of :data:`experiments.configs.tasks.TASKS`.
      workdir: where the runs go.
      seeds: of all methods; None: 8, and 16 of RigL and DST-EE.
      path: see :func:`experiments.queue.run`.

    Returns:
      What each task tells, and why others were not run, or cells of them lost.

    Raises:
      ValueError: of a folder.
    """
    failures: dict[str, str] = {}
    cells: list[Cell] = []
    for name in names:
        try:
            data.load(TASKS[name].dataset)
        except ValueError as error:  # a package that is not there
            failures[name] = str(error)
            continue
        cells += [Cell(f"task_{name}", method, {"method": method}, group=name) for method in METHODS]
    jobs = []
    for cell in cells:
        number = seeds or (SEEDS_OF_PAIR if cell.method in DYNAMIC[1:] else SEEDS)
        jobs += planning.plan([cell], workdir, seeds=number, proxy=True)
    diverged = queue.run(jobs, failed="diverged", path=path) if jobs else {}
    failures |= {job.title: diverged[job.folder] for job in jobs if job.folder in diverged}
    found: dict[str, dict[str, Measured]] = {}
    for cell, job in zip(cells, jobs, strict=True):
        if job.finished:
            found.setdefault(cell.group, {})[cell.method] = read(cell, job.folder)
    return [judged(name, of) for name, of in found.items() if len(of) == len(METHODS)], failures


def judged(task: str, of: dict[str, Measured]) -> Acceptance:
    """What the cells of a task tell, by method."""
    accuracy = {method: float(np.mean(m.values["accuracy"])) for method, m in of.items()}
    best = max(DYNAMIC, key=lambda method: _between(of[method], of["static"]).mean)
    seconds = sum(m.seconds for m in of.values())
    return Acceptance(
        task, accuracy, best, _between(of[best], of["static"]), _between(of["dst_ee"], of["rigl"]), seconds
    )


def _between(a: Measured, b: Measured) -> Difference:
    """The paired difference over the seeds that both have."""
    common = [seed for seed in a.seeds if seed in b.seeds]
    ours, theirs = (m.values["accuracy"][[m.seeds.index(seed) for seed in common]] for m in (a, b))
    return paired(ours, theirs)


def as_text(found: Sequence[Acceptance], failures: dict[str, str]) -> str:
    """A Markdown table, and what is not in it."""
    columns = [
        "task",
        *METHODS,
        "best - static",
        "DST-EE - RigL",
        "accepted",
        "tells DST-EE from RigL",
        "it would take",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for a in found:
        numbers = [f"{a.accuracy[method]:.1f}" for method in METHODS]
        differences = [f"{d.mean:+.2f} ± {d.standard_error:.2f} ({d.n} seeds)" for d in (a.spread, a.pair)]
        said = ["yes" if x else "no" for x in (a.accepted, a.tells_pair)]
        lines.append("| " + " | ".join([f"`{a.task}`", *numbers, *differences, *said, a.needed]) + " |")
    return "\n".join([*lines, *(f"not told: {name}: {why}" for name, why in failures.items())])
