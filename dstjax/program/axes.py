"""Tracks which axes of which leaves the axes of an array are; see :mod:`dstjax.program.layout_reader`."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Tag = tuple[str, int]  # a leaf and one of its axes
WINDOW: Tag = ("", 0)  # shifted copies of one array side by side: the window of a convolution written out

INSIDE, CONSTANT, ARGUMENT, ACTIVATION = range(4)  # where numbers come from; the later one wins
CERTAIN, MASKED, DOUBTFUL = range(3)  # how sure it is that an array made of leaves is a weight


class Factor(NamedTuple):
    """A part of an axis that is an axis of leaves, a part of one, or none."""

    size: int
    tags: frozenset[Tag] = frozenset()
    even: bool = False  # the same at each index, since it was broadcast
    cut: bool = False  # one index of several


Axis = tuple[Factor, ...]  # from the slowest to the fastest; their sizes multiply to that of the axis


class View(NamedTuple):
    """Says what the axes of an array are."""

    axes: tuple[Axis, ...]
    leaves: frozenset[str] = frozenset()  # whose elements these are, perhaps masked or scaled; empty: of none
    level: int = INSIDE
    doubt: int = CERTAIN
    taken: frozenset[tuple[Tag, str]] = frozenset()  # axes of leaves that are gone, and what they were
    uses: frozenset[int] = frozenset()  # the uses of leaves that it depends on
    kind: str = ""  # "counting": 0, 1, 2, ...; "hot": ones where a counting array equals another one; "zero"
    source: int | None = None  # the array that it is a slice of

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the array."""
        return tuple(math.prod(f.size for f in axis) for axis in self.axes)

    def data(self, level: int | None = None) -> "View":
        """Returns the same axes as those of an activation, which is no weight whatever it is made of."""
        level = self.level if level is None else level
        return View(self.axes, level=level, uses=self.uses)


def plain(shape: Sequence[int], level: int = INSIDE, uses: frozenset[int] = frozenset()) -> View:
    """Describes an array of no leaf."""
    return View(tuple((Factor(n),) for n in shape), level=level, uses=uses)


def tags_of(axes: Iterable[Axis]) -> frozenset[Tag]:
    """Returns all tags of some axes."""
    return frozenset().union(*(f.tags for axis in axes for f in axis))


def fused(axis: Axis, size: int | None = None) -> Factor:
    """Makes one factor of several."""
    whole = math.prod(f.size for f in axis)
    return Factor(whole if size is None else size, tags_of([axis]), all(f.even for f in axis))


def is_even(axis: Axis) -> bool:
    """Whether an array is the same along this axis."""
    return all(f.even or f.size == 1 for f in axis)


def resized(axis: Axis, size: int) -> Axis:
    """Describes a part of an axis, or an axis that was padded: still of the same leaves."""
    whole = math.prod(f.size for f in axis)
    return axis if size == whole else (fused(axis, size)._replace(cut=size == 1),)


def fitted(view: View, shape: Sequence[int]) -> View:
    """Gives a view the sizes of an array with as many axes, as inside ``shard_map``."""
    return view._replace(axes=tuple(resized(axis, n) for axis, n in zip(view.axes, shape, strict=True)))


def without(view: View, gone: Sequence[int], role: str = "stack") -> View:
    """Drops axes; those of leaves had the given role if they were one index of several, or if they still are long."""
    dropped = [f for a in gone for f in view.axes[a] if f.cut or f.size > 1]
    taken = {(tag, role) for f in dropped for tag in f.tags}
    kept = tuple(axis for a, axis in enumerate(view.axes) if a not in gone)
    return view._replace(axes=kept, taken=view.taken | taken)


def regrouped(view: View, shape: Sequence[int]) -> View:
    """Splits and joins axes as a reshape does."""
    axes = _divided([f for axis in view.axes for f in axis][::-1], shape)
    if axes is None:  # the parts do not fit into each other
        everything = tags_of(view.axes)
        axes = [(Factor(n, everything if n > 1 else frozenset()),) for n in shape]
    # One index of several that is no axis any more was a layer of its own.
    gone = {tag for axis in axes if len(axis) > 1 for f in axis if f.cut for tag in f.tags}
    axes = [tuple(f for f in axis if not f.cut) if len(axis) > 1 else axis for axis in axes]
    return view._replace(axes=tuple(axes), taken=view.taken | {(tag, "stack") for tag in gone})


def _divided(todo: list[Factor], shape: Sequence[int]) -> list[Axis] | None:
    """Deals factors, the last of the list first, to axes of these sizes; None where they do not fit.

    A factor of size 1 between two axes may belong to either, and goes to both.
    """
    axes: list[Axis] = []
    for place, size in enumerate(shape):
        if size == 1:
            axes.append((todo.pop(),) if todo and todo[-1].size == 1 else (Factor(1),))
            continue
        found: list[Factor] = []
        while size != 1:
            if not todo:
                return None
            part = todo.pop()
            if part.size > size:
                if size == 0 or part.size % size:
                    return None
                todo.append(part._replace(size=part.size // size))
                part = part._replace(size=size)
            elif part.size == 0 or size % part.size:
                return None
            found.append(part)
            size //= part.size
        if 1 not in shape[place + 1 : place + 2]:
            found += itertools.takewhile(lambda f: f.size == 1, reversed(todo))
        axes.append(tuple(found))
    return axes


def pairs(a: Axis, b: Axis) -> list[tuple[Factor, Factor]]:
    """Cuts two axes of one size into parts that correspond."""
    sizes = [math.prod(f.size for f in axis) for axis in (a, b)]
    if sizes[0] != sizes[1] or 0 in sizes:
        return [(fused(a), fused(b))]
    left, right, found = list(a[::-1]), list(b[::-1]), []
    while left or right:
        x, y = left.pop() if left else Factor(1), right.pop() if right else Factor(1)
        if x.size == 1 < y.size:
            right.append(y)
            y = Factor(1)
        elif y.size == 1 < x.size:
            left.append(x)
            x = Factor(1)
        small, large = sorted((x.size, y.size))
        if large % small:
            return [(fused(a), fused(b))]
        if x.size != y.size:
            rest = (left, x) if x.size == large else (right, y)
            rest[0].append(rest[1]._replace(size=large // small))
        found.append((x._replace(size=small), y._replace(size=small)))
    return found


def both(a: Axis, b: Axis) -> Axis:
    """Describes an axis that two arrays share element by element."""
    return tuple(
        Factor(max(x.size, y.size), x.tags | y.tags, x.even and y.even, x.cut or y.cut) for x, y in pairs(a, b)
    )


def stretched(view: View, shape: Sequence[int]) -> View:
    """Repeats an array along axes of size 1; a scalar along all of them."""
    if len(view.axes) != len(shape):
        return view._replace(axes=tuple((Factor(n, even=True),) for n in shape))
    axes = (
        axis if n == m else (Factor(n, even=True),) for axis, n, m in zip(view.axes, shape, view.shape, strict=True)
    )
    return view._replace(axes=tuple(axes))


def broadcast(view: View, shape: Sequence[int], places: Sequence[int]) -> View:
    """Repeats an array along new axes, as ``broadcast_in_dim`` does."""
    axes: list[Axis] = [(Factor(n, even=True),) for n in shape]
    for axis, size, place in zip(view.axes, view.shape, places, strict=True):
        if size == shape[place]:
            axes[place] = axis
    return view._replace(axes=tuple(axes))


def merged(views: Sequence[View], shape: Sequence[int]) -> tuple[Axis, ...]:
    """Describes the axes that arrays of one shape share element by element."""
    axes = stretched(views[0], shape).axes
    for view in views[1:]:
        axes = tuple(both(a, b) for a, b in zip(axes, stretched(view, shape).axes, strict=True))
    return axes


def either(a: View, b: View) -> View:
    """Keeps what holds of both: of two branches, or of a round of a loop and the next."""
    level, uses = max(a.level, b.level), a.uses | b.uses
    if a._replace(level=level, uses=uses) == b._replace(level=level, uses=uses):
        return a._replace(level=level, uses=uses)
    if a.leaves == b.leaves and a.axes == b.axes:
        return a._replace(level=level, uses=uses, doubt=max(a.doubt, b.doubt), taken=a.taken | b.taken, kind="")
    if len(a.axes) != len(b.axes) or a.shape != b.shape:
        return plain(a.shape, level, uses)
    return View(merged([a, b], a.shape), level=level, uses=uses)
