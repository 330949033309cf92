"""Makes a smaller network of a masked one that computes the same; see :func:`compact`."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import layouts as presets
from dstjax import masks as masks_lib
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import named, named_masks
from dstjax._arrays.trees import Tree, is_array, is_traced, places
from dstjax._engine.states import masks_of
from dstjax.checks import check_bool, check_integer
from dstjax.program import flops
from dstjax.program.channel_reader import read
from dstjax.program.channel_record import Record
from dstjax.program.compaction_report import Compaction, Row
from dstjax.program.cuts import Cuts, Keep, prefix_of
from dstjax.program.cutting import Cutter
from dstjax.program.dead_units import Verdict, holds, judge
from dstjax.program.labels import Ints
from dstjax.program.layout_reader import layouts
from dstjax.program.tracing import coarsest, trace

_TOLERANCE = 1e-3  # of results, relative to the largest


def compact(
    function: Callable[..., Any],
    params: Tree,
    masks: Tree,
    *args: Any,
    round_to: int = 1,
    check: bool = True,
) -> tuple[Callable[..., Any], Tree, Compaction]:
    """Makes a smaller network of a masked one that computes the same, and is really faster.

    Units (neurons, channels, heads) that are dead are removed from every array of the program: those without inputs,
    those without outputs, and what is left idle by that in turn. A unit that is constant is removed too: what it adds
    goes into the bias that follows, or the running mean; where there is none, or where a constant meets the padding of
    a convolution, the unit stays, and the report says so. A mean keeps its divisor. No module is defined anew: the
    same program runs in smaller shapes, so that it may be any function that JAX can trace.

    Numbers are taken to be finite: 0 times anything is 0. The results are those of the masked network to rounding, and
    so are the gradients of the parameters that are left; but of what feeds a constant alone, whose ways on go, and
    behind a function's own derivative (``jax.custom_vjp``) that mixes channels.

    Args:
      function: the forward pass, or a loss: ``function(params, *args)``; bind what is no array with
        ``functools.partial``. It may be under ``jit`` or ``vmap``, and contain loops and ``grad``.
      params: the parameters, concrete arrays. Give the running statistics of batch norms in it, as the variables of
        Flax do: what a function closes over is not changed.
      masks: the tree of masks, the optimiser state that holds them, or None for the zeros of the parameters.
      *args: an example of the other arguments, arrays or ``jax.ShapeDtypeStruct``. The smaller function takes
        arguments of other shapes as well, if ``function`` does, and keeps the full parameters on the host to check that
        nothing removed is read then, and that constants are those of the example.
      round_to: keeps some dead units, so that widths are multiples of this as far as groups allow it. 8 is often faster
        on a CPU, whose vectors hold as many numbers.
      check: whether to run both networks on the example, if there is one, and compare.

    Returns:
      The smaller function, compiled as by ``jax.jit``; its parameters, a tree like ``params``; and a report, which
      prints as a table, and whose ``cut``, ``cut_state``, ``expand`` and ``expand_state`` take parameters, masks and
      optimiser states to the smaller network and back.

    Raises:
      ValueError: masks of another network; parameters that are traced; a program that branches on values; or results
        that differ, as where the program divides by zero.

    >>> params = {"a": jnp.ones((4, 3)), "b": jnp.ones(3), "c": jnp.ones((3, 2)), "d": jnp.zeros(2)}
    >>> masks = {"a": jnp.ones((4, 3), bool).at[:, 0].set(False), "b": None, "c": jnp.ones((3, 2), bool), "d": None}
    >>> def network(p, x):
    ...     return jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"] + p["d"]
    >>> smaller, fewer, report = compact(network, params, masks, jnp.ones((1, 4)))
    >>> fewer["a"].shape, fewer["d"], smaller(fewer, jnp.ones((1, 4)))
    ((4, 2), Array([1., 1.], dtype=float32), Array([[11., 11.]], dtype=float32))
    """
    check_integer("round_to", round_to, 1)
    check_bool("check", check)
    for what, tree in (("parameters", params), ("masks", masks), ("arguments of the example", args)):
        if any(is_traced(x) for x in jax.tree_util.tree_leaves(tree)):
            raise ValueError(
                f"the {what} are traced; call dstjax.compact outside of jit, vmap and grad, on their values."
            )
    found = [p for p in places(params)[0] if not p.is_hole]
    if lost := [p.name for p in found if not _is_known(p.leaf)]:
        raise ValueError(f"the parameters have leaves that are no arrays: {', '.join(lost)}; expected arrays alone.")
    paths = {p.name: p.path for p in found}
    flags, prefix = masks_like(params, masks)
    if flags is not None:
        params = masks_lib.apply(params, flags)
    leaves = named(params)
    shapes = {name: tuple(np.shape(x)) for name, x in leaves.items()}
    closed, _ = trace(function, params, args)
    numbers = [np.asarray(x) if is_array(x) else x for x in leaves.values()]
    record = read(closed, shapes, numbers)
    masked = frozenset({} if flags is None else named_masks(flags))
    verdict = judge(record, masked, round_to=round_to)
    keep = _keeps(record, verdict.gone)
    written = read_layouts(function, params, args, leaves)
    cuts = Cuts(
        {paths[name]: keep[name] for name in leaves},
        {paths[name]: np.reshape(x, shapes[name]) for name, x in verdict.added.items()},
        prefix,
        {paths[name]: written.get(name) for name in leaves},
    )
    known = _Known(numbers, masked, verdict, _shapes_of(args))
    smaller = _smaller(function, params, keep, known)
    fewer = cuts.cut(params)
    if check and not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree_util.tree_leaves(args)):
        compare(jax.jit(function)(params, *args), smaller(fewer, *args), coarsest(closed.jaxpr))
    zeros = {} if flags is None else _zeros(leaves, named_masks(flags), keep)
    return smaller, fewer, _report(function, smaller, params, fewer, args, record, verdict, cuts, written, zeros)


def masks_like(params: Tree, masks: Tree) -> tuple[Tree | None, int]:
    """Returns the masks as a tree of the parameters, None where there are none, and how much longer its paths are."""
    if masks is None:
        return None, 0
    stored = masks_of(masks)
    prefix = prefix_of(stored, params)
    flags = {p.path: p.leaf for p in places(stored)[0] if not p.is_hole and is_array(p.leaf)}
    found, treedef = places(params)
    nodes = []
    for place in found:
        mask = None if place.is_hole else flags.get(place.path[prefix:])
        if mask is not None and masks_lib.shape(mask) != np.shape(place.leaf):
            raise ValueError(
                f"the mask of {place.name!r} has shape {masks_lib.shape(mask)}; its weight {np.shape(place.leaf)}. "
                "Expected the masks, or the optimiser state, of this network."
            )
        nodes.append(None if mask is None else place.holding(masks_lib.unpack(jnp.asarray(mask))))
    return treedef.unflatten(nodes), prefix


def _zeros(leaves: Mapping[str, Any], masks: Mapping[str, Any], keep: Mapping[str, Keep]) -> dict[str, int]:
    """Returns how many weights of matrices and kernels go that are active, or have no mask, and happen to be 0."""
    found = {}
    for path, x in leaves.items():
        if np.ndim(x) < 2:
            continue
        goes = np.ones(np.shape(x), bool)
        goes[np.ix_(*keep[path])] = False
        active = np.asarray(masks[path]) if path in masks else True
        found[path] = int(np.sum(goes & active & (np.asarray(x) == 0)))
    return {path: n for path, n in found.items() if n}


def _keeps(record: Record, gone: Ints) -> dict[str, Keep]:
    return {
        path: tuple(~np.isin(record.labels.roots(a.labels), gone) for a in axes) for path, axes in record.leaves.items()
    }


class _Known(NamedTuple):
    """What the example showed, to compare arguments of other shapes with."""

    numbers: Sequence[Any]  # of the full parameters, on the host
    masked: Collection[str]
    verdict: Verdict
    shapes: Any


def _shapes_of(args: Sequence[Any]) -> Any:
    leaves, treedef = jax.tree_util.tree_flatten(args)
    return treedef, [(np.shape(x), jax.dtypes.result_type(x)) for x in leaves]


def _is_known(leaf: Any) -> bool:
    """Whether a leaf is an array with its numbers, or a key."""
    return isinstance(leaf, jax.Array) or (is_array(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct))


def _smaller(function: Callable[..., Any], params: Tree, keep: Mapping[str, Keep], known: _Known) -> Callable[..., Any]:
    """Returns the function of smaller parameters; it reads the program again for arguments of other shapes."""
    full = jax.tree_util.tree_map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), params)
    shapes = {path: tuple(len(k) for k in axes) for path, axes in keep.items()}

    def smaller(params: Tree, *args: Any) -> Any:
        given = {path: np.shape(x) for path, x in named(params).items()}
        wanted = {path: tuple(int(k.sum()) for k in axes) for path, axes in keep.items()}
        if given != wanted:
            wrong = [f"{path!r} {given.get(path)} instead of {s}" for path, s in wanted.items() if given.get(path) != s]
            raise ValueError(
                f"these are not the parameters of the smaller network: {'; '.join(wrong) or 'too many leaves'}."
            )
        closed, structure = trace(function, full, args)
        other = _shapes_of(args) != known.shapes
        record = read(closed, shapes, known.numbers if other else None)
        roots = {path: [record.labels.roots(a.labels) for a in axes] for path, axes in record.leaves.items()}
        pairs = [(r, k) for path in roots for r, k in zip(roots[path], keep[path], strict=True)]
        gone = np.unique(np.concatenate([np.zeros(0, np.int64), *(r[~k] for r, k in pairs)]))
        if 0 in gone or any(np.isin(r[k], gone).any() for r, k in pairs):
            raise ValueError(
                "with arguments of these shapes the program joins what is removed with what is not; expected "
                "dstjax.compact(...) with an example of these shapes."
            )
        if other and not holds(record, known.masked, known.verdict, gone):
            raise ValueError(
                "with arguments of these shapes the program reads what is removed, or other constants than in the "
                "example, which went into a bias; expected dstjax.compact(...) with an example of these shapes."
            )
        leaves = [*jax.tree_util.tree_leaves(params), *jax.tree_util.tree_leaves(args)]
        return structure.unflatten(Cutter(record, gone).run(closed.jaxpr, closed.consts, leaves, ()))

    return jax.jit(smaller)


def compare(expected: Any, found: Any, rounding: float) -> None:
    """Refuses results that differ by more than rounding, of the coarsest dtype that the program computes in."""
    for x, y in zip(jax.tree_util.tree_leaves(expected), jax.tree_util.tree_leaves(found), strict=True):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            continue
        a, b = (np.asarray(z).astype(np.complex128 if jnp.iscomplexobj(z) else np.float64) for z in (x, y))
        finite = np.isfinite(a)
        tolerance = max(_TOLERANCE, 20 * rounding) * max(float(np.abs(a[finite]).max(initial=0)), 1e-30)
        if not np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
            raise ValueError(
                f"the new network computes something else: results differ by {np.abs(a - b).max():.3g}, where the "
                f"largest is {np.abs(a[finite]).max(initial=0):.3g}. Is a number in the program not finite, so that 0 "
                "times it is not 0? Otherwise this is a fault of dstjax."
            )


def read_layouts(
    function: Callable[..., Any], params: Tree, args: Sequence[Any], leaves: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the layout of each leaf, from the program and else from its name."""
    read_from = presets.First((layouts(function, params, *args), presets.by_name))
    return {p: x for p, x in presets.read(read_from, leaves).items() if isinstance(x, Layout)}


def _report(
    function: Callable[..., Any],
    smaller: Callable[..., Any],
    params: Tree,
    fewer: Tree,
    args: Sequence[Any],
    record: Record,
    verdict: Verdict,
    cuts: Cuts,
    written: Mapping[str, Layout],
    zeros: dict[str, int],
) -> Compaction:
    before, after = _count(function, params, args), _count(smaller, fewer, args)
    new = named(fewer)
    rows, widths = [], {}
    for path, x in named(params).items():
        work = (None if f is None else f.multiply_adds[path] for f in (before, after))
        rows.append(Row(path, tuple(np.shape(x)), tuple(np.shape(new[path])), *work))
        layer, _, _ = path.rpartition("/")
        if path in written:
            widths[layer or path] = int(
                np.prod([np.shape(new[path])[a] for a in written[path].outputs], dtype=np.int64)
            )
        elif np.ndim(x) == 1 and layer:
            widths.setdefault(layer, np.shape(new[path])[0])
    kept: dict[str, dict[str, int]] = defaultdict(dict)
    for why, groups in verdict.kept.items():
        for path, axes in record.leaves.items():
            numbers = [int(np.isin(record.labels.roots(a.labels), list(groups)).sum()) for a in axes]
            if max(numbers, default=0):
                kept[why][path] = max(numbers)
    other = (None if before is None else before.other, None if after is None else after.other)
    fixed = {why: tuple(sorted(found)) for why, found in record.kept.items()}
    return Compaction(tuple(rows), other, widths, dict(kept), fixed, zeros, cuts)


def _count(function: Callable[..., Any], params: Tree, args: Sequence[Any]) -> flops.Flops | None:
    """Counts the work; None where the program does not show it."""
    try:
        return flops.count(function, params, *args)
    except ValueError:
        return None
