"""Says of each element of an array whether it can be other than zero, and whether it depends on the data.

Both are 0 or 1, in float32, so that the program of them can be differentiated: the derivative says what takes part in
what. :func:`some` brings sums back to 0 and 1, and so it does with derivatives.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.trees import is_traced

Array = jax.Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value", "nonzero", "data"], meta_fields=["leaf", "shape"]
)
@dataclasses.dataclass(frozen=True)
class Signal:
    """Describes an array of a program by one of three: its value, what can be non-zero, or that and what is data."""

    shape: tuple[int, ...]
    value: Any = None  # of what depends on neither parameters nor data
    nonzero: Any = None  # float32 of 0 and 1; None where the value is known
    data: Any = None  # likewise, where it depends on data; None: nowhere
    leaf: str = ""  # the leaf whose elements these are

    @property
    def level(self) -> int:
        """Returns 0 for what is known, 1 for what comes of parameters alone, 2 for what may depend on data."""
        return 0 if self.nonzero is None else 1 if self.data is None else 2

    def on(self) -> Array:
        """Returns where it can be non-zero."""
        return is_nonzero(self.value, self.shape) if self.nonzero is None else self.nonzero

    def depends(self) -> Array:
        """Returns where it depends on data."""
        return jnp.zeros(self.shape, jnp.float32) if self.data is None else self.data

    def raised(self, level: int) -> "Signal":
        """Returns the same with less known; of no leaf, so that it can be carried through a loop."""
        if level == 0:
            return Signal(self.shape, value=self.value)
        return Signal(self.shape, None, self.on(), self.depends() if level == 2 else None)


@jax.custom_vjp
def some(x: Array) -> Array:
    """Returns 1 where a sum is positive, else 0; its derivative is 1 where there is any."""
    return (x > 0).astype(jnp.float32)


def _some_forward(x: Array) -> tuple[Array, None]:
    return some(x), None


def _some_backward(_: None, slope: Array) -> tuple[Array]:
    return (some(slope),)


some.defvjp(_some_forward, _some_backward)


def is_nonzero(value: Any, shape: tuple[int, ...]) -> Array:
    """Returns where a known array is not zero, float32; a random key counts as that."""
    if jnp.issubdtype(jax.dtypes.result_type(value), jax.dtypes.extended):
        return jnp.ones(shape, jnp.float32)
    return jnp.broadcast_to(jnp.asarray(value) != 0, shape).astype(jnp.float32)


def is_plain(value: Any) -> bool:
    """Whether a known value is a number that can be read now."""
    return not is_traced(value) and np.ndim(value) == 0


def over(x: Array, axes: Sequence[int], shape: Sequence[int] | None = None) -> Array:
    """Returns whether there is some over axes, repeated along them; or broadcast to another shape."""
    found = some(jnp.sum(x, axis=tuple(axes), keepdims=True)) if axes else x
    return jnp.broadcast_to(found, x.shape if shape is None else tuple(shape))


def mapped(
    function: Callable[..., Any],
    signals: Sequence[Signal],
    shape: tuple[int, ...],
    leaf: str = "",
    *,
    adds: bool = True,
) -> Signal:
    """Describes what a linear function with weights of 0 and 1 makes of some arrays; whether it adds them up."""
    of_sums = some if adds else lambda x: x
    nonzero = of_sums(function(*(s.on() for s in signals)))
    has_data = any(s.data is not None for s in signals)
    data = of_sums(function(*(s.depends() for s in signals))) if has_data else None
    return Signal(shape, None, nonzero, data, leaf)


class Notes:
    """Collects what is noted of a program on the way."""

    def __init__(self, unread: set[str], groups: dict[str, int]) -> None:
        self.passed: list[Array] = []  # whether anything depends on data behind each product, float32[]
        self.unread = unread  # primitives that nothing is known of
        self.groups = groups  # of grouped convolutions, by leaf

    def total(self) -> Array:
        """Returns the sum of what was noted behind products, as 0 or 1."""
        return some(sum(self.passed, jnp.zeros((), jnp.float32)))

    def product(
        self, function: Callable[[Array, Array], Array], a: Signal, b: Signal, shape: tuple[int, ...]
    ) -> Signal:
        """Describes a product that is linear in both of its operands."""
        for known, other in ((a, b), (b, a)):  # a number scales
            if known.level == 0 and is_plain(known.value) and other.shape == shape and np.asarray(known.value) != 0:
                return other
        parts = []
        if a.data is not None:
            parts.append(function(a.data, b.on()))
        if b.data is not None:
            parts.append(function(a.on(), b.data))
        data = some(functools.reduce(jnp.add, parts)) if parts else None
        if data is not None and a.level and b.level:
            self.passed.append(some(jnp.sum(data)))
        return Signal(shape, None, some(function(a.on(), b.on())), data, _the_leaf([a, b]))

    def everything(self, signals: Sequence[Signal], shape: tuple[int, ...], name: str = "") -> Signal:
        """Describes what depends on every element of some arrays, as far as anybody knows; notes ``name``."""
        if name:
            self.unread.add(name)
        ones = jnp.ones(shape, jnp.float32)
        fed = [jnp.sum(s.data) for s in signals if s.data is not None]
        if not fed:
            return Signal(shape, None, ones)
        # A weight takes part, whether another one does or not.
        weights = [jnp.sum(s.nonzero) for s in signals if s.level == 1]
        data = some(sum(fed)) * some(1 + sum(weights, jnp.zeros((), jnp.float32)))
        self.passed.append(data)
        return Signal(shape, None, ones, data * ones)


def _the_leaf(signals: Sequence[Signal]) -> str:
    """Names the leaf whose elements stay its elements when combined one by one; none where several are."""
    leaves = {s.leaf for s in signals if s.leaf}
    return leaves.pop() if len(leaves) == 1 and all(s.data is None for s in signals) else ""


def elementwise(eqn: Any, signals: Sequence[Signal]) -> Signal:
    """Describes a function of each element, whose result at zero tells whether it can be other than zero there."""
    shape = eqn.outvars[0].aval.shape
    unknown = [s for s in signals if s.level]
    leaf = _the_leaf(unknown)
    dtypes = [v.aval.dtype for v in eqn.invars]
    base: Any
    if all(s.level or is_plain(s.value) for s in signals):  # one number tells of all elements, without an array
        with jax.ensure_compile_time_eval():
            at_zero = [jnp.zeros((), d) if s.level else s.value for s, d in zip(signals, dtypes, strict=True)]
            base = bool(is_nonzero(eqn.primitive.bind(*at_zero, **eqn.params), ()))
        if len(unknown) == 1 and not base and unknown[0].shape == shape:
            return dataclasses.replace(unknown[0], leaf=leaf)
    else:
        at_zero = [jnp.zeros(s.shape, d) if s.level else s.value for s, d in zip(signals, dtypes, strict=True)]
        base = is_nonzero(eqn.primitive.bind(*at_zero, **eqn.params), shape)

    def together(*arrays: Array) -> Array:
        return functools.reduce(jnp.add, (jnp.broadcast_to(x, shape) for x in arrays))

    data = together(*(s.data for s in unknown if s.data is not None)) if any(s.level == 2 for s in unknown) else None
    nonzero = jnp.ones(shape, jnp.float32) if base is True else some(together(*(s.on() for s in unknown)) + base)
    several = sum(s.level == 2 for s in unknown) > 1
    return Signal(shape, None, nonzero, some(data) if several and data is not None else data, leaf)
