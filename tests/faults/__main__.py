"""Hurts training runs in many ways and says what became of them.

    python -m tests.faults [--folder DIR] [--only TEXT] [--number N]

  --folder DIR   where runs and results lie (default: runs/faults); faults that are tried already are not tried again
  --only TEXT    only kinds whose name has this text
  --number N     at most so many of each kind

The same seed for each fault every time: its kind and number. DIR/results.jsonl has a line for each, DIR/table.md the
table. Exit status: 0; 1 where a fault has ended otherwise than bit for bit or in a line.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

# Before jax is imported: one device, and a store of programs, so that a process is quick.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

from tests.faults.kinds import KINDS
from tests.faults.lab import BIT_FOR_BIT, ENDS, OTHER, REFUSED, Lab, Outcome
from tests.faults.under_way import NotPermittedError
from tests.hearing import hearing


def table(lines: list[dict[str, str]]) -> str:
    """What became of all faults, as Markdown."""
    rows = [f"| kind | faults | {' | '.join(ENDS)} |", "|---|" + "---:|" * (1 + len(ENDS))]
    totals = [0] * (1 + len(ENDS))
    for kind in KINDS:
        ends = [line["end"] for line in lines if line["kind"] == kind.name]
        if not ends:
            continue
        numbers = [len(ends), *(ends.count(end) for end in ENDS)]
        totals = [a + b for a, b in zip(totals, numbers, strict=True)]
        rows.append(f"| {kind.name} | {' | '.join(map(str, numbers))} |")
    rows.append(f"| all | {' | '.join(map(str, totals))} |")
    return "\n".join(rows)


def tried(lab: Lab, kind: str, number: int) -> Outcome:
    """Tries one fault."""
    chosen = next(k for k in KINDS if k.name == kind)
    try:
        return chosen.fault(lab, random.Random(f"{kind} {number}"))
    except NotPermittedError as error:
        return Outcome(OTHER, f"not permitted here: {error}")


def main() -> int:
    """Runs the harness; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/faults"))
    options.add_argument("--only", default="")
    options.add_argument("--number", type=int, default=10**9)
    given = options.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
    results = folder / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(line["kind"], line["number"]) for line in lines}
    lab = Lab(folder)
    for kind in KINDS:
        for number in range(min(kind.number, given.number)):
            if given.only not in kind.name or (kind.name, number) in done:
                continue
            began = time.monotonic()
            outcome = tried(lab, kind.name, number)
            line = {"kind": kind.name, "number": number, **outcome._asdict(), "seconds": time.monotonic() - began}
            lines.append(line)
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            mark = "" if outcome.end in (BIT_FOR_BIT, REFUSED) else "  <-- " + outcome.said
            print(f"{kind.name} {number}: {outcome.end}, {line['seconds']:.1f} s{mark}", flush=True)
    (folder / "table.md").write_text(table(lines) + "\n")
    print(table(lines))
    return 1 if any(line["end"] not in (BIT_FOR_BIT, REFUSED) for line in lines) else 0


if __name__ == "__main__":
    with hearing():
        status = main()
    sys.exit(status)
