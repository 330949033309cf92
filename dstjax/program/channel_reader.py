"""Labels every index of every axis of every array of a program, and joins those that can only be removed together.

One walk over the jaxpr carries two things for each index: a label, and the number that the whole slice at the index
equals whatever the data are, where there is one. Labels are joined by union-find (:mod:`dstjax.program.labels`); those
that end up with 0 cannot be removed. Labels belong to a call path: a function that is called twice has two sets of
them. :mod:`dstjax.program.channel_rules` says what each primitive does.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program.channel_pointwise import fits, pointwise
from dstjax.program.channel_products import PRODUCTS
from dstjax.program.channel_record import Place, Record, is_numeric, labels_of, plain
from dstjax.program.channel_rules import RULES
from dstjax.program.primitives import CALLS, POINTWISE, SAME, scan_sizes
from dstjax.program.seen import UNKNOWN, Seen, Tag, agreed, fixed
from dstjax.program.walking import apply, programs, walk

LOOK_INTO = CALLS - {"shard_map", "custom_vmap_call"}
DERIVED = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_MOVE = SAME | {"broadcast_in_dim", "convert_element_type", "expand_dims", "reshape", "squeeze", "transpose"}
_MOST_NUMBERS = 2**26  # larger arrays of parameters alone are not computed
_REPEATED = 2**20  # nor such that repeat a smaller one for each sample: what is known of its axes says as much
_MOST_ROUNDS = 10  # what a loop carries and has not settled by then is unknown


def read(
    closed: Any, leaves: dict[str, tuple[int, ...]], params: Sequence[Any] | None = None, *, free_inputs: bool = True
) -> Record:
    """Reads a closed jaxpr whose first inputs are the leaves of the parameters, of these shapes.

    With ``params``, their numbers in order, constants are followed; else there are labels only. Results are fixed; with
    ``free_inputs`` the rows of a weight that data are multiplied with are not.
    """
    record = Record(valued=params is not None, free_inputs=free_inputs)
    inputs = []
    for i, (path, shape) in enumerate(leaves.items()):
        if not is_numeric(closed.jaxpr.invars[i].aval):  # a key: noise is drawn from it as from one of the data
            inputs.append(dataclasses.replace(plain(closed.jaxpr.invars[i]), whole="data"))
            record.leaves[path] = [*inputs[-1].axes]
            continue
        axes = [record.fresh(n) for n in shape]
        record.leaves[path] = axes
        found = Seen(tuple(axes))
        if params is not None:
            found = record.known(np.asarray(params[i]), axes)
        inputs.append(dataclasses.replace(found, leaf=Tag(path, tuple(range(len(shape))))))
    inputs += [dataclasses.replace(plain(v), whole="data") for v in closed.jaxpr.invars[len(inputs) :]]
    used = {v for eqn in closed.jaxpr.eqns for v in eqn.invars if not hasattr(v, "val")}
    for x, var in zip(inputs, closed.jaxpr.invars, strict=True):
        for axis in x.axes if var not in used else ():
            record.fix(axis, "is not used by the program")
    for x in _walk(record, closed.jaxpr, closed.consts, inputs, ()):
        record.take(x)
        for axis in x.axes:
            record.fix(axis)
    return record


def _walk(record: Record, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Seen], path: Place) -> list[Seen]:
    """Describes the results of a jaxpr at a call path."""
    number = itertools.count()

    def equation(eqn: Any, operands: list[Seen]) -> list[Seen]:
        return _equation(record, eqn, operands, (*path, next(number)))

    constants = [record.constant(x) for x in consts]
    return walk(jaxpr, inputs, constants, equation, lambda atom: record.constant(atom.val), every=False)


def _equation(record: Record, eqn: Any, operands: list[Seen], place: Place) -> list[Seen]:
    name, inner = eqn.primitive.name.replace("-", "_"), programs(eqn)
    calls = name in LOOK_INTO and len(inner) == 1 and len(inner[0][0].invars) == len(operands)
    if calls and name not in DERIVED:
        record.looked_into.add(place)
        return _walk(record, *inner[0], operands, place)
    if all(x.whole for x in operands):
        noise = name.startswith(("random", "rng", "threefry"))  # drawn in full and cut, whatever the key comes from
        whole = "data" if any(x.whole == "data" for x in operands) and not noise else "constant"
        results = [dataclasses.replace(plain(v), whole=whole) for v in eqn.outvars]
        return _computed(record, eqn, operands, results)
    if calls:
        record.looked_into.add(place)
        given = _given(record, name, eqn, operands, place)
        if not record.derives:  # the derivative of a derivative is that of its own equations
            _derivative(record, eqn, given, place)
        return record.settled(_walk(record, *inner[0], given, place), place)
    if name in _LOOPS:
        record.looked_into.add(place)
        return _LOOPS[name](record, eqn, operands, place)
    if name not in _MOVE:
        for x in operands:
            record.take(x)
    given = _given(record, name, eqn, operands, place)
    rule = RULES.get(name) or PRODUCTS.get(name)
    if rule is None and eqn.outvars and fits(name, given, getattr(eqn.outvars[0].aval, "shape", ())):
        rule = pointwise
    if rule is None:
        why = f"goes through the primitive {eqn.primitive.name!r}, which cannot be looked into"
        results = record.unread(eqn, given, why)
    else:
        results = _computed(record, eqn, given, rule(record, eqn, given))
    record.operands[place] = [labels_of(x) for x in given]
    record.results[place] = [labels_of(x) for x in results]
    return results


def _given(record: Record, name: str, eqn: Any, operands: Sequence[Seen], place: Place) -> list[Seen]:
    """Returns operands as they are used, and notes which of them are cut for that."""
    if name in POINTWISE:
        shape = eqn.outvars[0].aval.shape
        lengths = {k for x in operands if x.whole == "data" for k, a in enumerate(x.axes) if len(a) == shape[k] > 1}
        for x in operands:
            for k in lengths if x.axes and not x.whole else ():
                record.fix(x.axes[k], "meets data index by index")
    given = []
    for i, x in enumerate(operands):
        free: Sequence[int] = ()
        if record.free_inputs and name == "dot_general":
            free = eqn.params["dimension_numbers"][0][i]
        elif record.free_inputs and name == "conv_general_dilated" and i == 0:
            free = (eqn.params["dimension_numbers"].lhs_spec[1],)
        given.append(record.used(x, free))
    record.cuts[place] = [labels_of(y) if x.whole else None for x, y in zip(operands, given, strict=True)]
    return given


def _computed(record: Record, eqn: Any, operands: Sequence[Seen], results: list[Seen]) -> list[Seen]:
    """Adds the numbers of arrays that do not depend on the data."""
    avals = [v.aval for v in eqn.outvars]
    if not record.valued or any(x.array is None for x in operands) or eqn.effects:
        return results
    most = min(_MOST_NUMBERS, max(_REPEATED, 4 * sum(math.prod(map(len, x.axes)) for x in operands)))
    if not all(map(is_numeric, avals)) or any(a.size > most for a in avals):
        return results
    with jax.ensure_compile_time_eval():  # here and now, where the program is read while another is traced
        given = [jnp.asarray(x.array, v.aval.dtype) for x, v in zip(operands, eqn.invars, strict=True)]
        arrays = [np.asarray(array) for array in apply(eqn, given)]
    found = [(record.known(array, x.axes), x) for array, x in zip(arrays, results, strict=True)]
    return [dataclasses.replace(new, leaf=x.leaf, product=x.product, whole=x.whole) for new, x in found]


def _derivative(record: Record, eqn: Any, operands: list[Seen], place: Place) -> None:
    """Labels the derivative that a function brings with it, so that it can be cut like the function."""
    real = [i for i, v in enumerate(eqn.invars) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
    results = [i for i, v in enumerate(eqn.outvars) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
    forward = eqn.primitive.name == "custom_jvp_call"

    def derivative(values: Sequence[Any], slopes: Sequence[Any]) -> Any:
        def of_real(*some: Any) -> list[Any]:
            full = list(values)
            for i, x in zip(real, some, strict=True):
                full[i] = x
            found = apply(eqn, full)
            return [found[i] for i in results]

        at = [values[i] for i in real]
        return jax.jvp(of_real, at, list(slopes))[1] if forward else jax.vjp(of_real, *at)[1](list(slopes))

    def shapes(variables: Sequence[Any]) -> list[Any]:
        return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in variables]

    before, after = [eqn.invars[i] for i in real], [eqn.outvars[i] for i in results]
    closed = jax.make_jaxpr(derivative)(shapes(eqn.invars), shapes(before if forward else after))
    values = [x.plain() for x in operands]
    with record.aside():
        ends = record.settled(_walk(record, *programs(eqn)[0], values, place), place)
        of_inputs, of_results = [values[i] for i in real], [ends[i].plain() for i in results]
        slopes, found = (of_inputs, of_results) if forward else (of_results, of_inputs)
        given = [Seen(tuple(a.valued() for a in x.axes)) for x in slopes]
        slopes_out = _walk(record, closed.jaxpr, closed.consts, [*values, *given], (*place, "derivative"))
        for x, y in zip(record.settled(slopes_out, (*place, "derivative")), found, strict=True):
            for a, b in zip(x.axes, y.axes, strict=True):
                record.join(a, b)
    record.derivatives[place] = closed


def _scan(record: Record, eqn: Any, operands: list[Seen], place: Place) -> list[Seen]:
    consts, carried = scan_sizes(eqn.params)
    split = consts + carried
    for x in operands[consts:]:
        record.take(x)
    for x in operands[split:]:
        record.fix(x.axes[0], "is scanned over")
    body = eqn.params["jaxpr"]
    slices = [_slice(x) for x in operands[split:]]
    results = _rounds(record, body, operands[:consts], operands[consts:split], slices, place)
    stacked = [Seen((fixed(eqn.params["length"]), *x.axes), whole=x.whole) for x in results[carried:]]
    return results[:carried] + stacked


def _slice(x: Seen) -> Seen:
    """Describes what a round of a loop sees of an array that is scanned over: what may be there in any round."""
    scalar = UNKNOWN
    if len(x.axes) == 1 and len(x.axes[0]) and (x.axes[0].value == x.axes[0].value[0]).all():
        scalar = float(x.axes[0].value[0])
    pattern = x.pattern
    return Seen(x.axes[1:], scalar, nonzero=None if pattern is None else np.asarray(pattern.any(axis=0)), whole=x.whole)


def _while(record: Record, eqn: Any, operands: list[Seen], place: Place) -> list[Seen]:
    test, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    split = test + consts
    for x in operands[split:]:
        record.take(x)
    results = _rounds(record, eqn.params["body_jaxpr"], operands[test:split], operands[split:], [], place)
    asked = eqn.params["cond_jaxpr"]
    for x in _walk(record, asked.jaxpr, asked.consts, [*operands[:test], *results], (*place, "test")):
        record.take(x)
    return results


def _rounds(
    record: Record, body: Any, consts: list[Seen], carry: list[Seen], slices: list[Seen], place: Place
) -> list[Seen]:
    """Walks one round of a loop until what is carried stays the same, and so finds what holds in every round."""
    sites, uses, n = len(record.sites), record.uses.copy(), len(carry)
    carry = [Seen(x.axes, x.scalar) for x in record.settled(carry, (*place, "start"))]
    for left in reversed(range(_MOST_ROUNDS)):
        results = _walk(record, body.jaxpr, body.consts, [*consts, *carry, *slices], place)
        ends = record.settled(results[:n], (*place, "end"))
        after = [_both(record, a, b) for a, b in zip(carry, ends, strict=True)]
        if not left or all(map(_same, carry, after)):
            break
        record.forget(sites, uses)
        # The last round starts from numbers that nobody knows, which is true of every round.
        carry = after if left > 1 else [Seen(tuple(a.valued() for a in x.axes)) for x in after]
    for x in results:
        record.take(x)
    return carry + [dataclasses.replace(x.plain(), array=None) for x in results[n:]]


def _both(record: Record, a: Seen, b: Seen) -> Seen:
    """Joins an array of one branch or round with that of another, and keeps the numbers that hold in both."""
    axes = []
    for x, y in zip(a.axes, b.axes, strict=True):
        record.join(x, y)
        axes.append(x.valued(agreed(x.value, y.value)))
    return Seen(tuple(axes), float(agreed(np.asarray(a.scalar), np.asarray(b.scalar))))


def _same(a: Seen, b: Seen) -> bool:
    pairs = [(np.asarray(a.scalar), np.asarray(b.scalar))]
    pairs += [(x.value, y.value) for x, y in zip(a.axes, b.axes, strict=True)]
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def _cond(record: Record, eqn: Any, operands: list[Seen], place: Place) -> list[Seen]:
    record.take(operands[0])
    results: list[Seen] = []
    for i, branch in enumerate(eqn.params["branches"]):
        found = _walk(record, branch.jaxpr, branch.consts, operands[1:], (*place, i))
        for x in found:
            record.take(x)
        found = record.settled(found, (*place, i, "end"))
        results = [_both(record, a, b) for a, b in zip(results, found, strict=True)] if i else found
    return [dataclasses.replace(x.plain(), array=None) for x in results]


_LOOPS: dict[str, Callable[[Record, Any, list[Seen], Place], list[Seen]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
