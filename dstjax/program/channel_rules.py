"""Says what each primitive that contracts nothing does to labels; see :mod:`dstjax.program.channel_reader`."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dstjax.program.channel_record import Record
from dstjax.program.primitives import SAME
from dstjax.program.reshaping import reshaped
from dstjax.program.seen import UNKNOWN, Axis, Floats, Seen, Tag, fixed

_TAKEN = "has an index that is taken alone"

Rule = Callable[[Record, Any, list[Seen]], list[Seen]]


def _moved(tag: Tag | None, places: Sequence[int | None]) -> Tag | None:
    """Says the same of an array that has other axes, each of which was one of the old ones, or none."""
    return None if tag is None else Tag(tag.of, tuple(None if p is None else tag.axes[p] for p in places))


def _arranged(x: Seen, axes: Sequence[Axis], places: Sequence[int | None]) -> list[Seen]:
    return [Seen(tuple(axes), x.scalar, leaf=_moved(x.leaf, places), product=_moved(x.product, places))]


def _broadcast(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    shape, (x, *_) = eqn.params["shape"], operands
    places: list[int | None] = [None] * len(shape)
    axes = []
    for axis, place in enumerate(eqn.params["broadcast_dimensions"]):
        places[place] = axis
    for k, n in enumerate(shape):
        old = None if (place := places[k]) is None else x.axes[place]
        if old is not None and len(old) == n:
            axes.append(old)
        else:
            axes.append(record.fresh(n, x.scalar if old is None else old.value))
    return _arranged(x, axes, places)


def _transpose(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    order = eqn.params["permutation"]
    return _arranged(operands[0], [operands[0].axes[k] for k in order], order)


def _squeeze(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    (x,) = operands
    left = [k for k in range(len(x.axes)) if k not in eqn.params["dimensions"]]
    scalar = x.scalar if left or not x.axes else float(x.axes[0].value[0])
    return _arranged(dataclasses.replace(x, scalar=scalar), [x.axes[k] for k in left], left)


def _expand(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    (x,), n = operands, len(eqn.outvars[0].aval.shape)
    rest = iter(range(len(x.axes)))
    places = [None if k in eqn.params["dimensions"] else next(rest) for k in range(n)]
    new = record.fresh(1, x.scalar)
    return _arranged(x, [new if p is None else x.axes[p] for p in places], places)


def _reshape(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    (x, *_), shape = operands, eqn.outvars[0].aval.shape
    axes = reshaped(record, x, shape)
    sizes = [len(a) for a in x.axes]
    old, new = [k for k, n in enumerate(sizes) if n > 1], [k for k, n in enumerate(shape) if n > 1]
    if [sizes[k] for k in old] == [shape[k] for k in new]:
        at = dict(zip(new, old, strict=True))
        return _arranged(x, axes, [at.get(k) for k in range(len(shape))])
    if x.product is not None:
        record.take(x)
    if x.leaf is not None:
        record.take(dataclasses.replace(x, product=None))
    return [Seen(tuple(axes), x.scalar)]


def _concatenate(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    along, axes = eqn.params["dimension"], []
    for k in range(len(operands[0].axes)):
        parts = [x.axes[k] for x in operands]
        if k == along:
            axes.append(Axis(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("labels", "value"))))
            continue
        for other in parts[1:]:
            record.join(parts[0], other)
        alike = np.all([p.value == parts[0].value for p in parts], axis=0)
        axes.append(parts[0].valued(np.where(alike, parts[0].value, UNKNOWN)))
    return [Seen(tuple(axes))]


def _split(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    (x,), along = operands, eqn.params["axis"]
    if 1 in eqn.params["sizes"]:
        record.fix(x.axes[along], _TAKEN)
    ends = np.cumsum([0, *eqn.params["sizes"]])
    return [_with(x, along, x.axes[along].take(slice(a, b))) for a, b in itertools.pairwise(ends)]


def _with(x: Seen, k: int, axis: Axis) -> Seen:
    return Seen((*x.axes[:k], axis, *x.axes[k + 1 :]))


def _slice(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    p = eqn.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    cuts = [slice(*c) for c in zip(p["start_indices"], p["limit_indices"], strides, strict=True)]
    axes = []
    for a, cut in zip(operands[0].axes, cuts, strict=True):
        part = a.take(cut)
        if len(part) == 1:  # what has one index cannot lose it
            record.fix(part, _TAKEN)
        axes.append(part)
    return [Seen(tuple(axes))]


def _rev(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    axes = [
        a.take(slice(None, None, -1)) if k in eqn.params["dimensions"] else a for k, a in enumerate(operands[0].axes)
    ]
    return [Seen(tuple(axes))]


def _pad(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Pads; a channel stays the same number throughout where that is the number of the padding."""
    x, filling = operands
    config, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    whole = [c == (0, 0, 0) for c in config]
    axes = []
    for k, (a, n) in enumerate(zip(x.axes, shape, strict=True)):
        if not whole[k]:
            record.fix(a, "is padded along the axis")
            axes.append(fixed(n))
            continue
        cuts = any(low < 0 or high < 0 for low, high, _ in config)
        axes.append(a.valued(np.where(a.value == filling.scalar, a.value, UNKNOWN)) if not cuts else a.valued())
    return [Seen(tuple(axes))]


def _reduce(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """A maximum or the like: it needs every index, and of equal numbers it is that number."""
    gone = eqn.params["axes"]
    for x in operands:
        for k in gone:
            record.fix(x.axes[k], f"is reduced by {eqn.primitive.name!r} along the axis")
    left = [k for k in range(len(operands[0].axes)) if k not in gone]
    keeps = eqn.primitive.name in ("reduce_max", "reduce_min")
    axes = [operands[0].axes[k] if keeps else operands[0].axes[k].valued() for k in left]
    return [Seen(tuple(axes))] * len(eqn.outvars)


def _along(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Sorts, accumulates or the like along one axis."""
    (axis,) = (eqn.params[n] for n in ("axis", "dimension") if n in eqn.params)
    for x in operands[1:]:
        for a, b in zip(operands[0].axes, x.axes, strict=True):
            record.join(a, b)
    record.fix(operands[0].axes[axis], f"goes through {eqn.primitive.name!r} along the axis")
    name = eqn.primitive.name

    def after(value: Floats) -> Floats:
        if name in ("sort", "cummax", "cummin"):
            return value
        return np.where((value == 0) & (name != "cumlogsumexp"), 0, UNKNOWN)

    def mixed(value: Floats) -> Floats:
        """Along the axis an index has what others had, or sums of it: a number is told only where all have the same."""
        return after(value) if len(value) and (value == value[0]).all() else np.full_like(value, UNKNOWN)

    return [
        Seen(tuple(a.valued(mixed(a.value) if i == axis else after(a.value)) for i, a in enumerate(x.axes)))
        for x in operands
    ]


def _window(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Pools: channels are left alone, and of zeros a maximum is zero though the padding is smaller."""
    p, shape = eqn.params, eqn.outvars[0].aval.shape
    size = math.prod(p["window_dimensions"])
    inside = all(pair == (0, 0) for pair in p["padding"]) and not any(d != 1 for d in p["base_dilation"])
    axes = []
    for a, w, n, (low, high), s in zip(
        operands[0].axes, p["window_dimensions"], shape, p["padding"], p["window_strides"], strict=True
    ):
        if (w, low, high, s) != (1, 0, 0, 1):
            record.fix(a, "is pooled along the axis")
            axes.append(fixed(n))
        elif eqn.primitive.name == "reduce_window_sum":
            axes.append(a.valued(a.value * size if inside else np.where(a.value == 0, 0, UNKNOWN)))
        else:
            axes.append(a)
    return [Seen(tuple(axes))]


def _gather(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Picks: what is taken in full is what it was."""
    x, index = operands
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    left = [k for k in range(len(x.axes)) if k not in dropped]
    axes = [fixed(n) for n in eqn.outvars[0].aval.shape]
    whole = {k: o for o, k in zip(numbers.offset_dims, left, strict=True) if sizes[k] == len(x.axes[k])}
    filling = eqn.params["fill_value"]  # what stands for what is not there; NaN, or None for it, is no number
    fill = 0 if filling is None or np.isnan(filling) else float(filling)
    safe = "FILL" not in str(eqn.params["mode"])
    for k, a in enumerate(x.axes):
        if k in whole:
            axes[whole[k]] = a if safe else a.valued(np.where(a.value == fill, fill, UNKNOWN))
        else:
            record.fix(a, "is looked up along the axis")
    for a in index.axes:
        record.fix(a)
    return [Seen(tuple(axes))]


def _scatter(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Puts slices into an array: axes that a slice has in full are those of the array."""
    x, index, new = operands
    numbers = eqn.params["dimension_numbers"]
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    left = [k for k in range(len(x.axes)) if k not in dropped]
    whole = {k: o for o, k in zip(numbers.update_window_dims, left, strict=True) if len(new.axes[o]) == len(x.axes[k])}
    axes = []
    for k, a in enumerate(x.axes):
        if k in whole:
            other = new.axes[whole[k]]
            record.join(a, other)
            axes.append(a.valued(np.where((a.value == 0) & (other.value == 0), 0, UNKNOWN)))
        else:
            record.fix(a, "is written to along the axis")
            axes.append(fixed(len(a)))
    for o, a in enumerate(new.axes):
        if o not in whole.values():
            record.fix(a, "is written along an axis")
    for a in index.axes:
        record.fix(a)
    return [Seen(tuple(axes))]


def _dynamic_slice(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    x, shape = operands[0], eqn.outvars[0].aval.shape
    for a, n in zip(x.axes, shape, strict=True):
        if len(a) != n:
            record.fix(a, "is cut along the axis, where the data say")
    return [Seen(tuple(a if len(a) == n else fixed(n) for a, n in zip(x.axes, shape, strict=True)))]


def _update_slice(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    x, new = operands[:2]
    axes = []
    for a, b in zip(x.axes, new.axes, strict=True):
        if len(a) == len(b):
            record.join(a, b)
            axes.append(a.valued(np.where(a.value == b.value, a.value, UNKNOWN)))
        else:
            record.fix(a, "is written to along the axis")
            record.fix(b, "is written along an axis")
            axes.append(fixed(len(a)))
    return [Seen(tuple(axes))]


def _tile(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    return [
        Seen(
            tuple(
                a.take(np.tile(np.arange(len(a)), r)) for a, r in zip(operands[0].axes, eqn.params["reps"], strict=True)
            )
        )
    ]


def _unstack(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    (x,), axis = operands, eqn.params["axis"]
    record.fix(x.axes[axis], "is unstacked")
    left = tuple(a for k, a in enumerate(x.axes) if k != axis)
    return [Seen(left)] * len(eqn.outvars)


def _stack(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    axis, axes = eqn.params["axis"], []
    for parts in zip(*(x.axes for x in operands), strict=True):
        for other in parts[1:]:
            record.join(parts[0], other)
        alike = np.all([p.value == parts[0].value for p in parts], axis=0)
        axes.append(parts[0].valued(np.where(alike, parts[0].value, UNKNOWN)))
    return [Seen((*axes[:axis], fixed(len(operands)), *axes[axis:]))]


def _same(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    return list(operands)


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _update_slice,
    "expand_dims": _expand,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "sort"), _along),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), _window),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_max", "scatter_min", "scatter_mul"), _scatter),
    **dict.fromkeys(
        ("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_xor"),
        _reduce,
    ),
}
