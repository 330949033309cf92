"""What a compiled program sends between devices, read from its text."""

import dataclasses
import math
import re
from collections import Counter, defaultdict

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # the others end with their number of bits

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_FUSED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


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
      branches: follow both sides of every branch, else neither.
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
            trips = _TRIPS.search(line)
            each = (float(trips[1]) if trips else math.inf) if " while(" in line else 1.0
            calls[name] += [(c, each) for c in called if c in bodies]
    times: dict[str, float] = defaultdict(float)

    def visit(name: str, factor: float) -> None:
        times[name] += factor
        for callee, each in calls[name]:
            visit(callee, factor * each)

    visit(entry, 1.0)
    return times


def result_bytes(result: str, kind: str) -> int:
    """Bytes of a result type; an asynchronous start returns its operand too, which is left out."""
    sizes = [
        math.prod(int(d) for d in dims.split(",") if d) * BITS.get(name, int(re.sub(r"\D.*", "", name[1:]) or 32)) // 8
        for name, dims in _ARRAY.findall(result)
    ]
    return sum(sizes[len(sizes) // 2 :] if kind.endswith("-start") and len(sizes) > 1 else sizes)
