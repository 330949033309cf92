"""Says how each primitive moves the axes of leaves; see :mod:`dstjax.program.layout_reader`."""

from collections.abc import Callable, Sequence
from typing import Any

from dstjax.program.axes import (
    ACTIVATION,
    ARGUMENT,
    CERTAIN,
    CONSTANT,
    DOUBTFUL,
    INSIDE,
    MASKED,
    WINDOW,
    Axis,
    Factor,
    Tag,
    View,
    both,
    broadcast,
    fitted,
    is_even,
    merged,
    plain,
    regrouped,
    resized,
    stretched,
    tags_of,
    without,
)
from dstjax.program.primitives import COMPARISONS, MOVES, NONLINEAR, POINTWISE, SCALES
from dstjax.program.products import convolution, dot, look_up, ragged_dot
from dstjax.program.uses import INNER, LOW_RANK, Record

Rule = Callable[[Any, list[View], Record], list[View]]

_ACTIVATIONS = NONLINEAR | {"max"}
_POINTWISE = POINTWISE | {"psum", "psum_invariant", "psum2", "pmax", "pmin"}
_SCALES = SCALES | COMPARISONS
_KEEPS_KIND = {"convert_element_type", "copy", "reduce_precision"}


def apply(eqn: Any, views: list[View], record: Record) -> list[View]:
    """Describes the results of an equation that contains no other program."""
    name, shapes = eqn.primitive.name, [v.aval.shape for v in eqn.outvars]
    if name in RULES:
        return RULES[name](eqn, views, record)
    if name in _POINTWISE:
        if len(views) == len(shapes) > 1:
            return [_elementwise(name, [v], s, record) for v, s in zip(views, shapes, strict=True)]
        return [_elementwise(name, views, shape, record) for shape in shapes]
    if name in MOVES and len(views) == len(shapes):
        if all(len(v.axes) == len(s) for v, s in zip(views, shapes, strict=True)):
            return [fitted(v, s) for v, s in zip(views, shapes, strict=True)]
    elif name.startswith("reduce_") and "axes" in eqn.params and len(views) == len(shapes):
        return [_reduced(v, eqn.params["axes"]) for v in views]
    return unknown(name, views, shapes, record)


def unknown(name: str, views: Sequence[View], shapes: Sequence[tuple[int, ...]], record: Record) -> list[View]:
    """Describes what comes out of a primitive that is not known."""
    for view in views:
        record.lose(view, name)
    level = ACTIVATION if any(v.leaves for v in views) else max((v.level for v in views), default=INSIDE)
    uses = frozenset().union(*(v.uses for v in views))
    return [plain(shape, level, uses) for shape in shapes]


def _elementwise(name: str, views: Sequence[View], shape: tuple[int, ...], record: Record) -> View:
    """Describes an array that is computed element by element.

    A leaf that is masked, scaled or normalised is still that leaf, also by data; one that is added to activations, or
    that is repeated over a batch and added to data, is not.
    """
    full = [stretched(v, shape) for v in views]
    level, uses = max(v.level for v in full), frozenset().union(*(v.uses for v in full))
    axes = merged(full, shape)
    held = frozenset().union(*(record.holds(v) for v in full))
    if held and name in _ACTIVATIONS and level < ARGUMENT:  # of what a constant was multiplied with: it was data
        return View(axes, level=ACTIVATION, uses=uses)
    if len(full) == 1:
        return full[0]._replace(kind=full[0].kind if name in _KEEPS_KIND else "", source=None)
    counting = [v.kind == "counting" for v in views]
    result = View(axes, level=level, uses=uses, kind="hot" if name == "eq" and sum(counting) == 1 else "")
    fed = [v for v in full if v.leaves]
    doubt = max((v.doubt for v in fed), default=CERTAIN)
    fed = [v for v in fed if doubt < DOUBTFUL or v.doubt == doubt]
    data = [v for v in full if v.level and not v.leaves]
    if not fed:
        return result
    if held and any(v.uses & held for v in data):
        return View(axes, level=ACTIVATION, uses=uses)
    if any(v.level >= ARGUMENT for v in data):  # a table that is made of the leaf, and joined with data
        record.cancelled |= held
    if data:
        spread = any(
            all(is_even(v.axes[a]) for v in fed) and not all(is_even(v.axes[a]) for v in data)
            for a in range(len(shape))
        )
        scalar = all(is_even(axis) for v in data for axis in v.axes)
        active = max(v.level for v in data) == ACTIVATION
        if name not in _SCALES and (spread or active) and not scalar:
            return result
        certain = scalar or (name in _SCALES and not spread and not active)
        doubt = max(doubt, MASKED if certain else DOUBTFUL)
    for v in fed:
        for other in full:
            if other is not v and not held:
                record.cancel(v, other)
    leaves = frozenset().union(*(v.leaves for v in fed))
    taken = frozenset().union(*(v.taken for v in fed))
    if name in ("add", "sub"):
        taken = _with_base(full, taken)
    return result._replace(leaves=leaves, doubt=doubt, taken=taken)


def _with_base(views: Sequence[View], taken: frozenset[tuple[Tag, str]]) -> frozenset[tuple[Tag, str]]:
    """A product of leaves that is added to a weight, or to an array in its place, is a weight of low rank.

    Otherwise one of the two may be data to the other, as learned queries are to the leaf that projects them.
    """

    def is_product(view: View) -> bool:
        paths = {path for axis in view.axes for f in axis if f.size > 1 for path, _ in f.tags}
        several = len(paths & view.leaves) > 1
        return several and any(role == INNER for _, role in view.taken)

    bases = [v for v in views if not any(role == INNER for _, role in v.taken) and (v.leaves or v.level)]
    if not any(map(is_product, views)) or not any(not any(map(_repeats, v.axes)) for v in bases):
        return taken
    return frozenset((tag, LOW_RANK if role == INNER else role) for tag, role in taken)


def _repeats(axis: Axis) -> bool:
    return is_even(axis) and any(f.size > 1 for f in axis)


def _reduced(view: View, axes: Sequence[int]) -> View:
    kept = tuple(axis for a, axis in enumerate(view.axes) if a not in axes)
    leaves = view.leaves & {path for path, _ in tags_of(kept)}
    return view._replace(axes=kept, leaves=leaves, kind="", source=None)


def _reshape(eqn: Any, views: list[View], record: Record) -> list[View]:
    view, order = views[0], eqn.params.get("dimensions")
    if order is not None:
        view = view._replace(axes=tuple(view.axes[a] for a in order))
    return [regrouped(view, eqn.outvars[0].aval.shape)]


def _transpose(eqn: Any, views: list[View], record: Record) -> list[View]:
    return [views[0]._replace(axes=tuple(views[0].axes[a] for a in eqn.params["permutation"]))]


def _squeeze(eqn: Any, views: list[View], record: Record) -> list[View]:
    return [without(views[0], eqn.params["dimensions"])]


def _broadcast(eqn: Any, views: list[View], record: Record) -> list[View]:
    return [broadcast(views[0], eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"])]


def _resize(eqn: Any, views: list[View], record: Record) -> list[View]:
    """A part of an array, or an array that is padded."""
    return [fitted(views[0], v.aval.shape)._replace(source=None) for v in eqn.outvars]


def _tile(eqn: Any, views: list[View], record: Record) -> list[View]:
    repeats = zip(views[0].axes, eqn.params["reps"], strict=True)
    return [views[0]._replace(axes=tuple((Factor(n, even=True), *a) if n > 1 else a for a, n in repeats), source=None)]


def _slice(eqn: Any, views: list[View], record: Record) -> list[View]:
    return [fitted(views[0], eqn.outvars[0].aval.shape)._replace(source=id(eqn.invars[0]))]


def _dynamic_slice(eqn: Any, views: list[View], record: Record) -> list[View]:
    view, level = views[0], max(v.level for v in views[1:])
    sizes = eqn.params["slice_sizes"]
    cut = [a for a, (n, size) in enumerate(zip(view.shape, sizes, strict=True)) if size < n]
    result = fitted(view, sizes)._replace(kind="", source=None)
    if not view.leaves:
        return [result._replace(level=max(view.level, level))]
    if level < ARGUMENT or not cut:
        return [result]
    uses = view.uses | look_up(view, cut, [], record)
    return [result._replace(doubt=DOUBTFUL, level=max(view.level, level), uses=uses)]


def _gather(eqn: Any, views: list[View], record: Record) -> list[View]:
    """Rows that are looked up; a permutation by constants only moves them, and rows that are counted are cut out."""
    (view, indices), numbers = views[:2], eqn.params["dimension_numbers"]
    shape, sizes = eqn.outvars[0].aval.shape, eqn.params["slice_sizes"]
    gone, batch = numbers.collapsed_slice_dims, numbers.operand_batching_dims
    places = [a for a in range(len(shape)) if a not in numbers.offset_dims]
    kept = [a for a in range(len(view.axes)) if a not in gone and a not in batch]
    axes: list[Axis] = [(Factor(n),) for n in shape]
    for place, a in zip(numbers.offset_dims, kept, strict=True):
        axes[place] = resized(view.axes[a], shape[place])
    for a, along in zip(batch, numbers.start_indices_batching_dims, strict=True):
        axes[places[along]] = view.axes[a]
    picked = [a for a in numbers.start_index_map if sizes[a] < view.shape[a]]
    level = max(view.level, indices.level)
    if len(picked) == 1 and len(places) == 1 and not batch and indices.level < ARGUMENT:
        axes[places[0]] = resized(view.axes[picked[0]], shape[places[0]])
        if shape[places[0]] == view.shape[picked[0]]:
            return [view._replace(axes=tuple(axes), kind="", source=None)]
    if not view.leaves:
        return [View(tuple(axes), level=level, uses=view.uses | indices.uses)]
    taken = view.taken | {(tag, "stack") for tag in tags_of(view.axes[a] for a in picked if a in gone)}
    uses = view.uses | indices.uses
    if indices.level > INSIDE and picked:
        uses |= look_up(view, picked, batch, record)
    taken -= {(tag, "stack") for tag in tags_of(axes)}
    doubt = DOUBTFUL if picked and places else view.doubt
    return [View(tuple(axes), view.leaves, max(level, CONSTANT) if places else view.level, doubt, taken, uses)]


def _concatenate(eqn: Any, views: list[View], record: Record) -> list[View]:
    return [_joined(views, eqn.outvars[0].aval.shape, eqn.params["dimension"])]


def _joined(views: Sequence[View], shape: tuple[int, ...], along: int | None) -> View:
    """Describes arrays that are put together; those with activations are activations."""
    level, uses = max(v.level for v in views), frozenset().union(*(v.uses for v in views))
    fed = [v for v in views if v.leaves]
    is_data = any(v.level and not v.leaves for v in views) or not fed
    axes: list[Axis] = list(views[0].axes if is_data else fed[0].axes)
    for view in views if is_data else fed:
        axes = [a if i == along else both(a, b) for i, (a, b) in enumerate(zip(axes, view.axes, strict=True))]
    source = _shared_source(views)
    if along is not None and source is not None:
        axes[along] = (_copies(views), *views[0].axes[along])
    elif along is not None:
        axes[along] = (Factor(shape[along], frozenset() if is_data else tags_of(v.axes[along] for v in fed)),)
    if is_data:
        return View(tuple(axes), level=level, uses=uses, source=source)
    leaves, taken = (frozenset().union(*(getattr(v, name) for v in fed)) for name in ("leaves", "taken"))
    return View(tuple(axes), leaves, level, max(v.doubt for v in fed), taken, uses)


def _shared_source(views: Sequence[View]) -> int | None:
    """The array that several others are shifted copies of, None where there is none."""
    sources, sure = {v.source for v in views}, any(v.leaves and v.doubt < DOUBTFUL for v in views)
    return sources.pop() if len(views) > 1 and len(sources) == 1 and not sure else None


def _copies(views: Sequence[View]) -> Factor:
    return Factor(len(views), frozenset({WINDOW}) if _shared_source(views) is not None else frozenset())


def _update_slice(eqn: Any, views: list[View], record: Record) -> list[View]:
    shape = eqn.outvars[0].aval.shape
    return [_joined([views[0], fitted(views[1], shape)], shape, None)]


def _scatter(eqn: Any, views: list[View], record: Record) -> list[View]:
    operand, indices, updates = views
    if operand.leaves and (operand.doubt < DOUBTFUL or not updates.level):
        return [operand]
    record.lose(updates, eqn.primitive.name)
    level = max(v.level for v in views)
    return [operand.data(level)._replace(uses=operand.uses | indices.uses | updates.uses)]


def _iota(eqn: Any, views: list[View], record: Record) -> list[View]:
    return [plain(eqn.outvars[0].aval.shape)._replace(kind="counting")]


def _unstack(eqn: Any, views: list[View], record: Record) -> list[View]:
    axis = eqn.params["axis"]
    one = [resized(a, 1) if i == axis else a for i, a in enumerate(views[0].axes)]
    return [without(views[0]._replace(axes=tuple(one)), [axis])] * len(eqn.outvars)


def _stack(eqn: Any, views: list[View], record: Record) -> list[View]:
    joined, axis = _joined(views, views[0].shape, None), eqn.params["axis"]
    return [joined._replace(axes=(*joined.axes[:axis], (_copies(views),), *joined.axes[axis:]))]


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": convolution,
    "dot_general": dot,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _update_slice,
    "gather": _gather,
    "iota": _iota,
    "pad": _resize,
    "ragged_dot_general": ragged_dot,
    "reshape": _reshape,
    "slice": _slice,
    "split": _resize,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add", "scatter_mul", "scatter_min", "scatter_max"), _scatter),
}
