"""Bytes that a compiled program reads and writes on one device, read from its text."""

import math
import re
from typing import NamedTuple

from experiments.benchmarks.hlo import array_bytes, computations, executions, result_bytes

# These move nothing: names for other results, or control whose insides are counted on their own.
FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"))
SLICES = ("slice", "dynamic-slice")
UPDATE = "dynamic-update-slice"
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"calls=%([\w.\-]+)")
_ELEMENT = re.compile(r"\bindex=(\d+)")


class Instruction(NamedTuple):
    """One instruction of a computation."""

    name: str
    result: str  # the type
    kind: str
    operands: list[str]
    called: str  # a fused computation, or empty
    number: str  # of a parameter
    element: int  # of a tuple
    is_root: bool


def traffic(text: str | None, *, branches: bool = True, main: bool = False) -> int:
    """Every instruction reads its operands and writes its result, and loops count as often as they run.

    A fusion is one instruction. What it cuts out of an operand, or writes into one in place, counts as that part alone.
    What stays in a cache between instructions is counted all the same.

    Args:
      text: of a compiled program.
      branches: count both sides of every branch, else neither.
      main: count the main memory alone. The compiler of a TPU itself keeps what fits in vector memory, ``S(1)``.

    Raises:
      ValueError: a loop does not say how often it runs.
    """
    bodies, entry = computations(text or "")
    times = executions(bodies, entry, fused=False, branches=branches)
    parts: dict[str, tuple[dict[int, int], list[int | None]]] = {}
    total = 0.0
    for name, count in times.items():
        if math.isinf(count):
            raise ValueError(f"{name} runs in a loop of unknown length.")
        sizes: dict[str, int] = {}
        for x in instructions(bodies[name]):
            sizes[x.name] = result_bytes(x.result, x.kind, main=main)
            if x.kind in FREE or x.kind.endswith("-done"):
                continue
            read = [sizes.get(o, 0) for o in x.operands]
            written = sizes[x.name]
            if x.kind == "slice-start" or x.kind in SLICES:  # reads no more than it delivers
                read[:1] = [min(read[0], result_bytes(x.result, x.kind))]
            elif x.kind == UPDATE:
                read[0], written = 0, min(written, read[1])
            elif x.called in bodies:
                if x.called not in parts:
                    parts[x.called] = _parts(list(instructions(bodies[x.called])))
                of_operands, of_results = parts[x.called]
                read = [min(r, of_operands.get(i, r)) for i, r in enumerate(read)]
                results = [(math.inf if part is None else part) for part in of_results]
                written = int(sum(map(min, array_bytes(x.result, main=main), results)))
            total += count * (written + sum(read))
    return int(total)


def instructions(lines: list[str]) -> list[Instruction]:
    """The instructions of a computation, in its order."""
    found = []
    for match in filter(None, map(_INSTRUCTION.match, lines)):
        operands, called, element = match[5].split("), ")[0], _CALLED.search(match[5]), _ELEMENT.search(match[5])
        names, number = _OPERAND.findall(operands), operands.split(")")[0]
        found.append(
            Instruction(
                name=match[2],
                result=match[3],
                kind=match[4],
                operands=names,
                called=called[1] if called else "",
                number=number,
                element=int(element[1]) if element else 0,
                is_root=bool(match[1]),
            )
        )
    return found


def _parts(body: list[Instruction]) -> tuple[dict[int, int], list[int | None]]:
    """Bytes of the parts of operands that a fused computation reads, and of its results that it writes.

    Operands that are read whole are left out; None stands for a result that is written whole.
    """
    by_name = {x.name: x for x in body}
    size = lambda name: result_bytes(by_name[name].result, by_name[name].kind)  # noqa: E731

    def source(name: str) -> str:
        while by_name[name].kind == "bitcast":
            name = by_name[name].operands[0]
        return name

    root = next(x for x in body if x.is_root)
    found = [by_name[source(o)] for o in (root.operands if root.kind == "tuple" else [root.name])]
    results = [size(x.operands[1]) if x.kind == UPDATE else None for x in found]
    reads: dict[str, int] = {}
    whole: set[str] = set()
    for x in body:
        for place, operand in enumerate(x.operands):
            name = source(operand)
            if x.kind in SLICES and place == 0:
                reads[name] = reads.get(name, 0) + size(x.name)
            elif x.kind == UPDATE and place == 0 and x in found:
                reads.setdefault(name, 0)
            elif x.kind not in ("bitcast", "tuple"):
                whole.add(name)
    whole |= {x.name for x in found}
    operands = {int(x.number): reads[x.name] for x in body if x.kind == "parameter" and x.name in reads.keys() - whole}
    return operands, results
