"""Reproduces tables and figures of the papers.

    python -m experiments.reproduce --list
    python -m experiments.reproduce --summary [--table NAME] [--proxy] [--workdir DIR]
    python -m experiments.reproduce --coverage
    python -m experiments.reproduce --table NAME [--proxy [--whole]] [--workdir DIR] [--seeds N] [--only TEXT]
    python -m experiments.reproduce --fairness [--table NAME] [--proxy]
    python -m experiments.reproduce --proxies [--workdir DIR] [--seeds N] [--only TEXT]

  --list         the tables, what they need, and what their proxies train
  --summary      the claims of all tables that DIR holds, and what became of them, as Markdown; with
                 --table the numbers of these tables, methods by settings
  --coverage     the tables, figures and statements of the papers, and which of them are here, as Markdown
  --proxies      trains static and dynamic masks on each task that the proxies run on, and says whether it tells them
                 apart: DIR/proxies.json
  --table NAME   one of them, several with commas between, or all
  --fairness     in which fields the rows of all tables, or of one, differ, and why each may
  --proxy        small networks on data that ship with the repository
  --workdir DIR  where runs and results go (default: runs/reproduce, or runs/reproduce-proxy); cells that tables share
                 are run once
  --seeds N      seeds 0 to N-1 (default: as many as the paper; 8 or 16 for a proxy)
  --only TEXT    only cells whose title has this text
  --whole        all cells of a proxy, those too that are left out by default since they take long
  --finished     trains nothing: judges the cells that are finished
  --path steps   trains every cell step by step, with checkpoints (default: fast, many cells by one program, each from
                 its first step to its last; what cannot be trained so is named)

The same command again goes on where it was interrupted and does not run finished cells again. DIR/NAME holds in the end
results.json, results.csv, report.html, and fairness.txt, what the rows differ in. Exit status: 0; 1 where a cell has
diverged, where --fairness finds a difference that nothing declares, or --coverage what has no row or no reason; 2 for
anything wrong with the arguments, the data or DIR.
"""

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dstjax.checks import check_choice
from experiments import command_line, queue
from experiments.configs.tasks import TASKS
from experiments.reproduce import acceptance, coverage, fairness, grids, outcome, page, planning
from experiments.reproduce.claims import Verdict
from experiments.reproduce.papers.catalogue import get, tables
from experiments.reproduce.papers.table import Table
from experiments.reproduce.reading import read
from experiments.reproduce.seeds import of_proxy
from experiments.reproduce.wording import summarised
from experiments.training import sealed
from experiments.training.recording import to_json, write_atomically


@dataclasses.dataclass
class Options:
    """The command line."""

    listed: bool = False
    summary: bool = False
    fairness: bool = False
    covered: bool = False
    proxies: bool = False
    names: tuple[str, ...] = ()
    proxy: bool = False
    workdir: Path = Path()
    seeds: int | None = None
    only: str = ""
    path: str = "fast"
    whole: bool = False
    finished: bool = False


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command_line.run(arguments, __doc__, _reproduce, "the same command continues here.")


def _reproduce(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.listed:
        print(listing())
        return 0
    if options.covered:
        wrong = coverage.check()
        print("\n".join([coverage.summary(), *wrong]))
        return 1 if wrong else 0
    if options.summary:
        print("\n\n".join(numbers(options.workdir, name) for name in options.names) or summary(options.workdir))
        return 0
    if options.fairness:
        text, fair = fairness.listing(map(get, options.names), proxy=options.proxy)
        print(text)
        return 0 if fair else 1
    if options.proxies:
        return accept(options)
    failed = [reproduce(get(name), options) for name in options.names]
    return 1 if any(failed) else 0


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line.

    Raises:
      ValueError: an option is missing, unknown or has a value that is not accepted.
    """
    given = command_line.read(
        arguments,
        ("table", "workdir", "seeds", "only", "path"),
        ("list", "proxy", "proxies", "summary", "fairness", "coverage", "whole", "finished"),
    )
    options = Options("list" in given, "summary" in given, "fairness" in given, "coverage" in given, "proxies" in given)
    options.proxy, options.whole, options.finished = "proxy" in given, "whole" in given, "finished" in given
    if options.listed or options.covered:
        return options
    default = "runs/reproduce-proxy" if options.proxy or options.proxies else "runs/reproduce"
    options.workdir, options.only = Path(given.get("workdir", default)), given.get("only", "")
    options.path = given.get("path", options.path)
    check_choice("path", options.path, queue.PATHS)
    if options.summary and "table" not in given:
        return options
    if options.fairness:
        given = {"table": "all", **given}
    if "seeds" in given:
        if not given["seeds"].isdecimal() or int(given["seeds"]) < 1:
            raise ValueError(f"--seeds={given['seeds']!r} is not accepted; expected an integer >= 1.")
        options.seeds = int(given["seeds"])
    if options.proxies:
        return options
    if not given.get("table"):
        raise ValueError("option --table is missing; --list shows the tables.")
    every = tuple(tables()) if given["table"] == "all" else tuple(given["table"].split(","))
    options.names = tuple(get(name.strip()).name for name in every)
    return options


def listing() -> str:
    """All tables, with the cells of each."""
    lines = []
    for table in tables().values():
        small = len(table.cells(True))
        usual = sum(map(table.usual, table.cells(True)))
        kept = "" if usual == small else f" ({usual} without --whole)"
        full = "proxy only" if table.proxy_only else f"{len(table.cells(False))} cells x {table.seeds} seed(s)"
        lines.append(f"{table.name:<20} {table.paper}, {table.printed}: {table.title}")
        lines.append(
            f"{'':<20} {full}; proxy {small} cells{kept} x {of_proxy(table)} seeds; {len(table.claims)} claims"
        )
    return "\n".join(lines)


def summary(workdir: Path) -> str:
    """The verdicts of the tables that a folder holds.

    Raises:
      ValueError: it holds none, or a file cannot be read.
    """
    columns = (
        "table",
        "claim of the paper",
        "what shows it",
        "the paper's",
        "here",
        "evidence",
        "95 % interval",
        "power",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in tables():
        path = workdir / name / "results.json"
        if path.exists():
            lines += [f"| `{name}` | {' | '.join(summarised(v))} |" for v in _verdicts(path)]
    if len(lines) == 2:
        raise ValueError(f"workdir {workdir} holds no results; run --table NAME first.")
    return "\n".join(lines)


def numbers(workdir: Path, name: str) -> str:
    """The numbers of a table that a folder holds, as Markdown.

    Raises:
      ValueError: it does not hold it.
    """
    path = workdir / name / "results.json"
    if not path.exists():
        raise ValueError(f"workdir {workdir} holds no results of {name!r}; run --table {name} first.")
    return grids.markdown(get(name), sealed.read(path)["rows"])


def _verdicts(path: Path) -> list[Verdict]:
    try:
        return [Verdict(**claim) for claim in sealed.read(path)["claims"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not of this version ({error}); run --table again, which does not train again."
        ) from error


def accept(options: Options) -> int:
    """Says which tasks tell methods apart; returns the exit status: 1 where one does not, or was not run.

    Raises:
      ValueError: of a folder, or no task has the text that was asked for.
    """
    names = [name for name in TASKS if options.only in name]
    if not names:
        raise ValueError(f"--only={options.only!r} fits no task; expected a part of one of {', '.join(TASKS)}.")
    start = time.perf_counter()
    found, failures = acceptance.accept(names, options.workdir, seeds=options.seeds, path=options.path)
    content = {"tasks": [a.as_dict() for a in found], "failures": failures}
    options.workdir.mkdir(parents=True, exist_ok=True)
    sealed.write(options.workdir / "proxies.json", json.loads(to_json(content)))
    print(f"\n{acceptance.as_text(found, failures)}\n\n{queue.clock(time.perf_counter() - start)}")
    return 0 if all(a.accepted for a in found) and not failures else 1


def reproduce(table: Table, options: Options) -> bool:
    """Runs one table and writes its results; returns whether a cell has diverged.

    Raises:
      ValueError: of the data, a config or a folder.
    """
    if table.proxy_only and not options.proxy:
        raise ValueError(f"table {table.name!r} has no full run: {table.proxy_only}; give --proxy.")
    start = time.perf_counter()
    every = [c for c in table.cells(options.proxy) if not options.proxy or options.whole or table.usual(c)]
    cells = [c for c in every if options.only in c.title]
    if not cells:
        raise ValueError(f"--only={options.only!r} fits no cell of {table.name!r}; expected a part of a title.")
    number = options.seeds or (of_proxy(table) if options.proxy else table.seeds)
    seeds = tuple(range(table.first_seed, table.first_seed + number)) if table.first_seed else number
    print(f"{table.name}: {table.title}", flush=True)
    jobs = planning.plan(cells, options.workdir, seeds=seeds, proxy=options.proxy)
    failures = {} if options.finished else queue.run(jobs, failed="diverged", path=options.path)
    measured = [read(cell, job.folder) for cell, job in zip(cells, jobs, strict=True) if job.finished]
    lost = [(c, "left out by --only") for c in every if options.only not in c.title]
    lost += [(c, _lost(failures.get(job.folder))) for c, job in zip(cells, jobs, strict=True) if not job.finished]
    why = {job.title: failures[job.folder] for job in jobs if job.folder in failures}
    found = outcome.outcome(table, measured, why, proxy=options.proxy, command=_command(table, options), lost=lost)
    folder = options.workdir / table.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "results.json", outcome.as_json(found).encode() + b"\n")
        write_atomically(folder / "results.csv", outcome.as_csv(found).encode())
        write_atomically(folder / "report.html", page.page(found).encode())
        shared, _ = fairness.listing([table], proxy=options.proxy)
        write_atomically(folder / "fairness.txt", f"{shared}\n".encode())
    except OSError as error:
        raise ValueError(f"workdir {folder} is not writable: {error.strerror}.") from error
    print(f"\n{outcome.as_text(found)}\n\n{folder}/report.html, {queue.clock(time.perf_counter() - start)}\n")
    return bool(failures)


def _lost(failure: str | None) -> str:
    return "not run" if failure is None else f"failed ({failure})"


def _command(table: Table, options: Options) -> str:
    parts = ["python -m experiments.reproduce --table", table.name, *(["--proxy"] if options.proxy else [])]
    parts += [f"--seeds {options.seeds}"] if options.seeds else []
    parts += [f"--only {shlex.quote(options.only)}"] if options.only else []
    parts += ["--whole"] * options.whole + ["--finished"] * options.finished
    return " ".join(parts)


if __name__ == "__main__":
    command_line.start(main, sys.argv[1:])
