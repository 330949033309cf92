"""Runs the benchmarks and writes their figures, a page of charts and the table of targets.

    python -m experiments.benchmarks [--only NAME,NAME] [--quick] [--out DIR] [--report]

  --only NAMES   only these: selection, update, step, compile, start, collectives, seeds, sparse_layers; the figures
                 of the others stay
  --quick        tiny sizes, to see that everything runs; the figures mean nothing
  --out DIR      where to write (default: runs/bench, with --quick runs/bench-quick): a NAME-PLATFORM.jsonl each,
                 results.json, index.html, targets.md
  --patience S   seconds that a race may spend on rounds that other processes disturb, which do not count (default: 120)
  --report       no measurement: the page and the table of the figures that DIR already holds

JAXPRUNER=DIR in the environment names a checkout of jaxpruner, which is then timed beside. Where JAX finds a GPU, the
benchmarks that depend on the device run on the CPU and on it. Nothing else should run meanwhile: each figure says how
many cores other processes used.

Exit status: 0; 1 where a benchmark failed (the others are run and reported); 2 for wrong arguments.
"""

import argparse
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax

from experiments import command_line
from experiments.benchmarks import (
    collectives,
    compilation,
    machine,
    page,
    records,
    seeds,
    selection,
    sparse_layers,
    starting,
    step,
    targets,
    update,
)
from experiments.benchmarks.timing import Settings, stream_bandwidth

Benchmark = Callable[[Settings], Iterable[records.Row]]
BENCHMARKS: dict[str, Benchmark] = {
    "selection": selection.run,
    "update": update.run,
    "step": step.run,
    "compile": compilation.run,
    "start": starting.run,
    "collectives": collectives.run,
    "seeds": seeds.run,
    "sparse_layers": sparse_layers.run,
}
ANYWHERE = ("collectives",)  # needs no device, so it runs once


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser("benchmarks", __doc__)
    parser.add_argument("--only", default=",".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--patience", type=float, default=120.0)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args(arguments)
    given.out = given.out or Path("runs/bench-quick" if given.quick else "runs/bench")
    names = [name for name in given.only.split(",") if name]
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"--only {','.join(unknown)} is not known; expected some of {', '.join(BENCHMARKS)}.")
    if not names:
        parser.error(f"--only is empty; expected some of {', '.join(BENCHMARKS)}.")
    if given.report and not any(given.out.glob("*.jsonl")):
        parser.error(f"{given.out} holds no figures; run the benchmarks without --report first.")
    try:  # before anything is measured
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {given.out} is not usable: {error.strerror}.")
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(["python", "-m", "experiments.benchmarks", *words])
    failed = False
    if not given.report:
        for device in devices():
            failed |= not _measure(device, names, given, command)
    _report(given.out)
    return int(failed)


def devices() -> list[jax.Device]:
    """The CPU, and one GPU if there is any."""
    found = [jax.devices("cpu")[0]]
    try:
        return [*found, jax.devices("gpu")[0]]
    except RuntimeError:
        return found


def _measure(device: jax.Device, names: list[str], given: argparse.Namespace, command: str) -> bool:
    quick = given.quick
    bandwidth = stream_bandwidth(device, entries=2**16 if quick else 2**25, rounds=3 if quick else 15)
    settings = Settings(quick, device, bandwidth, 0.0 if quick else given.patience)
    header = machine.facts(device, command) | {"bandwidth": bandwidth, "quick": quick}
    print(f"{header['machine']}, {header['device']}, malloc {header['malloc']}, {bandwidth / 1e9:.1f} GB/s", flush=True)
    whole = True
    for name in names:
        if name in ANYWHERE and device.platform != "cpu":
            continue
        rows = []
        try:
            for row in BENCHMARKS[name](settings):
                rows.append(row)
                print(records.line(row), flush=True)
        except Exception as error:  # one that fails must not cost the figures of the others
            traceback.print_exc()
            rows.append(records.skipped(name, {}, f"failed: {type(error).__name__}: {str(error)[:500]}"))
            whole = False
        records.write(given.out / f"{name}-{device.platform}.jsonl", header | {"benchmark": name}, rows)
    return whole


def _report(out: Path) -> None:
    rows = page.write(out)
    quick = any(row.get("quick") for row in rows if row["kind"] == "run")
    table = targets.markdown([row for row in rows if row["kind"] != "run"], quick=quick)
    (out / "targets.md").write_text(table + "\n")
    print(f"\n{table}\n\nWritten to {out}: index.html, targets.md, results.json.")


if __name__ == "__main__":
    command_line.start(main)
