"""Bytes that a compiled program reads and writes on one device, read from its text."""

import math
import re

from experiments.benchmarks.hlo import computations, executions, result_bytes

# These move nothing: names for other results, or control whose insides are counted on their own.
FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"))
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_OPERAND = re.compile(r"%([\w.\-]+)")


def traffic(text: str | None, *, branches: bool = True, main: bool = False) -> int:
    """Every instruction reads its operands and writes its result, and loops count as often as they run.

    A fusion is one instruction. What stays in a cache between instructions is counted all the same.

    Args:
      text: of a compiled program.
      branches: count both sides of every branch, else neither.
      main: count the main memory alone. The compiler of a TPU itself keeps what fits in vector memory, ``S(1)``.

    Raises:
      ValueError: a loop does not say how often it runs.
    """
    bodies, entry = computations(text or "")
    times = executions(bodies, entry, fused=False, branches=branches)
    total = 0.0
    for name, count in times.items():
        if math.isinf(count):
            raise ValueError(f"{name} runs in a loop of unknown length.")
        sizes: dict[str, int] = {}
        for line in bodies[name]:
            found = _INSTRUCTION.match(line)
            if found is None:
                continue
            result, kind, rest = found[2], found[3], found[4]
            sizes[found[1]] = result_bytes(result, kind, main=main)
            if kind in FREE or kind.endswith("-done"):
                continue
            operands = rest.split("), ")[0]
            read = sum(sizes.get(o, 0) for o in _OPERAND.findall(operands))
            if kind == "slice-start":  # reads no more than it delivers
                read = min(read, result_bytes(result, kind))
            total += count * (sizes[found[1]] + read)
    return int(total)
