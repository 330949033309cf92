"""What a compiled program sends between devices, read from its text."""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # the others end with their number of bits

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_ELSEWHERE = re.compile(r"S\([1-9]")  # in a layout: not in the main memory of the device
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_FUSED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_DEFINED = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BODY = re.compile(r"body=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Of one execution on one device, with both sides of every branch counted, so that it is never too little."""

    operations: dict[str, int]  # kind -> executed
    in_text: int  # instructions
    bytes: int  # of all their results
    largest: int  # bytes of the largest result

    @property
    def total(self) -> int:
        return sum(self.operations.values())

    def values(self) -> dict[str, int | str]:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.operations.items())) or "none"
        return {
            "operations": self.total,
            "kinds": kinds,
            "operations_in_text": self.in_text,
            "bytes": self.bytes,
            "largest_bytes": self.largest,
        }


def collectives(text: str | None) -> Collectives:
    """The collectives of the text of a compiled program; what is inside a loop counts as often as it runs.

    Raises:
      ValueError: a loop that holds a collective does not say how often it runs.
    """
    bodies, entry = computations(text or "")
    times = executions(bodies, entry)
    operations: Counter[str] = Counter()
    in_text = total = largest = 0
    for name, lines in bodies.items():
        for line in lines:
            found = _COLLECTIVE.search(line)
            if found is None or name not in times:
                continue
            if math.isinf(times[name]):
                raise ValueError(f"a collective in a loop of unknown length: {line.strip()[:200]}")
            size = result_bytes(found[1], found[2] + (found[3] or ""))
            operations[found[2]] += int(times[name])
            in_text += 1
            total += size * int(times[name])
            largest = max(largest, size)
    return Collectives(dict(operations), in_text, total, largest)


def branches(text: str) -> int:
    """How many ``conditional`` instructions there are."""
    return text.count(" conditional(")


def sorts(text: str) -> int:
    """How many ``sort`` instructions there are."""
    return text.count(" sort(")


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by name, and the name of the one that the program starts with."""
    bodies: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = start[1]
            bodies[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current:
            bodies[current].append(line)
    return bodies, entry


def executions(
    bodies: dict[str, list[str]], entry: str, *, fused: bool = True, branches: bool = True
) -> dict[str, float]:
    """How often each computation runs; infinite below a loop of unknown length.

    Args:
      bodies: as :func:`computations` gives them.
      entry: where the program starts.
      fused: follow the insides of fusions and reductions too.
      branches: follow both sides of every branch, else neither; a loop that may be left out is a branch too.
    """
    calls: dict[str, list[tuple[str, float]]] = {}
    for name, lines in bodies.items():
        calls[name] = []
        for line in lines:
            if " conditional(" in line and not branches:
                continue
            called = _CALLED.findall(line)
            if fused or " call(" in line:
                called += _FUSED.findall(line)
            for listed in _BRANCHES.findall(line):
                called += [c.strip().lstrip("%") for c in listed.split(",")]
            least, most = _runs(line, lines, bodies) if " while(" in line else (1.0, 1.0)
            each = most if branches else least
            calls[name] += [(c, each) for c in called if c in bodies]
    times: dict[str, float] = defaultdict(float)

    def visit(name: str, factor: float) -> None:
        times[name] += factor
        for callee, each in calls[name]:
            visit(callee, factor * each)

    visit(entry, 1.0)
    return times


class _Instruction(NamedTuple):
    kind: str
    operands: list[str]
    inside: str  # of the parentheses
    after: str  # the attributes


def _runs(line: str, around: list[str], bodies: dict[str, list[str]]) -> tuple[float, float]:
    """How often the body of a ``while`` runs, at least and at most; infinite where that is not known.

    CPU's compiler writes it down. TPU's does not; there a counter tells that begins with a constant, or with either of
    two, grows by one, and is compared with another.
    """
    unknown = math.inf, math.inf
    if told := _TRIPS.search(line):
        return float(told[1]), float(told[1])
    condition, body = (
        bodies.get(found[1], []) if found else [] for found in (_CONDITION.search(line), _BODY.search(line))
    )
    outside, asked, done = (_instructions(lines) for lines in (around, condition, body))
    carried = re.search(r" while\(%?([\w.\-]+)\)", line)
    test, after = asked.get("ROOT"), done.get("ROOT")
    start = outside.get(carried[1]) if carried else None
    if test is None or after is None or start is None or test.kind != "compare" or "direction=LT" not in test.after:
        return unknown
    counter, ends = asked.get(test.operands[0]), _constants(asked, test.operands[1])
    place = re.search(r"index=(\d+)", counter.after) if counter and counter.kind == "get-tuple-element" else None
    if place is None or len(ends) != 1 or "tuple" not in (start.kind, after.kind):
        return unknown
    begins, step = _constants(outside, start.operands[int(place[1])]), done.get(after.operands[int(place[1])])
    if not begins or step is None or step.kind != "add" or [1] not in [_constants(done, o) for o in step.operands]:
        return unknown
    return float(max(ends[0] - max(begins), 0)), float(max(ends[0] - min(begins), 0))


def _instructions(lines: list[str]) -> dict[str, _Instruction]:
    """Those of a computation by name, the last one as ``ROOT`` besides."""
    found = {}
    for line in lines:
        if parts := _DEFINED.match(line):
            root, name, kind, inside, after = parts.groups()
            found[name] = _Instruction(kind, _NAME.findall(inside), inside, after)
            if root:
                found["ROOT"] = found[name]
    return found


def _constants(known: dict[str, _Instruction], name: str) -> list[int]:
    """The integers that an instruction may hold, through copies and choices; none where they are not known."""
    at = known.get(name)
    while at is not None and at.kind in ("copy", "bitcast", "reshape"):
        at = known.get(at.operands[0])
    if at is not None and at.kind == "select":
        either = [_constants(known, operand) for operand in at.operands[1:]]
        return [x for found in either for x in found] if all(either) else []
    if at is None or at.kind != "constant" or not re.fullmatch(r"-?\d+|\{-?\d+\}", at.inside):
        return []
    return [int(at.inside.strip("{}"))]


def result_bytes(result: str, kind: str, *, main: bool = False) -> int:
    """Bytes of a result type; an asynchronous start returns its operand too, which is left out.

    Args:
      result: the type, of one array or of a tuple.
      kind: the instruction.
      main: only what lies in the main memory of the device; a layout names another memory by ``S(1)`` and higher.
    """
    arrays = [
        (size, at)
        for size, dims, at in _arrays(result)
        if not (kind.endswith("-start") and not dims and _ELSEWHERE.search(at))  # a flag to wait for
    ]
    if kind.endswith("-start") and len(arrays) > 1:
        half = len(arrays) // 2
        arrays = arrays[:half] if kind == "copy-start" else arrays[half:]
    return sum(size for size, at in arrays if not (main and _ELSEWHERE.search(at)))


def array_bytes(result: str, *, main: bool = False) -> list[int]:
    """Bytes of each array of a result type; with ``main`` 0 of what lies in another memory."""
    return [0 if main and _ELSEWHERE.search(at) else size for size, _, at in _arrays(result)]


def _arrays(result: str) -> list[tuple[int, str, str]]:
    """Bytes, dimensions and layout of each array of a type."""
    return [
        (
            math.prod(int(d) for d in dims.split(",") if d)
            * BITS.get(name, int(re.sub(r"\D.*", "", name[1:]) or 32))
            // 8,
            dims,
            at,
        )
        for name, dims, at in _ARRAY.findall(result)
    ]
