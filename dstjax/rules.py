"""What a rule may read and remember, and rules as values.

A method is made of rules. Some score the weights of one leaf (:class:`Leaf`), others decide for the whole network
(:class:`Layers`). A rule is a function, or a frozen dataclass with ``__call__`` where it has parameters: then two of
equal parameters are equal, and it can be hashed, printed and pickled.
"""

import copyreg
import dataclasses
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from dstjax._arrays import lanes
from dstjax._arrays import wide as two_parts
from dstjax._arrays.layout import Layout, lanes_of
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import is_traced
from dstjax._arrays.widening import wide as wide
from dstjax._arrays.widening import wide_dtype as wide_dtype


class Leaf(NamedTuple):
    """What a rule may read of one leaf. Arrays have the shape of the weight unless said otherwise."""

    weight: jax.Array  # inactive entries are exactly 0
    gradient: jax.Array  # dense: with respect to the masked weight, so non-zero at inactive entries too
    mask: jax.Array  # bool; when growing, the weights that the drop has left
    counter: jax.Array | None  # unsigned integers: mask rounds in which each weight was active (DST-EE's N)
    step: jax.Array  # int32[], t of the current call of update; the first is 1
    key: jax.Array  # PRNG key, another one for each leaf, step and phase
    budget: jax.Array  # int32[], how many weights are dropped, or grown; int32[layers] of a stacked leaf
    memory: Any = None  # what the method remembers of this leaf
    second_mask: jax.Array | None = None  # bool: of methods that keep a second set of weights
    full_gradient: jax.Array | None = None  # with respect to the dense weights, of methods that need it
    layout: Layout | None = None  # what the axes mean, where it is known

    def total(self, x: jax.Array, dtype: Any = None) -> jax.Array:
        """Sums an array like the weight over each layer: a scalar; of a stack what fits the weight."""
        return lanes.total(x, self.layout, dtype)

    def mean(self, x: jax.Array, dtype: Any = None) -> jax.Array:
        """Returns the mean over each layer, as :meth:`total`."""
        if not lanes_of(self.layout):
            return jnp.mean(x, dtype=dtype)
        axes = tuple(a for a in range(x.ndim) if a not in lanes_of(self.layout))
        return jnp.mean(x, axis=axes, dtype=dtype, keepdims=True)


class Measured(NamedTuple):
    """How well the network does, for methods that remember it (:class:`dstjax.method.Remembered`)."""

    now: jax.Array  # float32[]: the mean of value= since the last mask update, or what is passed as metric=
    first: jax.Array  # float32[]: the same at the first mask update; ``now`` until then
    before: jax.Array  # float32[lag]: the same at the last mask updates, the oldest first
    updates: jax.Array  # int32[]: mask updates so far at which it was a finite number


class Layers(NamedTuple):
    """What a rule for the whole network may read. Lists are in the order of the masked leaves.

    A leaf is one layer, but a stacked one holds several (:mod:`dstjax.layouts`): vectors have a number for each layer,
    those of a leaf next to each other.
    """

    leaves: list[Leaf]
    active: jax.Array  # int32[layers]: active now
    initial: jax.Array  # int32[layers]: active at the method's own start, which masks of the user may be past
    target: jax.Array  # int32[layers]: active when all is done
    sizes: jax.Array  # int32[layers]
    step: jax.Array  # int32[], t of this call of update
    update_index: jax.Array  # int32[]: mask updates that were scheduled before this one
    shared: Any = None  # the small arrays that the method remembers
    measured: Measured | None = None
    value: Any = None  # what the caller passed as value=, or None
    metric: Any = None  # what the caller passed as metric=, or None
    still: Any = None  # bool[layers]: frozen, or without a gradient; these stay as they are whatever a rule says

    def sum(self, counts: jax.Array) -> jax.Array:
        """Returns the sum of numbers of weights over all layers, int32[].

        Raises:
          ValueError: all weights together are 2**31 or more, so that it might wrap around.
        """
        check_sums([leaf.weight.size for leaf in self.leaves])
        return jnp.sum(counts, dtype=jnp.int32)

    def about(self, counts: jax.Array) -> jax.Array:
        """Returns the sum of signed numbers of weights over all layers however large, float32[]."""
        if not two_parts.is_large([leaf.weight.size for leaf in self.leaves]):
            return jnp.sum(counts, dtype=jnp.int32).astype(jnp.float32)
        return two_parts.surplus(counts).to_float() - two_parts.surplus(-counts).to_float()

    def room(self, counts: jax.Array) -> jax.Array:
        """Returns how many weights each layer could have beyond some counts, int32[layers]; 0 where it stands still."""
        return self.moving(self.sizes - counts)

    def moving(self, counts: jax.Array) -> jax.Array:
        """Returns numbers of weights, int32[layers]; 0 where a layer stands still."""
        return counts if self.still is None else jnp.where(self.still, 0, counts)

    def moving_masks(self) -> list[jax.Array]:
        """Returns the masks, empty where a layer stands still: for rules that rank all layers together."""
        masks = [leaf.mask for leaf in self.leaves]
        if self.still is None:
            return masks
        of_leaf = lanes.of_each(self.still, [m.shape for m in masks], self.layouts)
        return [m & ~s for m, s in zip(masks, of_leaf, strict=True)]

    @property
    def layouts(self) -> tuple[Layout | None, ...]:
        """Returns what the axes of each leaf mean."""
        return tuple(leaf.layout for leaf in self.leaves)

    def sums(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """Sums arrays like the weights over each layer: a number for each layer.

        Of leaves of several dtypes, or of floats of one byte, of which jax promotes none, the sums are float32.
        """
        kinds = {x.dtype for x in arrays}
        narrow = any(jnp.issubdtype(kind, jnp.inexact) and kind.itemsize == 1 for kind in kinds)
        return lanes.sums(arrays, self.layouts, jnp.float32 if len(kinds) > 1 or narrow else None)

    def counts(self, masks: Sequence[jax.Array]) -> jax.Array:
        """Counts the True entries of boolean arrays like the weights in each layer, int32[layers]."""
        return count_true(masks, self.layouts)


def check_sums(sizes: Sequence[int]) -> None:
    """Refuses to add up numbers of weights over layers that have 2**31 weights or more together.

    Raises:
      ValueError: they have.
    """
    if two_parts.is_large(sizes):
        raise ValueError(
            f"a rule adds up numbers of weights over {len(sizes)} leaves of {sum(sizes):,} weights together; 32 bits "
            "hold less than 2,147,483,648. Expected fewer, or a method that counts in each layer alone, such as "
            "rigl(scope='layer'); the layers of a stack count apart."
        )


class Memory(NamedTuple):
    """What a method remembers besides masks and counters, else ``()``; lists have an entry for each masked leaf."""

    leaves: Any = ()  # arrays like the weights, or NamedTuples of such; may change at every step
    second_mask: Any = ()  # stored masks; changes in mask updates alone
    shared: Any = ()  # a NamedTuple of small arrays; changes in mask updates alone
    measured: Any = ()  # sums behind :class:`Measured`


class Value:
    """The base of a frozen dataclass (decorate it with :func:`value`) whose instances are equal where its fields are.

    Scalars of NumPy and JAX become Python numbers. What holds a value of a trace says so when printed; it, and what
    holds an array, is equal to nothing but itself. Pickling names the field that cannot be pickled.
    """

    def __post_init__(self) -> None:
        """Replaces scalars of NumPy and JAX by Python numbers."""
        for name, x in self._fields().items():
            object.__setattr__(self, name, tuple(map(_plain, x)) if type(x) is tuple else _plain(x))

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        """Whether the other one is of the same class and has equal fields."""
        if self is other or type(self) is not type(other):
            return self is other
        assert isinstance(other, Value)
        return not (_is_one_of_a_kind(self) or _is_one_of_a_kind(other)) and self._fields() == other._fields()

    def __hash__(self) -> int:
        """The hash of the fields."""
        if _is_one_of_a_kind(self):
            return id(self)
        try:
            return hash((type(self), tuple(self._fields().values())))
        except TypeError:  # a list, say: equal where its entries are
            return hash(type(self))

    def __repr__(self) -> str:
        """The fields that differ from their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        shown = [
            f"{n}={described(x)}"
            for n, x in self._fields().items()
            if is_traced(x) or type(x) is not type(defaults[n]) or x != defaults[n]
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __copy__(self) -> "Value":
        """Itself: it never changes."""
        return self

    def __deepcopy__(self, memo: Any) -> "Value":
        """Itself: it never changes."""
        return self

    def __reduce__(self) -> Any:
        """Made anew from its fields.

        Raises:
          pickle.PicklingError: a field cannot be pickled; names it.
        """
        for name, x in self._fields().items():
            if isinstance(x, Value):
                continue
            try:
                if holds_traced(x):
                    raise TypeError("a value of a trace")
                pickle.dumps(x)
            except Exception as error:
                raise pickle.PicklingError(
                    f"{name}={described(x)} of {type(self).__name__} cannot be pickled ({error}). It works all the "
                    "same where nothing is pickled; expected a function at the top level of a module, or a frozen "
                    "dataclass with __call__."
                ) from None
        return _made_anew, (type(self), self._fields())


_Class = TypeVar("_Class", bound=type)


@dataclass_transform(frozen_default=True, eq_default=False)
def value(cls: _Class) -> _Class:
    """Makes a frozen dataclass of a subclass of :class:`Value`, which compares, hashes, prints and pickles itself."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    return made


@value
class Bound(Value):
    """A function whose first arguments are given; see :func:`bind`."""

    function: Callable[..., Any]
    parameters: tuple[Any, ...]

    def __call__(self, *args: Any) -> Any:
        """Calls the function with the rest."""
        return self.function(*self.parameters, *args)

    def __repr__(self) -> str:
        """As a call."""
        return f"{described(self.function)}({', '.join(map(described, self.parameters))})"


def bind(function: Callable[..., Any], *parameters: Any) -> Bound:
    """Makes a rule of a function by giving its first arguments; equal to others of the same function and arguments.

    >>> def power_of_gradient(power, leaf):
    ...     return abs(leaf.gradient) ** power
    >>> bind(power_of_gradient, 2.0) == bind(power_of_gradient, 2.0)
    True
    """
    return Bound(function, parameters)


def of_all_leaves(scores: Callable[[Sequence[Leaf]], list[jax.Array]]) -> Callable[[Leaf], jax.Array]:
    """Makes a criterion of a function that scores all leaves at once, which compiles to fewer kernels.

    The criterion is called with one leaf like any other. A mask update calls its attribute ``of_all`` with all leaves
    instead, or with some after others: what a leaf scores must not depend on the rest.
    """

    @functools.wraps(scores)
    def of_one(leaf: Leaf) -> jax.Array:
        return scores([leaf])[0]

    of_one.of_all = scores  # type: ignore[attr-defined]
    of_one.is_separate = True  # type: ignore[attr-defined]
    return of_one


Masks = list[jax.Array]


def choosing(
    stay: Callable[[Sequence[Leaf]], Masks], scores: Callable[[Sequence[Leaf], Masks], list[jax.Array]] | None = None
) -> Callable[[Leaf], jax.Array]:
    """Makes a drop criterion of a function that says itself which weights stay, where no single score would.

    The function gets all leaves, or some after others, and marks as many active weights of each layer as its budget
    leaves; one that marks another number is refused before training. Where single weights are dropped layer by layer a
    mask update calls it, as the attribute ``choose``, and ranks nothing. Elsewhere the criterion is one like others
    (:func:`of_all_leaves`): ``scores`` makes scores of leaves and marks; by default what is marked is above the rest.
    """

    @functools.wraps(stay)
    def scored(leaves: Sequence[Leaf]) -> list[jax.Array]:
        marks = stay(leaves)
        return [m.astype(jnp.int8) for m in marks] if scores is None else scores(leaves, marks)

    criterion = of_all_leaves(scored)
    criterion.choose = stay  # type: ignore[attr-defined]
    return criterion


def is_separate(criterion: Callable[[Leaf], jax.Array]) -> bool:
    """Whether what a leaf scores does not depend on other leaves."""
    return not hasattr(criterion, "of_all") or getattr(criterion, "is_separate", False)


def _made_anew(cls: type, fields: dict[str, Any]) -> Any:
    made = copyreg.__newobj__(cls)  # type: ignore[attr-defined]
    for name, x in fields.items():
        object.__setattr__(made, name, x)
    made.__post_init__()
    return made


def _plain(x: Any) -> Any:
    return x.item() if getattr(x, "ndim", None) == 0 and hasattr(x, "item") and not is_traced(x) else x


def holds_traced(x: Any) -> bool:
    """Whether a value, or one inside it, is only known inside a trace."""
    return any(map(is_traced, _inside(x)))


def _is_one_of_a_kind(x: Any) -> bool:
    """Whether a value holds what has no one answer to whether it equals another: of a trace, or an array."""
    return any(is_traced(v) or bool(getattr(v, "ndim", 0)) for v in _inside(x))


def _inside(x: Any) -> list[Any]:
    """What a value holds, within values, tuples, lists and dicts too."""
    parts = x._fields().values() if isinstance(x, Value) else jax.tree.leaves(x)
    return [y for part in parts for y in (_inside(part) if part is not x else [part])]


def described(x: Any) -> str:
    """A value as text; functions by their names, values of a trace by their types."""
    if is_traced(x):
        return f"<traced {x.dtype}{list(x.shape)}>"
    return getattr(x, "__qualname__", None) or repr(x)
