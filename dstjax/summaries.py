"""Prints what is sparse and what it costs."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from dstjax import layouts, masks
from dstjax._arrays.lanes import layer_counts
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import MaskedLeaves, named, named_masks
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import Tree, is_array
from dstjax._engine.states import SparseState, batch_axes, every


@dataclasses.dataclass(frozen=True)
class LeafSummary:
    """Holds one row of :func:`summary`."""

    path: str
    shape: tuple[int, ...]
    size: int
    requested: int | None  # active weights asked for; None where the leaf is dense
    active: int
    layers: tuple[int, ...] = ()  # active weights of each layer of a masked leaf
    layout: str = ""  # what the axes mean, where that is known
    reason: str = ""  # why it is dense, as far as name and shape tell

    @property
    def density(self) -> float:
        """Returns the realised density."""
        return self.active / max(self.size, 1)

    @property
    def note(self) -> str:
        """Returns the layout and the densities of layers, or why it is dense."""
        if self.requested is None:
            return self.reason
        if len(self.layers) < 2:
            return self.layout
        low, high = (n * len(self.layers) / max(self.size, 1) for n in (min(self.layers), max(self.layers)))
        return f"{self.layout}: {len(self.layers)} layers of {low:.6f} to {high:.6f}"


@dataclasses.dataclass(frozen=True)
class Summary:
    """Says what is sparse and what it costs; prints as a table."""

    leaves: tuple[LeafSummary, ...]
    state_bytes: int  # masks, counters and what is tracked, without the inner optimiser
    copies: int = 1  # of the network, where the state is replicated or of a population: sizes are of all together

    @property
    def masked(self) -> tuple[LeafSummary, ...]:
        """Returns the rows of masked leaves."""
        return tuple(row for row in self.leaves if row.requested is not None)

    @property
    def density(self) -> float:
        """Returns the realised density over the masked leaves; 1 where none is masked."""
        size = sum(row.size for row in self.masked)
        return sum(row.active for row in self.masked) / size if size else 1.0

    def __str__(self) -> str:
        """Prints the table."""
        width = max([len(row.path) for row in self.leaves] + [16])
        lines = [
            f"{'leaf':<{width}}  {'shape':>18}  {'weights':>11}  {'active':>11}  {'requested':>9}  {'realised':>9}"
        ]
        for row in self.leaves:
            asked = "dense" if row.requested is None else f"{row.requested / row.size:.6f}"
            lines.append(
                f"{row.path:<{width}}  {row.shape!s:>18}  {row.size:>11,}  {row.active:>11,}  {asked:>9}  "
                f"{row.density:>9.6f}"
            )
        for label, rows in (("masked leaves", self.masked), ("all leaves", self.leaves)):
            if not rows:
                continue
            size, active = sum(r.size for r in rows), sum(r.active for r in rows)
            asked_for = sum(r.size if r.requested is None else r.requested for r in rows)
            lines.append(
                f"{label:<{width}}  {'':>18}  {size:>11,}  {active:>11,}  {asked_for / max(size, 1):>9.6f}  "
                f"{active / max(size, 1):>9.6f}"
            )
        size = sum(row.size for row in self.masked)
        lines.append(
            f"sparse state: {self.state_bytes:,} bytes, {self.state_bytes / max(size, 1):.3f} per masked weight"
        )
        if self.copies > 1:
            lines.append(f"sizes and numbers of weights are those of {self.copies} copies together")
        notes: dict[str, list[str]] = {}
        for row in self.leaves:
            notes.setdefault(f"{'dense' if row.requested is None else 'masked'}, {row.note}", []).append(row.path)
        lines += [f"{note}: {', '.join(paths)}" for note, paths in sorted(notes.items(), reverse=True)]
        return "\n".join(lines)


def summary(params: Tree, opt_state: Tree, *, layout: Any = None) -> Summary:
    """Returns a table of all leaves (shapes, requested and realised densities, active weights) and the bytes of state.

    Says what is masked, with what layout, and why the rest is not.

    Args:
      params: the parameters; their shapes suffice.
      opt_state: an optimiser state that holds one of ``sparsify``, or several, over which the parameters are parted. Of
        a replicated or vmapped one, with parameters that are, the numbers are those of all copies together, and the
        layers of a leaf those of each copy in turn.
      layout: as given to ``sparsify``.

    Raises:
      ValueError: the masks do not fit the parameters, or other layers than those of the layout are in the state.
    """
    states = every(opt_state)
    axes = batch_axes(states[0])
    arrays = {name: leaf for name, leaf in named(params).items() if is_array(leaf)}
    single = {name: jax.ShapeDtypeStruct(np.shape(x)[axes:], x.dtype) for name, x in arrays.items()}
    masked = {path: row for state in states for path, row in _masked_rows(params, state, single, layout).items()}
    rows = []
    for path, leaf in named_masks(params).items():
        shape = tuple(np.shape(leaf))
        size = int(np.prod(shape, dtype=np.int64))
        why = layouts.reason(path, single.get(path, leaf))
        rows.append(masked.get(path) or LeafSummary(path, shape, size, None, size, reason=why))
    held = jax.tree_util.tree_leaves([state._replace(inner_state=()) for state in states])
    copies = math.prod(np.shape(states[0].key)[:axes])
    return Summary(tuple(rows), sum(x.size * x.dtype.itemsize for x in held), copies)


def _masked_rows(params: Tree, state: SparseState, single: dict[str, Any], layout: Any) -> dict[str, LeafSummary]:
    """The rows of the leaves that one state masks, by path; ``single`` has the shapes of one copy."""
    leaves = MaskedLeaves.of(state.masks)
    stored, axes = leaves.read(state.masks), batch_axes(state)
    shapes = [masks.shape(mask) for mask in stored]
    leaves.find(params, "parameters", shapes)
    if not stored:
        return {}
    known = layouts.read(layout, single)
    of_leaf = tuple(one if isinstance(one := known.get(name), Layout) else None for name in leaves.masked)
    numbers = layer_counts([shape[axes:] for shape in shapes], of_leaf)
    targets = np.asarray(jax.device_get(state.targets), np.int64)
    if sum(numbers) != targets.shape[-1]:
        raise ValueError(
            f"the state has the targets of {targets.shape[-1]} layers, and with layout={layout!r} the parameters have "
            f"{sum(numbers)}; expected the layout= that was given to dstjax.sparsify."
        )
    count = functools.partial(count_true, layouts=of_leaf)
    for _ in range(axes):
        count = jax.vmap(count)
    active = np.asarray(jax.device_get(count(stored))).reshape(-1, sum(numbers))
    targets = targets.reshape(-1, sum(numbers))
    ends, rows = np.cumsum([0, *numbers]), {}
    for i, (path, shape) in enumerate(zip(leaves.masked, shapes, strict=True)):
        mine, one = slice(ends[i], ends[i + 1]), known.get(path)
        found = tuple(active[:, mine].ravel().tolist())
        written = str(one) if isinstance(one, Layout) else "layout not known"
        asked = int(targets[:, mine].sum())
        rows[path] = LeafSummary(path, tuple(shape), math.prod(shape), asked, sum(found), found, written)
    return rows
