"""What each primitive does to signals; see :mod:`dstjax.program.signals`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from dstjax.program.primitives import POINTWISE, SAME
from dstjax.program.signals import Array, Notes, Signal, elementwise, mapped, over, some

Rule = Callable[[Any, list[Signal], Notes], list[Signal]]

_LINEAR = {
    *("broadcast_in_dim", "concatenate", "cumsum", "expand_dims", "pad", "reduce_sum", "reshape", "rev", "slice"),
    *("split", "squeeze", "stack", "tile", "transpose", "unstack"),
}
_ALL_OF_IT = {"random_bits", "random_fold_in", "random_seed", "random_unwrap", "random_wrap", "threefry2x32"}


def apply(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    """Describes the results of an equation that has no program inside it."""
    name = eqn.primitive.name.replace("-", "_")
    if name in RULES:
        return RULES[name](eqn, signals, notes)
    if name in POINTWISE and all(_fits(s.shape, eqn.outvars[0].aval.shape) for s in signals):
        return [elementwise(eqn, signals)]
    if name in SAME and len(signals) == len(eqn.outvars):
        return signals
    if name in _LINEAR:
        return _linear(eqn, signals)
    shapes = [getattr(v.aval, "shape", ()) for v in eqn.outvars]
    return [notes.everything(signals, shape, "" if name in _ALL_OF_IT else name) for shape in shapes]


def _fits(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether an operand is a scalar, or of the shape of the result but for axes of one."""
    return not shape or (len(shape) == len(whole) and all(n in (1, m) for n, m in zip(shape, whole, strict=True)))


def _linear(eqn: Any, signals: list[Signal]) -> list[Signal]:
    """Applies the primitive itself."""
    several, leaf = eqn.primitive.multiple_results, signals[0].leaf if len(signals) == 1 else ""
    return [
        mapped(
            lambda *x, i=i: (
                eqn.primitive.bind(*x, **eqn.params)[i] if several else eqn.primitive.bind(*x, **eqn.params)
            ),
            signals,
            v.aval.shape,
            leaf,
            adds=eqn.primitive.name in ("cumsum", "reduce_sum"),
        )
        for i, v in enumerate(eqn.outvars)
    ]


def _dot(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    def dot(a: Array, b: Array) -> Array:
        return lax.dot_general(a, b, eqn.params["dimension_numbers"])

    return [dataclasses.replace(notes.product(dot, signals[0], signals[1], eqn.outvars[0].aval.shape), leaf="")]


def _convolution(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
    counts = ("feature_group_count", "batch_group_count")
    convolve = functools.partial(lax.conv_general_dilated, **{n: eqn.params[n] for n in (*names, *counts)})
    if signals[1].leaf:
        notes.groups[signals[1].leaf] = eqn.params["feature_group_count"]
    return [dataclasses.replace(notes.product(convolve, signals[0], signals[1], eqn.outvars[0].aval.shape), leaf="")]


def _multiplied(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    shape = eqn.outvars[0].aval.shape
    return [notes.product(lambda a, b: jnp.broadcast_to(a * b, shape), signals[0], signals[1], shape)]


def _divided(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    """Divides: a divisor that cannot be other than zero is no matter."""
    shape, divisor = eqn.outvars[0].aval.shape, signals[1]
    sure = Signal(divisor.shape, None, some(1 + divisor.on()), divisor.data, divisor.leaf)
    return [notes.product(lambda a, b: jnp.broadcast_to(a * b, shape), signals[0], sure, shape)]


def _power(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    """Raises to a power that shows in the program: x ** -1 is like a divisor."""
    del notes
    if eqn.params["y"] > 0:
        return signals
    ones = jnp.ones(eqn.outvars[0].aval.shape, jnp.float32)
    return [Signal(signals[0].shape, None, ones, signals[0].data if eqn.params["y"] else None, signals[0].leaf)]


def _selected(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    which, *cases = signals
    shape = eqn.outvars[0].aval.shape
    if which.level == 0:
        leaf = cases[0].leaf if all(c.leaf in ("", cases[0].leaf) for c in cases) else ""
        return [mapped(lambda *x: lax.select_n(which.value, *x), cases, shape, leaf)]
    found = mapped(lambda *x: functools.reduce(jnp.add, x), cases, shape)
    if which.data is None:
        return [found]
    picked = notes.product(
        lambda a, b: jnp.broadcast_to(a * b, shape), which, Signal(shape, None, found.nonzero), shape
    )
    return [Signal(shape, None, found.nonzero, some(found.depends() + picked.depends()))]


def _reduced(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    del notes
    shape, axes = eqn.outvars[0].aval.shape, eqn.params["axes"]
    found = mapped(lambda x: jnp.sum(x, axis=tuple(axes)), signals[:1], shape)
    if eqn.primitive.name in ("argmax", "argmin"):
        found = dataclasses.replace(found, nonzero=jnp.ones(shape, jnp.float32))
    return [found]


def _accumulated(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    del notes
    return [mapped(lambda x: lax.cumsum(x, eqn.params["axis"], eqn.params["reverse"]), signals, signals[0].shape)]


def _pooled(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    del notes
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    window = {n: eqn.params[n] for n in names}
    return [mapped(lambda x: lax.reduce_window(x, 0.0, lax.add, **window), signals[:1], eqn.outvars[0].aval.shape)]


def _sorted(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    del notes
    axis, keys = eqn.params["dimension"], signals[: eqn.params["num_keys"]]
    order = sum((over(s.data, [axis]) for s in keys if s.data is not None), jnp.zeros(signals[0].shape, jnp.float32))
    return [Signal(s.shape, None, over(s.on(), [axis]), some(over(s.depends(), [axis]) + order)) for s in signals]


def _top(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    del notes
    (found,), shape = signals, eqn.outvars[0].aval.shape
    axis = eqn.params.get("axis", len(shape) - 1) % len(shape)
    sides = (some(jnp.sum(x, axis=axis, keepdims=True)) for x in (found.on(), found.depends()))
    nonzero, data = (jnp.broadcast_to(x, shape) for x in sides)
    return [Signal(shape, None, nonzero, data), Signal(shape, None, jnp.ones(shape, jnp.float32), data)]


def _transformed(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    """A Fourier transform: all of its last axes depend on all."""
    del notes
    shape, ndim = eqn.outvars[0].aval.shape, len(signals[0].shape)
    axes = range(ndim - len(eqn.params["fft_lengths"]), ndim)
    return [mapped(lambda x: jnp.broadcast_to(some(jnp.sum(x, tuple(axes), keepdims=True)), shape), signals, shape)]


def _picked(
    shape: tuple[int, ...], array: Signal, notes: Notes, where: Signal, pick: Callable[[Array], Array]
) -> Signal:
    """Describes what an index picks of an array, where the index may depend on data."""
    found = mapped(pick, [array], shape)
    if where.data is None:
        return found
    by_index = notes.product(lambda a, b: a * b, where, Signal(shape, None, found.nonzero), shape)
    return Signal(shape, None, found.nonzero, some(found.depends() + by_index.depends()))


def _gathered(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    array, index = signals
    shape, numbers = eqn.outvars[0].aval.shape, eqn.params["dimension_numbers"]
    params = {**eqn.params, "fill_value": 0}
    axes = () if index.level == 0 else numbers.start_index_map
    at = index.value if index.level == 0 else jnp.zeros(index.shape, eqn.invars[1].aval.dtype)
    batch = [a for a in range(len(shape)) if a not in numbers.offset_dims]
    by_data = None
    if index.data is not None:
        by_data = lax.broadcast_in_dim(some(jnp.sum(index.data, axis=-1)), shape, batch)
    where = Signal(shape, None, jnp.ones(shape, jnp.float32), by_data)
    return [_picked(shape, array, notes, where, lambda x: eqn.primitive.bind(over(x, axes), at, **params))]


def _starts(eqn: Any, starts: Sequence[Signal], sizes: Sequence[int], shape: Sequence[int]) -> tuple[Any, list[int]]:
    """Returns where a slice starts, and the axes along which that is not known."""
    unknown = [a for a, s in enumerate(starts) if s.level and sizes[a] < shape[a]]
    dtypes = [v.aval.dtype for v in eqn.invars[-len(starts) :]]
    return [jnp.zeros((), d) if s.level else s.value for s, d in zip(starts, dtypes, strict=True)], unknown


def _by(starts: Sequence[Signal], shape: tuple[int, ...]) -> Signal:
    ones = jnp.ones(shape, jnp.float32)
    fed = [s.data for s in starts if s.data is not None]
    return Signal(shape, None, ones, ones * some(functools.reduce(jnp.add, fed)) if fed else None)


def _sliced(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    array, *starts = signals
    if not starts:
        return [array]
    sizes, shape = eqn.params["slice_sizes"], eqn.outvars[0].aval.shape
    at, axes = _starts(eqn, starts, sizes, array.shape)
    return [_picked(shape, array, notes, _by(starts, shape), lambda x: lax.dynamic_slice(over(x, axes), at, sizes))]


def _slice_replaced(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    del notes
    array, new, *starts = signals
    shape = array.shape
    at, axes = _starts(eqn, starts, new.shape, shape)
    if axes:
        empty = jnp.zeros(shape, jnp.float32)
        found = mapped(lambda a, n: a + over(lax.dynamic_update_slice(empty, n, at), axes), [array, new], shape)
    else:
        found = mapped(lambda a, n: lax.dynamic_update_slice(a, n, at), [array, new], shape)
    where = _by(starts, shape)
    if where.data is None:
        return [found]
    return [dataclasses.replace(found, data=some(found.depends() + found.on() * where.data))]


def _scattered(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    """Adds: what is overwritten counts as if it were not."""
    del notes
    array, index, new = signals
    numbers, shape = eqn.params["dimension_numbers"], array.shape
    axes = () if index.level == 0 else numbers.scatter_dims_to_operand_dims
    at = index.value if index.level == 0 else jnp.zeros(index.shape, eqn.invars[1].aval.dtype)
    empty = jnp.zeros(shape, jnp.float32)

    def added(a: Array, n: Array) -> Array:
        return a + over(lax.scatter_add(empty, at, n, numbers, mode=eqn.params["mode"]), axes)

    found = mapped(added, [array, new], shape)
    where = _by([index] if index.data is None else [Signal((), None, None, jnp.sum(index.data))], shape)
    if where.data is None:
        return [found]
    return [dataclasses.replace(found, data=some(found.depends() + found.on() * where.data))]


RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(("mul", "and"), _multiplied),
    **dict.fromkeys(("div", "rem"), _divided),
    "integer_pow": _power,
    "select_n": _selected,
    **dict.fromkeys(
        ("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_xor"),
        _reduced,
    ),
    **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod"), _accumulated),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), _pooled),
    "sort": _sorted,
    "top_k": _top,
    "fft": _transformed,
    "gather": _gathered,
    "dynamic_slice": _sliced,
    "dynamic_update_slice": _slice_replaced,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_max", "scatter_min", "scatter_mul"), _scattered),
}
