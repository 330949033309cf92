"""Follows the indices of axes through a reshape; see :mod:`dstjax.program.channel_rules`."""

import math
from collections.abc import Sequence

import numpy as np

from dstjax.program.channel_record import Record
from dstjax.program.seen import UNKNOWN, Axis, Seen, fixed, spread, uniform, unknown


def reshaped(record: Record, x: Seen, shape: Sequence[int]) -> list[Axis]:
    """Returns the axes that a reshape makes: blocks of old and new axes with equal products, one after the other."""
    old = [k for k, a in enumerate(x.axes) if len(a) != 1]
    new = [k for k, n in enumerate(shape) if n != 1]
    # An axis of one index is none of a block; what is uniform along it is so everywhere.
    everywhere = next((float(a.value[0]) for a in x.axes if len(a) == 1 and not np.isnan(a.value[0])), x.scalar)
    axes = [Axis(np.zeros(n, np.int64), np.full(n, everywhere)) for n in shape]
    while old or new:
        left, right = [old.pop(0)] if old else [], [new.pop(0)] if new else []
        while (a := math.prod(len(x.axes[k]) for k in left)) != (b := math.prod(shape[k] for k in right)):
            more = (old, left) if a < b or not new else (new, right)
            more[1].append(more[0].pop(0))
        for k, axis in zip(right, _block(record, [x.axes[k] for k in left], [shape[k] for k in right]), strict=True):
            axes[k] = axis
    return axes


def _block(record: Record, axes: list[Axis], shape: list[int]) -> list[Axis]:
    """Splits and joins axes, all of more than one index: those of one old axis at most stay free, along one new one.

    An axis that is split keeps its indices apart along the first part whose slices are groups already, else along the
    first part; what is in a slice becomes one group, such as a head.
    """
    if len(axes) == len(shape) == 1:
        return axes
    if any(not len(a) for a in axes):
        return [fixed(n) for n in shape]
    free = sorted((a for a in axes if record.labels.free(a.labels).any()), key=len)
    for a in free[:-1]:
        record.fix(a, "is joined with a longer one")
    found = [fixed(n) for n in shape]
    values = [unknown(n) for n in shape]
    if any(not np.isnan(a.value).all() for a in axes):
        numbers = spread([a.value for a in axes]).reshape(shape)
        values = [uniform(numbers, k) for k in range(len(shape))]
    if free:
        place = next(k for k, a in enumerate(axes) if a is free[-1])
        labels = free[-1].labels.reshape([-1 if k == place else 1 for k in range(len(axes))])
        labels = np.broadcast_to(labels, [len(a) for a in axes]).reshape(shape)
        roots = record.labels.roots(labels.ravel()).reshape(shape)
        rows = [np.moveaxis(roots, k, 0).reshape(n, -1) for k, n in enumerate(shape)]
        pick = next((k for k, r in enumerate(rows) if (r == r[:, :1]).all()), 0)
        picked = rows[pick]
        record.labels.join(picked[:, 1:].ravel(), np.repeat(picked[:, 0], picked.shape[1] - 1))
        found[pick] = Axis(np.ascontiguousarray(picked[:, 0]), values[pick])
    return [f.valued(np.where(np.isnan(v), UNKNOWN, v)) for f, v in zip(found, values, strict=True)]
