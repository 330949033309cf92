"""Says what a product makes of the axes of its operands; see :mod:`dstjax.program.layout_reader`."""

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from dstjax.program.axes import (
    ACTIVATION,
    ARGUMENT,
    DOUBTFUL,
    INSIDE,
    WINDOW,
    Axis,
    Factor,
    Tag,
    View,
    both,
    is_even,
    pairs,
    plain,
    resized,
    tags_of,
)
from dstjax.program.uses import INNER, LOW_RANK, Record

_Numbers = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]


def dot(eqn: Any, views: list[View], record: Record) -> list[View]:
    """Reads ``dot_general``."""
    return [_product(views[0], views[1], eqn.params["dimension_numbers"], record)]


def ragged_dot(eqn: Any, views: list[View], record: Record) -> list[View]:
    """Reads ``ragged_dot_general``, whose groups are layers of their own."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    result = _product(views[0], views[1], numbers.dot_dimension_numbers, record, numbers.rhs_group_dimensions)
    shape = eqn.outvars[0].aval.shape
    return [result if result.shape == shape else plain(shape, ACTIVATION, result.uses)]


def _product(left: View, right: View, numbers: _Numbers, record: Record, groups: Sequence[int] = ()) -> View:
    (lc, rc), (lb, rb) = numbers
    free_left = [a for a in range(len(left.axes)) if a not in (*lc, *lb)]
    free_right = [a for a in range(len(right.axes)) if a not in (*rc, *rb, *groups)]
    axes = (
        *(both(left.axes[i], right.axes[j]) for i, j in zip(lb, rb, strict=True)),
        *(left.axes[a] for a in free_left),
        *(right.axes[a] for a in free_right),
    )
    uses, level = left.uses | right.uses, max(left.level, right.level)
    is_left, is_right = _weights(left, right, (lc, free_left), (rc, free_right))
    if is_left and is_right and bool(record.holds(left)) != bool(record.holds(right)):
        is_left, is_right = not record.holds(left), not record.holds(right)  # what came of a constant is data
    if is_left and is_right:
        return _of_leaves(left, right, zip(lc, rc, strict=True), axes, record)
    if not is_left and not is_right:
        return View(axes, level=ACTIVATION if level > INSIDE else INSIDE, uses=uses)
    weight, data = (left, right) if is_left else (right, left)
    (inputs, batch), (others, other_batch) = ((lc, lb), (rc, rb)) if is_left else ((rc, rb), (lc, lb))
    free = free_left if is_left else free_right
    stacks = [*batch, *(groups if is_right else ())]
    if data.kind == "hot" and data.level >= ARGUMENT:
        return _picked(weight, inputs, stacks, axes, uses, record)
    roles: list[tuple[Iterable[Tag], str]] = []
    for i, j in zip(inputs, others, strict=True):
        for mine, other in pairs(weight.axes[i], data.axes[j]):
            roles.append((mine.tags, "window" if WINDOW in other.tags else "in"))
    roles += [(tags_of([weight.axes[a]]), "stack") for a in stacks]
    roles += [(tags_of([weight.axes[a]]), "out") for a in free]
    for a in other_batch:
        record.number_layers(data.axes[a])
    if data.level < ARGUMENT and not data.leaves and data.kind != "zero":
        return _mixed(weight, inputs, axes, level, uses | record.hold(weight, roles))
    return View(axes, level=ACTIVATION, uses=uses | record.add(weight, roles))


def _mixed(weight: View, contracted: Sequence[int], axes: tuple[Axis, ...], level: int, uses: frozenset[int]) -> View:
    """A product with a constant is a linear map of the leaf, whose axes stand for those that they are made of."""
    tags = tags_of(weight.axes[a] for a in contracted)
    axes = tuple(tuple(f if f.tags or f.size == 1 else f._replace(tags=tags) for f in axis) for axis in axes)
    leaves = weight.leaves & {path for path, _ in tags_of(axes)}
    return weight._replace(axes=axes, leaves=leaves, level=level, uses=uses, kind="", source=None)


def _weights(
    left: View, right: View, of_left: tuple[Sequence[int], Sequence[int]], of_right: tuple[Sequence[int], Sequence[int]]
) -> tuple[bool, bool]:
    """Tells which operands are weights: the less doubtful of two, and of two that were added to data neither."""
    can = _can_multiply(left, *of_left), _can_multiply(right, *of_right)
    if can != (True, True):
        return can
    if left.doubt != right.doubt:
        return left.doubt < right.doubt, right.doubt < left.doubt
    if left.doubt == DOUBTFUL:
        return False, False
    # Learned queries that are repeated over a batch are data to the leaf that projects them.
    repeated = [
        any(is_even(v.axes[a]) and v.shape[a] > 1 for a in free)
        for v, (_, free) in ((left, of_left), (right, of_right))
    ]
    return (not repeated[0], not repeated[1]) if repeated[0] != repeated[1] else (True, True)


def _can_multiply(view: View, contracted: Sequence[int], free: Sequence[int]) -> bool:
    if not view.leaves or view.doubt < DOUBTFUL:
        return bool(view.leaves)
    inputs, outputs = ({path for path, _ in tags_of(view.axes[a] for a in axes)} for axes in (contracted, free))
    if any(role == LOW_RANK for _, role in view.taken):  # one leaf has the inputs, another one the outputs
        return bool(inputs & view.leaves and outputs & view.leaves)
    return bool(inputs & outputs & view.leaves)


def _of_leaves(
    left: View, right: View, contracted: Iterable[tuple[int, int]], axes: tuple[Axis, ...], record: Record
) -> View:
    """A product of two leaves may be a weight of low rank, whose other axes tell later what the inner ones are."""
    inner: set[Tag] = set()
    for i, j in contracted:
        for x, y in pairs(left.axes[i], right.axes[j]):
            found = {(a, b) for a in x.tags for b in y.tags if a[0] in left.leaves and b[0] in right.leaves and a != b}
            record.meet(found)
            inner |= {tag for pair in found for tag in pair}
    taken = left.taken | right.taken | {(tag, INNER) for tag in inner}
    level, doubt = max(left.level, right.level), max(left.doubt, right.doubt)
    return View(axes, left.leaves | right.leaves, level, doubt, taken, left.uses | right.uses)


def _picked(
    weight: View,
    rows: Sequence[int],
    stacks: Sequence[int],
    axes: tuple[Axis, ...],
    uses: frozenset[int],
    record: Record,
) -> View:
    """A product with ones in one place each is a look-up."""
    taken = weight.taken | {(tag, "stack") for tag in tags_of(weight.axes[a] for a in rows)}
    uses |= look_up(weight, rows, stacks, record)
    return View(axes, weight.leaves, ACTIVATION, DOUBTFUL, taken, uses)


def look_up(view: View, rows: Sequence[int], stacks: Sequence[int], record: Record) -> frozenset[int]:
    """Notes that rows of a leaf are looked up; unless they multiply with data later."""
    if view.doubt == DOUBTFUL:
        return frozenset()
    words = {**dict.fromkeys(rows, "lookup"), **dict.fromkeys(stacks, "stack")}
    roles = [(tags_of([axis]), words.get(a, "out")) for a, axis in enumerate(view.axes)]
    return record.add(view, roles, is_lookup=True)


def convolution(eqn: Any, views: list[View], record: Record) -> list[View]:
    """Reads ``conv_general_dilated``; a vmapped one comes as groups of channels."""
    data, kernel, numbers = views[0], views[1], eqn.params["dimension_numbers"]
    shape, uses = eqn.outvars[0].aval.shape, data.uses | kernel.uses
    by_batch = eqn.params["batch_group_count"] > 1
    groups = max(eqn.params["feature_group_count"], eqn.params["batch_group_count"])
    out, inputs, *windows = numbers.rhs_spec
    axes: list[Axis] = [(Factor(n),) for n in shape]
    axes[numbers.out_spec[1]] = kernel.axes[out]
    if not by_batch:
        axes[numbers.out_spec[0]] = data.axes[numbers.lhs_spec[0]]
    result = View(tuple(axes), level=ACTIVATION, uses=uses)
    if not _can_multiply(kernel, [inputs], [out]):
        if data.leaves and kernel.level < ARGUMENT and not kernel.leaves:  # a filter of the leaf, as a blur
            places = dict(zip(numbers.out_spec, numbers.lhs_spec, strict=True))
            filtered = [resized(data.axes[places[a]], n) for a, n in enumerate(shape)]
            return [data._replace(axes=tuple(filtered), uses=uses, kind="", source=None)]
        channels, taps = data.shape[numbers.lhs_spec[1]], math.prod(kernel.shape[a] for a in windows)
        if kernel.level < ARGUMENT and groups == channels and kernel.shape[out] == channels * taps:
            # The window of each channel side by side, as conv_general_dilated_patches has them.
            axes[numbers.out_spec[1]] = (*data.axes[numbers.lhs_spec[1]], Factor(taps, frozenset({WINDOW})))
            return [View(tuple(axes), level=data.level, uses=uses)]
        record.lose(data, "conv_general_dilated (as its input)")
        return [result]
    grouped = data.axes[numbers.lhs_spec[0 if by_batch else 1]]
    stacked, kept = _groups(kernel.axes[out], grouped, groups)
    if stacked:
        record.number_layers(_first(grouped, math.prod(f.size for f in stacked))[0])
    roles: list[tuple[Iterable[Tag], str]] = [(tags_of([kernel.axes[inputs]]), "in")]
    roles += [(tags_of([kernel.axes[a]]), "window") for a in windows]
    roles += [(tags_of([stacked]), "stack"), (tags_of([kept]), "out")]
    return [result._replace(uses=uses | record.add(kernel, roles))]


def _groups(axis: Axis, data: Axis, groups: int) -> tuple[Axis, Axis]:
    """Parts of the outputs that number layers, and the others.

    Layers that vmap has put into one convolution are a whole axis of the leaf before that of the outputs, and one of
    the data before that of the channels. The groups of a grouped convolution are a part of either.
    """
    reached = itertools.accumulate((f.size for f in data[:-1]), operator.mul)
    layers = max((n for n in reached if groups % n == 0), default=1)
    if layers == 1:
        return (), axis
    first, rest = _first(axis, layers)
    outputs = tags_of([rest, axis[-1:]])
    if any(f.tags & outputs for f in first):
        return (), axis
    return first, rest


def _first(axis: Axis, size: int) -> tuple[Axis, Axis]:
    """Cuts an axis into the slowest part, of this size, and the rest."""
    whole = math.prod(f.size for f in axis)
    cuts = (Factor(size), *([Factor(whole // size)] if whole > size else []))
    parts = [mine for mine, _ in pairs(axis, cuts)]
    count, reached = 0, 1
    while reached < size:
        reached *= parts[count].size
        count += 1
    return tuple(parts[:count]), tuple(parts[count:])
