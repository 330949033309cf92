"""Draws trainings of all kinds and checks what holds after every step.

    python -m tests.fuzz [--folder DIR] [--seed S] [--first F] [--number N] [--show]

  --folder DIR   where results lie (default: runs/fuzz); what has run is not run again, but what was broken
  --seed S       another seed draws other configurations (default: 0)
  --first F      the number of the first one (default: 0)
  --number N     how many (default: 2000)
  --show         print each configuration before it runs, and run it even if it has run before

A configuration is drawn from its seed and number. DIR/results.jsonl has a line for each, DIR/table.md the table. Exit
status: 0; 1 where an invariant is broken.
"""

import argparse
import collections
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# Before jax is imported: eight devices, cheap programs, and a store of them.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax

from tests.fuzz.drawing import Configuration, draw
from tests.fuzz.running import BROKEN, ENDS, forget_programs, outcome_of

AXES = ("method", "tree", "dtype", "layout", "inner", "wrapper", "program", "rewire", "save", "event", "wrong")


def record(c: Configuration) -> dict[str, Any]:
    """Runs a configuration; its line of the results."""
    began = time.process_time()  # that of the processor: machines are shared
    outcome = outcome_of(c)
    drawn = {
        axis: str(getattr(c, axis)).partition(" ")[0] if axis == "event" else str(getattr(c, axis)) for axis in AXES
    }
    drawn |= {"on_nonfinite": dict(c.arguments)["on_nonfinite"], "gradients": "+".join(sorted({*c.gradients}))}
    line = {"seed": c.seed, "number": c.number, **outcome._asdict(), "seconds": round(time.process_time() - began, 2)}
    return {**line, "drawn": drawn, "configuration": repr(c)}


def table(lines: list[dict[str, Any]]) -> str:
    """What was drawn, and what became of it, as Markdown."""
    rows = [f"| axis | value | drawn | {' | '.join(ENDS)} |", "|---|---|" + "---:|" * (1 + len(ENDS))]

    def row(axis: str, value: str, some: list[dict[str, Any]]) -> str:
        ends = collections.Counter(line["end"] for line in some)
        return f"| {axis} | {value} | {len(some)} | {' | '.join(str(ends[end]) for end in ENDS)} |"

    for axis in (*AXES, "on_nonfinite"):
        found: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        for line in lines:
            found[line["drawn"][axis]].append(line)
        rows += [row(axis, value, found[value]) for value in sorted(found)]
    distinct = {line["configuration"].partition(", ")[2] for line in lines}
    return "\n".join([*rows, row("all", f"{len(distinct)} distinct", lines)])


def main() -> int:
    """Runs the harness; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/fuzz"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--number", type=int, default=2000)
    options.add_argument("--show", action="store_true")
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str((given.folder / "programs").resolve()))
    results = given.folder / "results.jsonl"
    read = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    found = {(line["seed"], line["number"]): line for line in read}  # the last of each
    done = {which for which, line in found.items() if line["end"] != BROKEN}
    for number in range(given.first, given.first + given.number):
        if (given.seed, number) in done and not given.show:
            continue
        c = draw(given.seed, number)
        if given.show:
            print(c, flush=True)
        line = found[given.seed, number] = record(c)
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if given.show or line["end"] == BROKEN:
            print(f"{number}: {line['end']}, {line['seconds']} s: {line['said']}", flush=True)
        forget_programs()
    lines = list(found.values())
    (given.folder / "table.md").write_text(table(lines) + "\n")
    if not given.show:
        print(table(lines))
    return 1 if any(line["end"] == BROKEN for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
