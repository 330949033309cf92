"""Bytes of the arrays that a compiled program holds at a time beside its arguments and results, read from its text."""

import functools
import re
from collections import Counter
from typing import Any

from experiments.benchmarks.hlo import array_bytes, computations, result_bytes
from experiments.benchmarks.traffic import Instruction, instructions

Array = tuple[str, int]  # the instruction that makes it, and which of its results it is
Made = Any  # an array, a list of what the elements of a tuple are, or None for what the program is given

_GIVEN = frozenset(("parameter", "constant"))
_NAMES = frozenset(("tuple", "get-tuple-element", "bitcast"))  # these read nothing
_SAME = frozenset(("bitcast", "while", "opt-barrier"))  # their operand by another name; a loop carries it in place
_CONTROL = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = .*? (?:while|conditional|call)\(")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|true_computation|false_computation)=(%?[\w.\-]+)|branch_computations=\{([^}]*)\}"
)


def held(text: str | None) -> int:
    """The most that arrays take of the main memory at a time, in the order in which the program runs.

    An array is held from the instruction that makes it to the last that reads it. What the program returns is not
    counted: it lies where the caller wants it, in donated arguments above all. A compiler's own statistics differ in
    three ways: an array may lie where a result will, or where its operand lay; what comes with the programs of kernels
    counts too; and so does what lies idle between arrays.

    Args:
      text: of a compiled program, in the order of its schedule.

    Raises:
      ValueError: the text is in no such order.
    """
    if text and "is_scheduled=true" not in text.partition("\n")[0]:
        raise ValueError("the program has no schedule; expected the text of a compiled one.")
    bodies, entry = computations(text or "")

    @functools.cache
    def most(name: str) -> int:
        return _most(instructions(bodies[name]), _inside(bodies[name]))

    def _most(body: list[Instruction], inside: dict[str, list[str]]) -> int:
        made: dict[str, Made] = {}
        sizes: dict[Array, int] = {}
        last: dict[Array, int] = {}  # where an array is read for the last time
        for place, x in enumerate(body):
            made[x.name] = _made(x, made, sizes)
            if x.kind not in _NAMES:
                last.update((array, place) for o in x.operands for array in _arrays(made.get(o)))
        returned = {array for x in body if x.is_root for array in _arrays(made[x.name])}
        begins: Counter[str] = Counter()
        ends: Counter[int] = Counter()
        for array in sizes.keys() & last.keys() - returned:
            begins[array[0]] += sizes[array]
            ends[last[array]] += sizes[array]
        total = found = 0
        for place, x in enumerate(body):
            total += begins[x.name]
            found = max(found, total + max(map(most, inside.get(x.name, ())), default=0))
            total -= ends[place]
        return found

    return most(entry) if entry else 0


def _made(x: Instruction, made: dict[str, Made], sizes: dict[Array, int]) -> Made:
    """What the result of an instruction is; writes down how many bytes new arrays have."""
    if x.kind in _GIVEN:
        return None
    if x.kind == "tuple":
        return [made.get(o) for o in x.operands]
    if x.kind in _SAME or x.kind.endswith("-done"):
        return made.get(x.operands[0])
    if x.kind == "get-tuple-element":
        of = made.get(x.operands[0])
        return of[x.element] if isinstance(of, list) else of
    together = x.kind.endswith("-start") or not x.result.startswith("(")
    found = [result_bytes(x.result, x.kind, main=True)] if together else array_bytes(x.result, main=True)
    arrays = [(x.name, i) for i in range(len(found))]
    sizes.update(zip(arrays, found, strict=True))
    return arrays[0] if together else list(arrays)


def _arrays(of: Made) -> list[Array]:
    if isinstance(of, list):
        return [array for each in of for array in _arrays(each)]
    return [] if of is None else [of]


def _inside(lines: list[str]) -> dict[str, list[str]]:
    """The computations that loops, branches and calls run, by the name of the instruction; fusions hold nothing."""
    found = {}
    for line in lines:
        if instruction := _CONTROL.match(line):
            listed = ",".join(a or b for a, b in _CALLED.findall(line))
            found[instruction[1]] = [name.strip().lstrip("%") for name in listed.split(",")]
    return found
