"""Finds which weights lie on a way from the data to the results of a program; no network is run.

The program is walked once with 0 and 1 in the place of numbers (:mod:`dstjax.program.signals`): can an element be other
than zero, and does it depend on the data? The derivative of the second by the masks says which weights take part. So
SynFlow (Tanaka et al., 2020) scores a network by the paths through it; here nothing is summed up, and nothing
overflows.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import layouts as presets
from dstjax import masks as masks_lib
from dstjax._arrays.layout import Layout, assumed
from dstjax._arrays.leaves import named, named_masks
from dstjax._arrays.trees import Tree
from dstjax._engine.states import masks_of
from dstjax.checks import suggest
from dstjax.metrics import DeadNeurons
from dstjax.program.layout_reader import layouts
from dstjax.program.primitives import CALLS, scan_sizes
from dstjax.program.signal_rules import apply
from dstjax.program.signals import Notes, Signal, mapped, some
from dstjax.program.tracing import trace
from dstjax.program.walking import programs, walk


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["collapsed", "effective", "n_effective", "ends", "dead"],
    meta_fields=["unread"],
)
@dataclasses.dataclass(frozen=True)
class Connections:
    """Says what leads from the data to the results; mappings are by path of the masked leaf."""

    collapsed: Any  # bool[]: no result depends on the data, so that the network cannot learn
    effective: dict[str, Any]  # bool, like the leaf: active weights on a way from the data to a result
    n_effective: dict[str, Any]  # int32[]: how many these are
    ends: dict[str, Any]  # bool[stack...]: data arrive at the layer, and no active weight takes them on
    dead: dict[str, DeadNeurons]  # inputs and outputs of a layer without an effective weight, int32[stack...]
    unread: tuple[str, ...] = ()  # primitives that were taken to connect everything with everything

    @property
    def broken_at(self) -> tuple[str, ...]:
        """Returns the leaves at which all ways end."""
        return tuple(path for path, ends in self.ends.items() if np.any(ends))

    @property
    def idle(self) -> tuple[str, ...]:
        """Returns the masked leaves without an effective weight."""
        return tuple(path for path, n in self.n_effective.items() if not np.all(n))

    def __str__(self) -> str:
        """Returns what is wrong, or that nothing is."""
        if np.any(self.collapsed):
            ended = f": all ways end at {', '.join(self.broken_at)}" if self.broken_at else ""
            text = f"no active weights lead from the data to the results{ended}; the network cannot learn."
        elif self.idle:
            text = f"no active weight of {', '.join(self.idle)} lies on a way from the data to the results."
        else:
            text = "active weights of every masked leaf lead from the data to the results."
        return text + (f" Taken to connect everything: {', '.join(self.unread)}." if self.unread else "")


def connections(
    function: Callable[..., Any], params: Tree, opt_state_or_masks: Tree, *args: Any, layout: Any = None
) -> Connections:
    """Finds what of a masked network leads from ``args``, the data, to the results of ``function(params, *args)``.

    An active weight is *effective* if the way in which some result depends on the data may change with it: what the
    weight is multiplied with depends on data (or scales what does), and the product leads on to a result. Dense leaves
    are taken not to be zero, biases too, and no numbers to cancel: where some way is there, the network is connected.
    A unit without inputs is dead though its bias is not zero. A layer whose units all are dead, or any other cut
    through the network, is layer collapse: the results are the same whatever the data are.

    The sizes of ``args`` are those of the program that is run once, in float32 and on the positive numbers 0 and 1: an
    example suffices. It may be called under ``jit`` and ``vmap``, with masks that are traced.

    Args:
      function: any function that JAX can trace: the forward pass, or a loss. What is no data (targets, running
        statistics) is bound to it: by closure, or ``functools.partial``; else the results depend on that.
      params: tree of arrays or ``jax.ShapeDtypeStruct``; values are not read.
      opt_state_or_masks: the masks, or the state of ``sparsify`` that holds them.
      *args: the data, trees of arrays or ``jax.ShapeDtypeStruct``. Random keys do not count as data.
      layout: what the axes of masked leaves mean where the program does not tell, as in :func:`dstjax.sparsify`.

    Raises:
      ValueError: a mask does not fit the parameters, or there are no data; a program that branches on values.

    >>> params = {"first": jnp.zeros((4, 3)), "second": jnp.zeros((3, 2))}
    >>> masks = {"first": jnp.zeros((4, 3), bool).at[:, 0].set(True), "second": jnp.ones((3, 2), bool).at[0].set(False)}
    >>> found = connections(lambda p, x: jax.nn.relu(x @ p["first"]) @ p["second"], params, masks, jnp.zeros((1, 4)))
    >>> bool(found.collapsed), found.broken_at
    (True, ('second',))
    """
    leaves = named(params)
    stored = named_masks(masks_of(opt_state_or_masks))
    flags = {path: masks_lib.unpack(jnp.asarray(mask)) for path, mask in stored.items()}
    for path, mask in flags.items():
        if path not in leaves:
            raise ValueError(f"the masks have {path!r}, which is no leaf of the parameters; {suggest(path, leaves)}")
        if mask.shape != np.shape(leaves[path]):
            raise ValueError(f"the mask of {path!r} has shape {mask.shape}; the weight {np.shape(leaves[path])}.")
    closed, _ = trace(function, params, args)
    program: Any = closed.jaxpr
    data = program.invars[len(leaves) :]
    if not any(_is_data(v.aval) for v in data):
        raise ValueError("the function has no data; expected connections(function, params, masks, *data).")
    groups: dict[str, int] = {}
    unread: set[str] = set()

    def ways(masks: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        notes = Notes(unread=unread, groups=groups)
        inputs = []
        for path, var in zip(leaves, program.invars, strict=False):
            shape = var.aval.shape
            on = masks[path] if path in masks else jnp.ones(shape, jnp.float32)
            inputs.append(Signal(shape, None, on, None, path))
        for var in data:
            ones = jnp.ones(var.aval.shape, jnp.float32)
            inputs.append(Signal(ones.shape, None, ones, ones if _is_data(var.aval) else None))
        results = _walk(program, closed.consts, inputs, notes)
        arrived = [jnp.sum(r.data) for r in results if r.data is not None]
        return some(sum(arrived, jnp.zeros((), jnp.float32))), notes.total()

    # As one program: each operation for itself would be compiled for itself.
    @jax.jit
    def reached(masks: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        (arrived, passed), back = jax.vjp(ways, {path: mask.astype(jnp.float32) for path, mask in masks.items()})
        (of_results,) = back((jnp.ones_like(arrived), jnp.zeros_like(passed)))
        (of_products,) = back((jnp.zeros_like(arrived), jnp.ones_like(passed)))
        return arrived, of_results, of_products

    arrived, of_results, of_products = reached(flags)
    given = presets.by_name if layout is None else presets.preset_of(layout)
    assert given is not None  # for None the names tell
    read = presets.read(presets.First((layouts(function, params, *args), given)), leaves)
    known = {p: one if isinstance(one := read.get(p), Layout) else assumed(mask.ndim) for p, mask in flags.items()}
    effective = {path: (of_results[path] > 0) & mask for path, mask in flags.items()}
    return Connections(
        collapsed=arrived == 0,
        effective=effective,
        n_effective={path: jnp.sum(mask, dtype=jnp.int32) for path, mask in effective.items()},
        ends={path: _ends(of_products[path], mask, known[path]) for path, mask in flags.items()},
        dead={p: _dead(mask, known[p], groups.get(p, 1)) for p, mask in effective.items() if mask.ndim >= 2},
        unread=tuple(sorted(unread)),
    )


@functools.partial(jax.jit, static_argnums=2)
def _ends(reached: jax.Array, mask: jax.Array, layout: Layout) -> jax.Array:
    """Whether data arrive at each layer of a leaf, and no active weight takes them on."""
    within = tuple(a for a in range(mask.ndim) if a not in layout.stack)
    return jnp.any(reached > 0, axis=within) & ~jnp.any((reached > 0) & mask, axis=within)


def _is_data(aval: Any) -> bool:
    return not jnp.issubdtype(aval.dtype, jax.dtypes.extended)


@functools.partial(jax.jit, static_argnums=2)
def _dead(effective: jax.Array, layout: Layout, groups: int) -> DeadNeurons:
    """Counts the units of each layer without an effective weight; in a grouped convolution an input is of one group."""
    inputs, outputs, windows = layout.inputs, layout.outputs, layout.windows
    groups = max(1, groups // layout.layers(effective.shape))  # under vmap the layers are groups too
    first, size = outputs[0], effective.shape[outputs[0]]
    parts = groups if size % groups == 0 else 1
    # The first axis of outputs becomes two: the groups, and the outputs of each.
    split = effective.reshape(*effective.shape[:first], parts, size // parts, *effective.shape[first + 1 :])

    def moved(axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(a + (a > first) for a in axes)

    stack = [split.shape[a] for a in moved(layout.stack)]
    within = tuple(a for a in (*moved(outputs), first + 1) if a != first)

    def counted(units: tuple[int, ...], others: tuple[int, ...]) -> jax.Array:
        alive = jnp.any(split, axis=others, keepdims=True)
        return jnp.sum(~alive, axis=units, dtype=jnp.int32, keepdims=True).reshape(stack)

    of_window = moved(windows)
    dead_inputs = counted((*moved(inputs), first), (*of_window, *within))
    return DeadNeurons(dead_inputs, counted((first, *within), (*of_window, *moved(inputs))))


def _walk(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Signal], notes: Notes) -> list[Signal]:
    """Describes the results of a jaxpr."""
    known = [Signal(var.aval.shape, value=x) for var, x in zip(jaxpr.constvars, consts, strict=True)]

    def equation(eqn: Any, signals: list[Signal]) -> list[Signal]:
        return _equation(eqn, signals, notes)

    return walk(jaxpr, inputs, known, equation, lambda atom: Signal(np.shape(atom.val), value=atom.val))


def _equation(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    name, inner = eqn.primitive.name, programs(eqn)
    if name in CALLS and len(inner) == 1 and [v.aval.shape for v in inner[0][0].invars] == [s.shape for s in signals]:
        return _walk(*inner[0], signals, notes)
    if all(s.level == 0 for s in signals) and not (inner and name in CALLS):
        values = eqn.primitive.bind(*(s.value for s in signals), **eqn.params)
        values = values if eqn.primitive.multiple_results else [values]
        return [Signal(getattr(v.aval, "shape", ()), value=x) for v, x in zip(eqn.outvars, values, strict=True)]
    if name == "scan":
        return _scan(eqn, signals, notes)
    if name == "cond":
        return _cond(eqn, inner, signals, notes)
    return apply(eqn, signals, notes)


def _cond(eqn: Any, branches: list[tuple[Any, Sequence[Any]]], signals: list[Signal], notes: Notes) -> list[Signal]:
    """Joins all branches; which one it is may depend on data."""
    which, *operands = signals
    ways = [_walk(*branch, operands, notes) for branch in branches]
    results = []
    for var, cases in zip(eqn.outvars, zip(*ways, strict=True), strict=True):
        shape = var.aval.shape
        joined = mapped(lambda *x: functools.reduce(jnp.add, x), cases, shape)
        if which.data is not None:
            data = some(joined.depends() + jnp.broadcast_to(which.data, shape))
            joined = dataclasses.replace(joined, data=data)
        results.append(joined)
    return results


def _scan(eqn: Any, signals: list[Signal], notes: Notes) -> list[Signal]:
    """Runs the rounds of a loop; what is carried is known as little in the first round as in the last."""
    n_consts, n_carried = scan_sizes(eqn.params)
    consts, carry, slices = (
        signals[:n_consts],
        signals[n_consts : n_consts + n_carried],
        signals[n_consts + n_carried :],
    )
    body = eqn.params["jaxpr"]
    dtypes = [v.aval.dtype for v in body.jaxpr.invars[n_consts : n_consts + n_carried]]
    slices = [dataclasses.replace(s, shape=s.shape[1:]) for s in slices]

    def started(carry: Sequence[Signal], levels: Sequence[int]) -> list[Signal]:
        return [_typed(s.raised(level), d) for s, level, d in zip(carry, levels, dtypes, strict=True)]

    def round_with(levels: Sequence[int], carry: Any, slices: Any) -> tuple[Any, Any]:
        inside = Notes(notes.unread, notes.groups)
        results = _walk(body.jaxpr, body.consts, [*consts, *carry, *slices], inside)
        after, rest = results[:n_carried], results[n_carried:]
        found = [max(level, s.level) for level, s in zip(levels, after, strict=True)]
        seen[:] = found
        after = started(after, found if found != levels else levels)
        return after, (rest, inside.total())

    levels = [s.level for s in carry]
    while True:
        seen: list[int] = []
        first = jax.eval_shape(lambda xs: jax.tree.map(lambda x: x[0], xs), slices)
        jax.eval_shape(functools.partial(round_with, levels), started(carry, levels), first)
        if seen == levels:
            break
        levels = [*seen]
    after, (rest, totals) = jax.lax.scan(
        functools.partial(round_with, levels),
        started(carry, levels),
        slices,
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
    )
    notes.passed.append(some(jnp.sum(totals)))
    stacked = [dataclasses.replace(s, shape=(eqn.params["length"], *s.shape)) for s in rest]
    return [*after, *stacked]


def _typed(signal: Signal, dtype: Any) -> Signal:
    """Gives a known value the dtype, and no weak one, with which a loop carries it."""
    if signal.level or jnp.issubdtype(dtype, jax.dtypes.extended):
        return signal
    return dataclasses.replace(signal, value=jax.lax.convert_element_type(signal.value, dtype))
