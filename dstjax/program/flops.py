"""Counts the multiply-adds per parameter leaf of any JAX function, from its jaxpr; nothing is computed.

The contractions of a program (``dot_general``, ``ragged_dot_general``, ``conv_general_dilated``) are nearly all of its
work. Each is charged to the leaf whose elements make up one of its operands, so that the density of the leaf tells the
work that is left. What contracts nothing (activations, normalisations, pooling, look-ups, FFTs, linear solvers) is not
counted, as in the tables of the papers.

The count is the short form 2 * H_out * W_out * kh * kw * c_in / groups * c_out * density of RigL and its successors:
positions in the padding count as any other.

Reference: Evci et al., "Rigging the lottery: making all tickets winners", 2020, appendix on FLOPs.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from dstjax._arrays.leaves import named
from dstjax._arrays.trees import Tree
from dstjax.checks import check_number, suggest
from dstjax.program.contractions import CONTRACTIONS
from dstjax.program.origins import Origin, combined, either, joined, picked, replaced, strongest
from dstjax.program.primitives import CALLS, ELEMENTWISE, MOVES, scan_sizes
from dstjax.program.tracing import trace
from dstjax.program.walking import walk


class Flops(NamedTuple):
    """Holds the work of one call of a function; divide by the batch size for the work of an example."""

    multiply_adds: dict[str, int]  # by path, every leaf of the parameters in their order; 0 where it feeds no product
    other: int  # multiply-adds that no single leaf feeds, as in attention; always dense

    def dense(self) -> int:
        """Returns the floating-point operations with every weight active: two a multiply-add."""
        return 2 * (sum(self.multiply_adds.values()) + self.other)

    def sparse(self, densities: Mapping[str, float]) -> float:
        """Returns the floating-point operations when only a share of some leaves is active and the rest costs nothing.

        Args:
          densities: path -> density in [0, 1], best the realised one; leaves that it does not name are dense.

        Raises:
          ValueError: a path that is no leaf, or a density out of range.
        """
        for path, density in densities.items():
            if path not in self.multiply_adds:
                raise ValueError(f"densities: {path!r} is no leaf; {suggest(path, self.multiply_adds)}")
            check_number(f"density of {path!r}", density, "a number in [0, 1]", lambda d: 0 <= d <= 1)
        return 2 * (sum(n * densities.get(p, 1.0) for p, n in self.multiply_adds.items()) + self.other)


def count(function: Callable[..., Any], params: Tree, *args: Any) -> Flops:
    """Counts the multiply-adds of ``function(params, *args)`` by the leaf of ``params`` that feeds them.

    A leaf feeds a product if its elements make up one operand: moved, repeated, cut, joined with others (which then
    share by their number of elements), or changed one by one, as by a mask or a scale. A leaf that several products
    use is charged with each. Where two leaves meet element by element the larger one feeds. So that nobody claims a
    saving in doubt, ``other`` has the products of two of equal size, and of what is not zero where the leaf is: a
    weight that a mean, a constant or a product of other leaves was added to, unless a mask follows.

    A loop counts all its rounds, ``cond`` its costliest branch, ``shard_map`` the work of all devices together, a
    transposed convolution the taps that meet an input. Under ``grad`` the products of the backward pass count too:
    those with a weight for its leaf, those that make the gradient of a weight for ``other``. Results that are never
    used count like any other.

    Args:
      function: any function that JAX can trace; bind what is no array with ``functools.partial``.
      params: tree of arrays or ``jax.ShapeDtypeStruct``, as from ``jax.eval_shape``.
      *args: the other arguments, likewise.

    Raises:
      ValueError: multiply-adds in a loop whose number of rounds does not show in the program, or inside a primitive
        that cannot be looked into (a Pallas kernel, a foreign call); a program that branches on values.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.zeros((20, 30)), "b": jnp.zeros(30)}
    >>> flops = count(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]), params, jnp.zeros((1, 20)))
    >>> flops.multiply_adds, flops.dense(), flops.sparse({"w": 0.1})
    ({'b': 0, 'w': 600}, 1200, 120.0)
    """
    shapes = {name: np.shape(leaf) for name, leaf in named(params).items()}
    closed, _ = trace(function, params, args)
    counts: Counter[str | None] = Counter()
    _walk(closed.jaxpr, of_leaves(shapes, len(closed.jaxpr.invars)), counts)
    return Flops({path: counts[path] for path in shapes}, counts[None])


def of_leaves(shapes: Mapping[str, tuple[int, ...]], number: int) -> list[Origin]:
    """Describes the inputs of a program, first the leaves of its parameters, by path."""
    leaves = [Origin(parts=((path, Fraction(1)),), size=math.prod(shape)) for path, shape in shapes.items()]
    return [*leaves, *[Origin(data=True)] * (number - len(leaves))]


def literal(atom: Any) -> Origin:
    """Describes a number that stands in the program."""
    return Origin(value=float(np.real(atom.val)) if np.ndim(atom.val) == 0 else None)


_Counts = Counter[str | None]
_Result = list[Origin]

_REPEATS = {"broadcast_in_dim", "tile"}
_PICKS = {"slice", "dynamic_slice", "gather", "split", "unstack"}
_JOINS = {"concatenate", "stack"}
_WRITES = {"scatter": 2, "dynamic_update_slice": 1}  # which operand is written into the first
_OPAQUE = {"ffi_call", "pure_callback", "scaled_matmul_wrapper"}


def _walk(jaxpr: Any, inputs: Sequence[Origin], counts: _Counts) -> _Result:
    """Adds what a jaxpr multiplies to ``counts`` and returns its results; None stands for no leaf."""

    def equation(eqn: Any, operands: _Result) -> _Result:
        return _equation(eqn, operands, counts)

    return walk(jaxpr, inputs, [Origin()] * len(jaxpr.constvars), equation, literal)


def _equation(eqn: Any, operands: _Result, counts: _Counts) -> _Result:
    name = eqn.primitive.name
    unknown = [Origin(data=any(v.data for v in operands))] * len(eqn.outvars)
    if name in CONTRACTIONS:
        _charge(strongest(operands[:2]), CONTRACTIONS[name](eqn), counts)
        return unknown
    if name in CALLS:
        return _call(eqn, operands, counts)
    moved = moves(eqn, operands)
    if moved is not None:
        return moved
    if name == "scan":
        return _scan(eqn, operands, counts)
    if name == "while":
        return _while(eqn, operands, counts)
    if name == "cond":
        return _cond(eqn, operands, counts)
    if name in _OPAQUE or any(_multiplies(inner) for inner in core.jaxprs_in_params(eqn.params)):
        raise ValueError(
            f"the multiply-adds inside primitive {name!r} cannot be counted; expected contractions that show in the "
            "jaxpr. Count a version of the function that says the same with jax.numpy or jax.lax."
        )
    return unknown


def moves(eqn: Any, operands: Sequence[Origin]) -> _Result | None:
    """Describes the results of what moves, repeats, cuts, joins or changes elements; None for all else."""
    name, sizes = eqn.primitive.name, [math.prod(a.aval.shape) for a in eqn.invars]
    whole = [math.prod(v.aval.shape) for v in eqn.outvars]
    if name in ELEMENTWISE:
        return [combined(eqn, operands, sizes, whole[0])]
    if name in MOVES and len(operands) == len(whole):
        return [*operands]
    if name in _REPEATS:
        more = len(eqn.outvars[0].aval.shape) > len(eqn.invars[0].aval.shape) > 0 or whole[0] > sizes[0] > 1
        return [operands[0]._replace(spread=operands[0].spread or more)]
    if name in _PICKS:
        by_data = any(v.data for v in operands[1:])
        return [picked(operands[0], size, by_data=by_data) for size in whole]
    if name in _JOINS:
        return [joined(operands, sizes)]
    if name in _WRITES:
        i = _WRITES[name]
        return [replaced(operands[0], operands[i], Fraction(sizes[i], max(whole[0], 1)))]
    if name == "pad":
        if sizes[0] > whole[0]:
            return [picked(operands[0], whole[0], by_data=False)]
        return [joined([operands[0], Origin()], [sizes[0], whole[0] - sizes[0]])]
    if name == "reduce_sum" and sizes[0] == whole[0]:  # over axes of size 1
        return [*operands]
    return None


def _charge(value: Origin, products: int, counts: _Counts) -> None:
    rest = products
    for path, share in () if value.filled else value.parts:
        part = math.floor(products * share)
        counts[path] += part
        rest -= part
    counts[None] += rest


def _call(eqn: Any, operands: _Result, counts: _Counts) -> _Result:
    (inner,) = core.jaxprs_in_params(eqn.params)
    inside: _Counts = Counter()
    results = _walk(inner, operands, inside)
    devices = 1
    if eqn.primitive.name == "shard_map":
        axes = "newly_manual_axes" if "newly_manual_axes" in eqn.params else "manual_axes"  # as jax names them
        devices = math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params[axes])
    _add(counts, inside, devices)
    return results


def _scan(eqn: Any, operands: _Result, counts: _Counts) -> _Result:
    consts, carried = scan_sizes(eqn.params)
    split, length = consts + carried, eqn.params["length"]
    slices = [v._replace(size=v.size // max(length, 1)) for v in operands[split:]]
    inside, results = _rounds(eqn.params["jaxpr"].jaxpr, operands[:consts], operands[consts:split], slices, length)
    _add(counts, inside, length)
    # What each round returns is stacked; unless the rounds cut it from a stack it is repeated.
    return results[:carried] + [v._replace(size=v.size * length, spread=True) for v in results[carried:]]


def _while(eqn: Any, operands: _Result, counts: _Counts) -> _Result:
    test_consts, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    carry = operands[test_consts + consts :]
    rounds = _static_rounds(eqn)
    body = eqn.params["body_jaxpr"].jaxpr
    inside, results = _rounds(body, operands[test_consts : test_consts + consts], carry, [], rounds)
    _walk(eqn.params["cond_jaxpr"].jaxpr, [*operands[:test_consts], *carry], inside)
    if rounds is None and any(inside.values()):
        raise ValueError(
            "the multiply-adds of a while loop cannot be counted; expected a number of rounds that shows in the "
            "program. Write it as lax.scan, or as lax.fori_loop with Python integers as its bounds."
        )
    _add(counts, inside, rounds or 0)
    return results


def _rounds(
    jaxpr: Any, consts: _Result, carry: _Result, slices: _Result, rounds: int | None
) -> tuple[_Counts, _Result]:
    """Walks one round of a loop until what is carried stays the same, and so finds what holds in every round."""
    while True:
        inside: _Counts = Counter()
        results = _walk(jaxpr, [*consts, *carry, *slices], inside)
        after = [either(a, b) for a, b in zip(carry, results[: len(carry)], strict=True)]
        if after == carry or rounds in (0, 1):
            return inside, after + results[len(carry) :]
        carry = after


def _static_rounds(eqn: Any) -> int | None:
    """Returns how often ``while i < n: i += step`` runs; None where the numbers do not show."""
    test, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    test_consts, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    if [e.primitive.name for e in test.eqns] != ["lt"] or test.outvars != test.eqns[0].outvars:
        return None
    index, limit = test.eqns[0].invars
    if index not in test.invars[test_consts:]:
        return None
    if limit in test.invars[:test_consts]:
        limit = eqn.invars[test.invars.index(limit)]
    place = test.invars.index(index) - test_consts
    start = eqn.invars[test_consts + consts + place]
    carried = body.invars[consts + place]
    steps = [e for e in body.eqns if e.outvars[0] is body.outvars[place] and e.primitive.name == "add"]
    if not steps or carried not in steps[0].invars:
        return None
    shown = [limit, start, *(a for a in steps[0].invars if a is not carried)]
    numbers = [a.val for a in shown if isinstance(a, core.Literal)]
    if len(numbers) != 3 or numbers[2] <= 0:
        return None
    return max(0, math.ceil((numbers[0] - numbers[1]) / numbers[2]))


def _cond(eqn: Any, operands: _Result, counts: _Counts) -> _Result:
    ways = []
    for branch in eqn.params["branches"]:
        inside: _Counts = Counter()
        ways.append((inside, _walk(branch.jaxpr, operands[1:], inside)))
    _add(counts, max((inside for inside, _ in ways), key=lambda c: sum(c.values())), 1)
    results = ways[0][1]
    for _, others in ways[1:]:
        results = [either(a, b) for a, b in zip(results, others, strict=True)]
    return [v._replace(data=v.data or operands[0].data) for v in results]


def _add(counts: _Counts, inside: _Counts, times: int) -> None:
    for path, products in inside.items():
        counts[path] += products * times


def _multiplies(jaxpr: Any) -> bool:
    inner = (j for eqn in jaxpr.eqns for j in core.jaxprs_in_params(eqn.params))
    return any(eqn.primitive.name in CONTRACTIONS for eqn in jaxpr.eqns) or any(_multiplies(j) for j in inner)
