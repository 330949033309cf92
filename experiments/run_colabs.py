"""Runs every notebook in colabs/ from the repository root; fails if a cell of any of them fails.

    python -m experiments.run_colabs

The notebooks on disk are left as they are.
"""

import sys
import time
from collections.abc import Sequence
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


def main(arguments: Sequence[str] = ()) -> int:
    """Runs the notebooks in order of name and returns the exit status."""
    command_line.parser("run_colabs", __doc__).parse_args(arguments)
    paths = sorted((ROOT / "colabs").glob("*.ipynb"))
    if not paths:
        print("No notebooks in colabs/.", file=sys.stderr)
        return 1
    failed = 0
    for number, path in enumerate(paths, 1):
        print(f"[{number}/{len(paths)}] {path.relative_to(ROOT)} ... ", end="", flush=True)
        start = time.perf_counter()
        try:
            run(path)
        except FAILURES as error:
            failed += 1
            print(f"FAILED\n{error}", flush=True)
        else:
            print(f"ok, {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        print(f"{failed} of {len(paths)} notebooks failed.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
