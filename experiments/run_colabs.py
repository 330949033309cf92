"""Runs every notebook in colabs/ from the repository root; fails if a cell of any of them fails.

    python -m experiments.run_colabs [--jobs N]

Most of a notebook is compiling, which takes one core: two run side by side by default. Those on disk are left as they
are.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from experiments import command_line

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT_SECONDS = 600
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError)


def run(path: Path) -> None:
    """Runs one notebook in a fresh kernel; raises one of FAILURES where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_SECONDS,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()


def outcomes(paths: Sequence[Path], jobs: int) -> Iterator[tuple[Path, float, Exception | None]]:
    """Runs notebooks, some at a time; gives each with its seconds, and with what a cell of it failed by."""

    def timed(path: Path) -> tuple[float, Exception | None]:
        start = time.perf_counter()
        try:
            run(path)
        except FAILURES as error:
            return time.perf_counter() - start, error
        return time.perf_counter() - start, None

    pool = ThreadPoolExecutor(jobs)
    try:
        running = {pool.submit(timed, path): path for path in paths}
        for done in as_completed(running):
            yield running[done], *done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # ^C ends those that run, and begins no other


def main(arguments: Sequence[str] = ()) -> int:
    """Runs the notebooks and returns the exit status."""
    parser = command_line.parser("run_colabs", __doc__)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at a time")
    jobs = parser.parse_args(arguments).jobs
    if jobs < 1:
        parser.error(f"--jobs {jobs} is not accepted; expected 1 or more.")
    paths = sorted((ROOT / "colabs").glob("*.ipynb"))
    if not paths:
        print("No notebooks in colabs/.", file=sys.stderr)
        return 1
    failed = 0
    for number, (path, seconds, error) in enumerate(outcomes(paths, jobs), 1):
        failed += error is not None
        said = f"ok, {seconds:.0f} s" if error is None else f"FAILED\n{error}"
        print(f"[{number}/{len(paths)}] {path.relative_to(ROOT)} ... {said}", flush=True)
    if failed:
        print(f"{failed} of {len(paths)} notebooks failed.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    command_line.start(main, sys.argv[1:])
