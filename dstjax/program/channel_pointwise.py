"""Says what functions of each element do to labels; see :mod:`dstjax.program.channel_reader`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program.channel_record import Record
from dstjax.program.primitives import POINTWISE
from dstjax.program.seen import UNKNOWN, Floats, Seen, unknown


def fits(name: str, operands: Sequence[Seen], shape: Sequence[int]) -> bool:
    """Whether a primitive works on each element, of scalars and of arrays with the axes of the result."""
    if name not in POINTWISE:
        return False
    sizes = ([len(a) for a in x.axes] for x in operands)
    return all(
        not s or (len(s) == len(shape) and all(n in (1, m) for n, m in zip(s, shape, strict=True))) for s in sizes
    )


def pointwise(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Joins the axes of all operands; one of length one is repeated, and joins nothing."""
    shape, axes = eqn.outvars[0].aval.shape, []
    full = [x for x in operands if x.axes]
    for k, n in enumerate(shape):
        same = [x.axes[k] for x in full if len(x.axes[k]) == n] or [record.fresh(n)]
        for other in same[1:]:
            record.join(same[0], other)
        columns = [x.axes[k].value if x.axes else np.asarray(x.scalar) for x in operands]
        axes.append(same[0].valued(_numbers(record, eqn, [np.broadcast_to(c, (n,)) for c in columns])))
    scalar = UNKNOWN if shape else float(_numbers(record, eqn, [np.asarray([x.scalar]) for x in operands])[0])
    result = Seen(tuple(axes), scalar)
    if eqn.primitive.name == "convert_element_type":
        leaf = operands[0].leaf if _as_fine(eqn.invars[0].aval.dtype, eqn.params["new_dtype"]) else None
        return [dataclasses.replace(result, leaf=leaf, product=operands[0].product)]
    _added(record, eqn, operands)
    return [result]


def _as_fine(old: Any, new: Any) -> bool:
    """Whether a leaf of one dtype can take a constant of a sum in another without losing digits of it."""
    if not (jnp.issubdtype(old, jnp.inexact) and jnp.issubdtype(new, jnp.inexact)):
        return False
    return bool(jnp.finfo(old).eps <= jnp.finfo(new).eps)


def _added(record: Record, eqn: Any, operands: Sequence[Seen]) -> None:
    """Notes that a leaf is added to the result of a product, where constants can go."""
    name = eqn.primitive.name
    if name not in ("add", "sub") or len(operands) != 2:
        return
    first, second = operands
    pairs = [(first, second, 1 if name == "add" else -1)]
    pairs += [(second, first, 1)] if name == "add" else []
    for product, leaf, sign in pairs:
        if product.product is None or leaf.leaf is None:
            continue
        long = [n for n, a in zip(leaf.leaf.axes, leaf.axes, strict=True) if len(a) > 1]
        places = [k for k, n in enumerate(product.product.axes) if n is not None and len(product.axes[k]) > 1]
        mine = [k for k, a in enumerate(leaf.axes) if len(a) > 1]
        inputs = [n for k in places if (n := product.product.axes[k]) is not None]
        if mine == places and long == sorted(n for n in long if n is not None) and inputs == sorted(inputs):
            record.sites[int(product.product.of)].target = (str(leaf.leaf.of), sign)


def _numbers(record: Record, eqn: Any, columns: Sequence[Floats]) -> Floats:
    """Applies a primitive to the numbers that are known; a factor of zero makes zero of anything finite."""
    found = unknown(len(columns[0]))
    if not record.valued or all(np.isnan(c).all() for c in columns):
        return found
    name = eqn.primitive.name
    if name in ("mul", "and"):
        found[np.any([c == 0 for c in columns], axis=0)] = 0
    if name == "div":
        found[(columns[0] == 0) & (columns[1] != 0)] = 0
    if name == "select_n":
        cases = columns[1:]
        equal = np.all([c == cases[0] for c in cases], axis=0)
        found[equal] = cases[0][equal]
    todo = np.isnan(found) & ~np.any([np.isnan(c) for c in columns], axis=0)
    if todo.any():
        found[todo] = _applied(eqn, [c[todo] for c in columns])
    return found


def _applied(eqn: Any, columns: Sequence[Floats]) -> Floats:
    """Applies a primitive to numbers, in lengths that are powers of two so that few programs are compiled."""
    n = len(columns[0])
    dtypes = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars)]
    if any(jnp.issubdtype(d, jnp.complexfloating) for d in dtypes):
        return unknown(n)
    padded = [np.resize(c, 16 * 2 ** max(0, math.ceil(math.log2(n / 16)))) for c in columns]
    with jax.ensure_compile_time_eval():  # here and now, where the program is read while another is traced
        given = [jnp.asarray(c.astype(d)) for c, d in zip(padded, dtypes, strict=False)]
        found = np.asarray(eqn.primitive.bind(*given, **eqn.params))[:n].astype(np.float64)
    return np.where(np.isfinite(found), found, UNKNOWN)
