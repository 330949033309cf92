"""Says what each primitive that sums over axes does to labels; see :mod:`dstjax.program.channel_reader`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dstjax.program.channel_record import Record, Side, Site
from dstjax.program.seen import UNKNOWN, Axis, Floats, Seen, Tag, either, fixed, spread, uniform, unknown


def _side(x: Seen, contracted: Sequence[int]) -> Side:
    kept = [k for k in range(len(x.axes)) if k not in contracted]
    order = (*contracted, *kept)

    def turned(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.transpose(array, order)

    return Side([x.axes[k] for k in contracted], [x.axes[k] for k in kept], turned(x.pattern), turned(x.array))


def _sums(data: Side, weight: Side) -> list[Floats]:
    """Returns the numbers that the slices of a product along the weight's other axes equal, whatever the data are."""
    shape = [len(a) for a in weight.kept]
    pattern = weight.pattern
    numbers = spread([a.value for a in data.contracted])
    if not numbers.size:  # an example without samples
        return [unknown(n) for n in shape]
    if pattern is None:
        everywhere = 0.0 if (numbers == 0).all() else UNKNOWN
        return [np.full(n, everywhere) for n in shape]
    pattern, numbers = pattern.reshape(numbers.size, -1), numbers.ravel()
    missing = np.isnan(numbers)
    if weight.array is None:
        missing |= numbers != 0
        found = np.zeros(pattern.shape[1])
    else:
        # Where nothing is known the product is with 0, and not of any use.
        some = ~missing & (numbers != 0)
        array = weight.array.reshape(numbers.size, -1)
        found = numbers[some] @ array[some].astype(np.float64)
    found = np.where(pattern[missing].any(axis=0), UNKNOWN, found).reshape(shape)
    return [uniform(found, k) for k in range(len(shape))]


def dot(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Reads ``dot_general``."""
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    left, right = operands
    for i, j in zip((*lc, *lb), (*rc, *rb), strict=True):
        record.join(left.axes[i], right.axes[j])
    sides = [_side(left, lc), _side(right, rc)]
    values: dict[tuple[int, int], Floats] = {}  # of the axes that are kept, by operand
    for me, (x, mine, contracted) in enumerate(((left, sides[0], lc), (right, sides[1], rc))):
        kept = [k for k in range(len(x.axes)) if k not in contracted]
        found = _sums(sides[1 - me], mine) if record.valued else [unknown(len(a)) for a in mine.kept]
        for k, sums in zip(kept, found, strict=True):
            axis = x.axes[k].value
            values[me, k] = either(sums, np.where(axis == 0, 0, UNKNOWN))
    free_left = [k for k in range(len(left.axes)) if k not in (*lc, *lb)]
    free_right = [k for k in range(len(right.axes)) if k not in (*rc, *rb)]
    axes = [left.axes[i].valued(either(values[0, i], values[1, j])) for i, j in zip(lb, rb, strict=True)]
    axes += [left.axes[k].valued(values[0, k]) for k in free_left]
    axes += [right.axes[k].valued(values[1, k]) for k in free_right]
    weight = next((m for m in (1, 0) if sides[m].array is not None), None)
    site = Site(sides, weight)
    record.sites.append(site)
    tag = None
    if weight is not None and not lb:
        kept = {0: free_left, 1: free_right}[weight]
        before = 0 if weight == 0 else len(free_left)
        tag = Tag(
            len(record.sites) - 1, tuple(n if 0 <= (n := k - before) < len(kept) else None for k in range(len(axes)))
        )
    return [Seen(tuple(axes), product=tag)]


def convolution(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Reads ``conv_general_dilated``: the groups of a grouped one are removed as a whole."""
    data, kernel = operands
    p, shape = eqn.params, eqn.outvars[0].aval.shape
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    if p["batch_group_count"] > 1:
        return record.unread(eqn, operands, "is convolved in groups of the batch")
    for k in (numbers.lhs_spec[0], *numbers.lhs_spec[2:]):
        record.fix(data.axes[k], "is convolved along the axis")
    for k in numbers.rhs_spec[2:]:
        record.fix(kernel.axes[k])
    x, w_in, w_out = data.axes[numbers.lhs_spec[1]], kernel.axes[numbers.rhs_spec[1]], kernel.axes[numbers.rhs_spec[0]]
    if groups > 1:
        record.fix(w_in, "is an input of a grouped convolution")
        labels = np.concatenate([x.labels.reshape(groups, -1), w_out.labels.reshape(groups, -1)], axis=1)
        record.labels.join(labels[:, 1:].ravel(), np.repeat(labels[:, 0], labels.shape[1] - 1))
    else:
        record.join(x, w_in)
    window = tuple(numbers.rhs_spec[2:])
    inside = all(pair == (0, 0) for pair in p["padding"]) and all(d == 1 for d in p["lhs_dilation"])
    by = Side([w_in], [w_out], *_over_windows(kernel, numbers, window, inside))
    axes = [fixed(n) for n in shape]
    axes[numbers.out_spec[1]] = w_out.valued(_convolved(x, by, groups) if record.valued else None)
    if groups > 1:
        return [Seen(tuple(axes))]
    others = [data.axes[numbers.lhs_spec[0]]]
    weight = 1 if by.array is not None else None
    site = Site([Side([x], others), by], weight, "" if inside else "a constant meets the padding of a convolution")
    record.sites.append(site)
    if weight is None:
        return [Seen(tuple(axes))]
    tag = Tag(len(record.sites) - 1, tuple(0 if k == numbers.out_spec[1] else None for k in range(len(shape))))
    return [Seen(tuple(axes), product=tag)]


def _over_windows(
    kernel: Seen, numbers: Any, window: tuple[int, ...], inside: bool
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the pattern of a kernel as [in, out], and its sums over the window where each output sees all of it."""
    order = (numbers.rhs_spec[1], numbers.rhs_spec[0], *window)
    ends = tuple(range(2, len(order)))
    pattern = None if kernel.pattern is None else np.asarray(np.transpose(kernel.pattern, order).any(axis=ends))
    if kernel.array is None or not inside:
        return pattern, None
    return pattern, np.transpose(kernel.array, order).sum(axis=ends, dtype=np.float64)


def _convolved(x: Axis, kernel: Side, groups: int) -> Floats:
    """Returns the numbers that the outputs of a convolution equal, each of the inputs of its group."""
    numbers = x.value.reshape(groups, -1)
    missing = np.isnan(numbers)
    shape = (numbers.shape[1], groups, len(kernel.kept[0]) // groups)
    found = np.zeros(shape[1:])
    if kernel.array is None:
        missing |= numbers != 0
    else:
        found = np.einsum("gi,igo->go", np.where(missing, 0, numbers), kernel.array.reshape(shape))
    pattern = np.ones(shape, bool) if kernel.pattern is None else kernel.pattern.reshape(shape)
    return np.where((missing.T[:, :, None] & pattern).any(axis=0), UNKNOWN, found).ravel()


def total(record: Record, eqn: Any, operands: list[Seen]) -> list[Seen]:
    """Reads ``reduce_sum``: a mean divides by a number in the program, and so keeps its old divisor."""
    (x,), gone = operands, eqn.params["axes"]
    left = [k for k in range(len(x.axes)) if k not in gone]
    number = math.prod(len(x.axes[k]) for k in gone) or UNKNOWN
    if any(record.labels.free(x.axes[k].labels).any() for k in gone):
        why = "a constant is summed up with what is not constant, as in the mean of a norm"
        record.sites.append(Site([_side(x, gone)], refusal=why))
    return [Seen(tuple(x.axes[k].valued(x.axes[k].value * number) for k in left))]


PRODUCTS: dict[str, Callable[[Record, Any, list[Seen]], list[Seen]]] = {
    "conv_general_dilated": convolution,
    "dot_general": dot,
    "reduce_sum": total,
}
