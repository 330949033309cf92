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
from dstjax.program.origins import Origin, combined, either, joined, picked, strongest
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
    use is charged with each. Where two leaves meet element by element the larger one feeds. Two of equal size leave
    the product to ``other``, so that nobody claims a saving in doubt.

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
    leaves = [(name, np.size(leaf)) for name, leaf in named(params).items()]
    closed, _ = trace(function, params, args)
    inputs = [Origin(parts=((path, Fraction(1)),), size=int(size)) for path, size in leaves]
    inputs += [Origin(data=True)] * (len(closed.jaxpr.invars) - len(inputs))
    counts: Counter[str | None] = Counter()
    _walk(closed.jaxpr, inputs, counts)
    return Flops({path: counts[path] for path, _ in leaves}, counts[None])


_Counts = Counter[str | None]
_Result = list[Origin]

_REPEATS = {"broadcast_in_dim", "tile"}
_PICKS = {"slice", "dynamic_slice", "gather", "split", "unstack"}
_JOINS = {"concatenate", "stack"}
_OPAQUE = {"ffi_call", "pure_callback", "scaled_matmul_wrapper"}


def _walk(jaxpr: Any, inputs: Sequence[Origin], counts: _Counts) -> _Result:
    """Adds what a jaxpr multiplies to ``counts`` and returns its results; None stands for no leaf."""

    def equation(eqn: Any, operands: _Result) -> _Result:
        return _equation(eqn, operands, counts)

    return walk(jaxpr, inputs, [Origin()] * len(jaxpr.constvars), equation, lambda _: Origin())


def _equation(eqn: Any, operands: _Result, counts: _Counts) -> _Result:
    name = eqn.primitive.name
    unknown = [Origin(data=any(v.data for v in operands))] * len(eqn.outvars)
    if name in _PRODUCTS:
        _charge(strongest(operands[:2]), _PRODUCTS[name](eqn), counts)
        return unknown
    if name in ELEMENTWISE:
        sizes = [math.prod(a.aval.shape) for a in eqn.invars]
        return [combined(operands, sizes, math.prod(eqn.outvars[0].aval.shape))]
    if name in MOVES and len(operands) == len(eqn.outvars):
        return operands
    if name in _REPEATS:
        more = math.prod(eqn.outvars[0].aval.shape) > math.prod(eqn.invars[0].aval.shape)
        return [operands[0]._replace(spread=operands[0].spread or more)]
    if name in _PICKS:
        return [picked(operands[0], by_data=any(v.data for v in operands[1:]))] * len(eqn.outvars)
    if name in _JOINS:
        return [joined(operands, [math.prod(a.aval.shape) for a in eqn.invars])]
    if name == "pad":
        inside, whole = (math.prod(a.aval.shape) for a in (eqn.invars[0], eqn.outvars[0]))
        filled = [operands[0], Origin()], [inside, whole - inside]
        return [joined(*filled) if inside <= whole else picked(operands[0], by_data=False)]
    if name in CALLS:
        return _call(eqn, operands, counts)
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


def _charge(value: Origin, products: int, counts: _Counts) -> None:
    rest = products
    for path, share in value.parts:
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
    split = consts + carried
    inside, results = _rounds(
        eqn.params["jaxpr"].jaxpr, operands[:consts], operands[consts:split], operands[split:], eqn.params["length"]
    )
    _add(counts, inside, eqn.params["length"])
    # What each round returns is stacked; unless the rounds cut it from a stack it is repeated.
    return results[:carried] + [v._replace(spread=True) for v in results[carried:]]


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
    return any(eqn.primitive.name in _PRODUCTS for eqn in jaxpr.eqns) or any(_multiplies(j) for j in inner)


def _dot(eqn: Any) -> int:
    ((contracted, _), _) = eqn.params["dimension_numbers"]
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)


def _ragged_dot(eqn: Any) -> int:
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    ((contracted, _), _) = numbers.dot_dimension_numbers
    lhs, group_sizes = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    products = math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)
    # Groups of the contracted axis: each of them makes one slice of the result out of its own part.
    return products // group_sizes[-1] if numbers.lhs_ragged_dimensions[0] in contracted else products


def _convolution(eqn: Any) -> int:
    numbers = eqn.params["dimension_numbers"]
    lhs, rhs = (a.aval.shape for a in eqn.invars)
    out = eqn.outvars[0].aval.shape
    products = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
    for axis, dilation in enumerate(eqn.params["lhs_dilation"], 2):
        # Between the elements of a dilated input there are zeros, which are no work.
        positions = lhs[numbers.lhs_spec[axis]] if dilation > 1 else out[numbers.out_spec[axis]]
        products *= positions * rhs[numbers.rhs_spec[axis]]
    return products


_PRODUCTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
}
