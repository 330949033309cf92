"""Compiles what users run for TPUs and GPUs, on a CPU, and says what the programs hold, read, send and cost to compile.

    make tpu                                                      # everything: some hours on two cores, resumable
    make cuda
    .venv-tpu/bin/python -m experiments.benchmarks.accelerators --topologies v5e --only network --methods rigl,set

  --topologies NAMES  v5e, v5p or v6e for one TPU; a slice such as v5e:16x16, whose mesh has Explicit axes; h100 for one
                      GPU, h100:8 for eight (default: v5e,v5p,v6e,v5e:16x16)
  --only GROUPS       from network, selection, frameworks, layouts, scaling (default: all)
  --methods NAMES     of the network group (default: the whole catalogue, and RigL with two structures)
  --programs NAMES    of the network group, from update, between, branch, quick, init (default: all)
  --out DIR           where accelerators.jsonl, accelerators.md, results.json and index.html go (default: runs/bench)
  --texts DIR         write the texts of the compiled programs there
  --again             compile anew what DIR already has figures of; without it a run goes on where the last one ended
  --list              print what would be compiled, and compile nothing
  --report            compile nothing; print the table of the figures that DIR has

Nothing is run, and no accelerator is needed: the compilers come with libtpu, which `make tpu` installs into .venv-tpu,
and with jax's CUDA plugin, which `make cuda` installs into .venv-cuda.

Exit status: 0; 1 where a program does not compile (the others do); 2 for wrong arguments, or without a compiler.
"""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from dstjax.checks import suggest
from experiments import command_line
from experiments.alone import alone
from experiments.benchmarks import accelerator_table, chips, hlo, machine, page, records
from experiments.benchmarks.accelerator_programs import GROUPS, PROGRAMS, Program, names, programs
from experiments.benchmarks.compilation import uncached
from experiments.benchmarks.held import held
from experiments.benchmarks.traffic import traffic

FILE = "accelerators.jsonl"
NAME = "accelerators"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser("benchmarks.accelerators", __doc__)
    parser.add_argument("--topologies", default=",".join(chips.USUAL))
    parser.add_argument("--only", default=",".join(GROUPS))
    parser.add_argument("--methods", default="")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--texts", type=Path)
    for flag in ("again", "list", "report"):
        parser.add_argument(f"--{flag}", action="store_true")
    given = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        groups = _chosen("only", given.only, GROUPS)
        methods = _methods(given.methods)
        steps = _chosen("programs", given.programs, PROGRAMS)
        whole = True
        if not given.report:
            jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is left alone
            found = [
                (on, p)
                for on in [chips.target(name) for name in given.topologies.split(",") if name]
                for p in programs(on.mesh.size, methods, groups)
                if p.group != "network" or p.case["program"] in (*steps, "step")
            ]
            if given.list:
                print("\n".join(_title(on, p) for on, p in found))
                return 0
            command = " ".join(["python -m experiments.benchmarks.accelerators", *words])
            with alone(given.out):
                whole = _compile(found, given.out / FILE, command, given.texts, again=given.again)
        if not (given.out / FILE).is_file():
            raise ValueError(f"{given.out} has no {FILE}; run without --report first, or name another --out.")
    except ValueError as error:
        return command_line.failed(error, 2)
    table = accelerator_table.markdown([row for row in records.read(given.out) if row.get("benchmark") == NAME])
    (given.out / f"{NAME}.md").write_text(table + "\n")
    page.write(given.out)
    print(f"\n{table}\n\nWritten to {given.out}: {FILE}, {NAME}.md, results.json, index.html.")
    return int(not whole)


def measured(program: Program, on: chips.Target) -> tuple[dict[str, Any], str]:
    """Compiles one program and reads what it holds and does on each device; the text comes with it."""
    jax.clear_caches()
    # What a process with such a device would be told: the width of a counting pass depends on it.
    told = mock.patch.object(jax, "default_backend", return_value=on.platform)
    with uncached(), jax.set_mesh(on.mesh), told:
        start = time.process_time()
        lowered = program.lower(on.mesh)
        middle = time.process_time()
        done = lowered.compile(compiler_options=program.options)
        end = time.process_time()
    text, memory = done.as_text() or "", done.memory_analysis()
    cost, arrays = done.cost_analysis(), held(text)
    values = {
        "trace_cpu_seconds": round(middle - start, 2),
        "compile_cpu_seconds": round(end - middle, 2),
        "bytes": traffic(text, branches=False, main=True),
        "bytes_with_branches": traffic(text, main=True),
        "bytes_of_all_memories": traffic(text, branches=False),
        "bytes_of_all_memories_with_branches": traffic(text),
        "bytes_by_compiler": int((cost or {}).get("bytes accessed", 0)),
        "array_bytes": arrays,
        "array_bytes_per_weight": arrays * on.mesh.size / program.weights,
        "temporary_bytes": memory.temp_size_in_bytes,
        "temporary_bytes_per_weight": memory.temp_size_in_bytes * on.mesh.size / program.weights,
        "argument_bytes": memory.argument_size_in_bytes,
        "branches": hlo.branches(text),
        "sorts": hlo.sorts(text),
        **{f"collective_{name}": x for name, x in hlo.collectives(text).values().items()},
        "compiler": " ".join(on.compiler),
        "commit": machine.commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    return values, text


def _compile(
    found: list[tuple[chips.Target, Program]], path: Path, command: str, texts: Path | None, *, again: bool
) -> bool:
    """Compiles what is not in the file yet, one after the other, and writes after each; whether all went well."""
    known = [] if not path.is_file() else [r for r in records.read(path.parent) if r.get("benchmark") == NAME]
    rows = {_key(row["case"]): row for row in known if row["kind"] == "value"}
    header = machine.facts(jax.devices("cpu")[0], command) | {"benchmark": NAME}
    header["device"] = {"platform": "none", "kind": "compiled for on a CPU"}
    header["versions"] |= dict(on.compiler for on, _ in found)
    missing = [x for x in found if again or _key(_case(*x)) not in rows]
    print(f"{len(found) - len(missing)} of {len(found)} programs are in {path}; {len(missing)} to compile.", flush=True)
    whole = True
    for number, (on, program) in enumerate(missing, 1):
        case = _case(on, program)
        try:
            values, text = measured(program, on)
            row = records.value(NAME, case, **values)
            if texts is not None:
                texts.mkdir(parents=True, exist_ok=True)
                (texts / f"{re.sub(r'[^A-Za-z0-9.]+', '-', _title(on, program))}.txt").write_text(text)
        except Exception as error:  # one that fails must not cost the figures of the others
            whole = False
            row = records.skipped(NAME, case, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        rows[_key(case)] = row
        records.write(path, header, rows.values())
        print(f"[{number}/{len(missing)}] {records.line(row)}", flush=True)
    return whole


def _case(on: chips.Target, program: Program) -> dict[str, Any]:
    return {"topology": on.name, "group": program.group, **program.case}


def _key(case: dict[str, Any]) -> str:
    return repr(sorted(case.items()))


def _title(on: chips.Target, program: Program) -> str:
    return ", ".join(str(x) for x in _case(on, program).values())


def _chosen(option: str, given: str, known: Sequence[str] | dict[str, Any]) -> list[str]:
    """The names of a list, in commas.

    Raises:
      ValueError: one is not known.
    """
    found = [name.strip() for name in given.split(",") if name.strip()]
    for name in found:
        if name not in known:
            raise ValueError(f"--{option} {name} is not known; {suggest(name, list(known))}")
    return found


def _methods(given: str) -> list[str]:
    """The methods of a list in commas, some of whose names hold one."""
    known, rest, found = names(), given.strip(), []
    while rest:
        longest = max((n for n in known if rest.startswith(n) and rest[len(n) :][:1] in ("", ",")), key=len, default="")
        if not longest:
            raise ValueError(f"--methods {rest} is not known; {suggest(rest.split(',')[0], known)}")
        found.append(longest)
        rest = rest[len(longest) :].lstrip(", ")
    return found or known


if __name__ == "__main__":
    command_line.start(main)
