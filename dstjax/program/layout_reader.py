"""Reads from a program what each axis of each leaf means; nothing is computed.

The jaxpr is walked once, loops until what they carry stays the same. Each array is described by its axes: which axes of
which leaves they are, through reshapes, masks, scales and whatever else leaves the elements of a leaf its elements. A
product of a leaf with data says the rest: contracted axes are inputs, those that are kept outputs, those in a batch
number layers.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from dstjax import layouts as presets
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import named
from dstjax._arrays.trees import Tree, is_traced
from dstjax.program.axes import (
    ACTIVATION,
    ARGUMENT,
    CONSTANT,
    Factor,
    Tag,
    View,
    either,
    fitted,
    plain,
    tags_of,
    without,
)
from dstjax.program.layout_rules import RULES, apply, unknown
from dstjax.program.primitives import CALLS, scan_sizes
from dstjax.program.tracing import trace
from dstjax.program.uses import Record
from dstjax.program.walking import walk

_LARGEST_STATE = 2**20  # entries of a constant that is looked at
_MOST_ROUNDS = 20  # what is carried and has not settled by then is no weight


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Layouts(Mapping[str, str | None]):
    """Maps the path of each leaf to its layout, as :mod:`dstjax.layouts` writes it; cannot change.

    None stands for a leaf that is no weight, ``"?"`` for one that cannot be read: ``unread`` says why. It is a preset,
    so it can be given to ``sparsify(..., layout=)`` and within a list of presets.
    """

    entries: tuple[tuple[str, str | None], ...]
    reasons: tuple[tuple[str, str], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def unread(self) -> dict[str, str]:
        """Returns path -> why a leaf cannot be read."""
        return dict(self.reasons)

    def __getitem__(self, path: str) -> str | None:
        """Returns the layout of a leaf."""
        return dict(self.entries)[path]

    def __iter__(self) -> Iterator[str]:
        """Goes through the paths in the order of the leaves."""
        return (path for path, _ in self.entries)

    def __len__(self) -> int:
        """Returns the number of leaves."""
        return len(self.entries)

    def __hash__(self) -> int:
        """Returns the hash of the layouts."""
        return hash(frozenset(self.entries))

    def __call__(self, path: str, leaf: Any) -> str | None:
        """Returns the layout of a leaf; ``"?"`` of one that the program does not have."""
        del leaf
        return dict(self.entries).get(path, presets.UNKNOWN)

    def __repr__(self) -> str:
        """Returns a line for each leaf."""
        width = max((len(path) for path, _ in self.entries), default=0)
        reasons = self.unread
        lines = []
        for (path, written), shape in zip(self.entries, self.shapes, strict=True):
            said = (
                "no weight" if written is None else f"?  ({reasons[path]})" if written == presets.UNKNOWN else written
            )
            lines.append(f"  {path:{width}}  {shape!s:>16}  {said}")
        return "\n".join([f"Layouts of {len(lines)} leaves", *lines])

    def check(self, layout: Any = None) -> None:
        """Refuses a layout that contradicts the program.

        Where either does not know, and where the layout leaves a weight out (None), there is no contradiction; a table
        may be called ``in`` as well as ``lookup``.

        Args:
          layout: as in :func:`dstjax.sparsify`; None checks what the names of the leaves say.

        Raises:
          ValueError: with each leaf that contradicts; or the layout itself is wrong, as in
            :func:`dstjax.layouts.read`.
        """
        leaves = {p: jax.ShapeDtypeStruct(s, np.float32) for p, s in zip(self, self.shapes, strict=True)}
        wrong = []
        for path, given in presets.read(layout, leaves, names=layout is None).items():
            found = self[path]
            if isinstance(given, Layout) and found != presets.UNKNOWN and _said(str(given)) != _said(found):
                wrong.append(f"{path!r} is {'no weight' if found is None else repr(found)}, not {str(given)!r}")
        if wrong:
            raise ValueError(f"the layout contradicts the program: {'; '.join(wrong)}.")


def _said(written: str | None) -> str | None:
    return None if written is None else written.replace("lookup", "in")


def layouts(function: Callable[..., Any], params: Tree, *args: Any) -> Layouts:
    """Reads what each axis of each leaf of ``params`` means in ``function(params, *args)``.

    A leaf is a weight if it is multiplied with data by ``dot_general``, ``ragged_dot_general`` or
    ``conv_general_dilated``: as it is, moved, cut, joined with others, masked, scaled or normalised. Axes that are
    contracted are ``in``, those that are kept ``out``. Of a convolution the spatial axes are the ``window``, also where
    shifted copies of the input stand side by side. Axes that both operands share (experts, layers under vmap), that a
    loop scans over, or from which a layer is taken by its index, are ``stack``. Rows that data pick, by an index or by
    a product with a one-hot array, are ``lookup`` unless they then multiply with data, as experts do. Two leaves of low
    rank, whose product is added to a weight, each have inputs and outputs; a product of leaves alone may as well be a
    projection of learned queries, and they are ``"?"``.

    All else is no weight (None): biases, scales, tables that are only added, and vectors, also a stack of them.

    Two uses that disagree make a leaf ``"?"``: a table that is looked up and gives the logits, a weight and its
    transpose. So give a loss or a forward function, not a gradient, which has the transpose of each weight.

    What no program tells apart is read as its shortest form: of networks under vmap on the same input, with a single
    layer, the layers are outputs; of experts that gates mix before the product the experts are inputs, and so are the
    places of windows that indices gather.

    Args:
      function: any function that JAX can trace, with results of any kind; bind what is no array with
        ``functools.partial``.
      params: tree of arrays or ``jax.ShapeDtypeStruct``, as from ``jax.eval_shape``.
      *args: the other arguments, likewise.

    Raises:
      ValueError: the program branches on values.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.zeros((20, 30)), "b": jnp.zeros(30), "v": jnp.zeros((5, 30))}
    >>> layouts(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) @ p["v"].T, params, jnp.zeros((1, 20)))
    Layouts of 3 leaves
      b             (30,)  no weight
      v           (5, 30)  out in
      w          (20, 30)  in out
    """
    leaves = [(name, np.shape(leaf)) for name, leaf in named(params).items()]
    closed, _ = trace(function, params, args)
    record = Record(dict(leaves))
    views = [_leaf(path, shape) for path, shape in leaves]
    views += [plain(v.aval.shape, ARGUMENT) for v in closed.jaxpr.invars[len(views) :]]
    _walk(closed.jaxpr, views, record, closed.consts)
    found = record.written()
    return Layouts(
        tuple((path, found[path][0]) for path, _ in leaves),
        tuple((path, why) for path, (_, why) in found.items() if why),
        tuple(shape for _, shape in leaves),
    )


def _leaf(path: str, shape: tuple[int, ...]) -> View:
    """Describes a leaf; a vector is no weight whatever is done with it."""
    if len(shape) < 2:
        return plain(shape)
    axes = tuple((Factor(n, frozenset({(path, axis)})),) for axis, n in enumerate(shape))
    return View(axes, frozenset({path}))


def _walk(jaxpr: Any, inputs: Sequence[View], record: Record, constants: Sequence[Any] = ()) -> list[View]:
    """Notes what a jaxpr does with the leaves, and returns its results."""
    given = [plain(v.aval.shape, CONSTANT) for v in jaxpr.constvars]
    given = [_valued(v, x) for v, x in zip(given, constants, strict=True)] if constants else given

    def equation(eqn: Any, views: list[View]) -> list[View]:
        shapes = [getattr(var.aval, "shape", ()) for var in eqn.outvars]
        results = zip(_equation(eqn, views, record), shapes, strict=True)
        return [v if v.shape == shape else plain(shape, ACTIVATION, v.uses) for v, shape in results]

    def literal(atom: Any) -> View:
        return _valued(plain(np.shape(atom.val), CONSTANT if np.ndim(atom.val) else 0), atom.val)

    return walk(jaxpr, inputs, given, equation, literal)


def _valued(view: View, value: Any) -> View:
    """Says of a constant that it is zero, as the first state of a recurrent network is: no table is made of that."""
    dtype = getattr(value, "dtype", np.result_type(type(value)))
    if is_traced(value) or not jnp.issubdtype(dtype, np.number) or np.size(value) > _LARGEST_STATE:
        return view
    return view if np.any(jax.device_get(value)) else view._replace(kind="zero")


def _equation(eqn: Any, views: list[View], record: Record) -> list[View]:
    name, inner = eqn.primitive.name, list(core.jaxprs_in_params(eqn.params))
    if name in CALLS and len(inner) == 1 and len(inner[0].invars) == len(views):
        results = _walk(inner[0], [_inside(v, i) for v, i in zip(views, inner[0].invars, strict=True)], record)
        return [_inside(v, o) for v, o in zip(results, eqn.outvars, strict=True)]
    if name == "scan":
        return _scan(eqn, views, record)
    if name == "while":
        return _while(eqn, views, record)
    if name == "cond":
        ways = [_walk(branch.jaxpr, views[1:], record) for branch in eqn.params["branches"]]
        results = ways[0]
        for others in ways[1:]:
            results = [either(a, b) for a, b in zip(results, others, strict=True)]
        return [v._replace(level=max(v.level, views[0].level)) for v in results]
    if inner and name not in RULES:
        return unknown(name, views, [v.aval.shape for v in eqn.outvars], record)
    return apply(eqn, views, record)


def _inside(view: View, var: Any) -> View:
    """Gives a view the shape that an array has inside or outside of ``shard_map``."""
    shape = var.aval.shape
    return view if view.shape == shape or len(view.axes) != len(shape) else fitted(view, shape)


def _scan(eqn: Any, views: list[View], record: Record) -> list[View]:
    consts, carried = scan_sizes(eqn.params)
    split = consts + carried
    scanned = views[split:]
    layers: set[Tag] = set().union(*(tags_of(v.axes[:1]) for v in scanned if v.leaves))
    slices = [_round(v) for v in scanned]
    body = eqn.params["jaxpr"].jaxpr
    results = _rounds(body, views[:consts], views[consts:split], slices, record)
    return results[:carried] + [_stacked(v, eqn.params["length"], layers) for v in results[carried:]]


def _round(view: View) -> View:
    """Describes what a loop sees of an array that it scans over."""
    axes = (tuple(f._replace(cut=bool(f.tags)) for f in view.axes[0]), *view.axes[1:])
    result = without(view._replace(axes=axes, kind="", source=None), [0])
    return result if view.leaves else result._replace(taken=frozenset())


def _stacked(view: View, length: int, layers: set[Tag]) -> View:
    """Describes the results of all rounds; the layers that the loop took apart are together again."""
    again = frozenset(tag for tag, role in view.taken if role == "stack" and tag in layers)
    taken = frozenset((tag, role) for tag, role in view.taken if tag not in again)
    return view._replace(axes=((Factor(length, again),), *view.axes), taken=taken, kind="", source=None)


def _while(eqn: Any, views: list[View], record: Record) -> list[View]:
    test, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    split = test + consts
    results = _rounds(eqn.params["body_jaxpr"].jaxpr, views[test:split], views[split:], [], record)
    _walk(eqn.params["cond_jaxpr"].jaxpr, [*views[:test], *results], record)
    return results


def _rounds(jaxpr: Any, consts: list[View], carry: list[View], slices: list[View], record: Record) -> list[View]:
    """Walks one round of a loop until what is carried stays the same, and so finds what holds in every round."""
    before, known = record.snapshot(), len(record.uses)
    for left in reversed(range(_MOST_ROUNDS)):
        results = _walk(jaxpr, [*consts, *carry, *slices], record)
        # Uses of a round that is walked again will have other numbers.
        kept = [v._replace(uses=frozenset(i for i in v.uses if i < known)) for v in results[: len(carry)]]
        after = [either(a, b) for a, b in zip(carry, kept, strict=True)]
        if after == carry or not left:
            break
        record.restore(before)
        carry = after if left > 1 else [plain(v.shape, ACTIVATION, v.uses) for v in after]
    final = [a._replace(uses=a.uses | v.uses) for a, v in zip(after, results, strict=False)]
    return final + results[len(carry) :]
