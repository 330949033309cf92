"""Prints what is sparse and what it costs."""

import dataclasses
from typing import Any

import jax
import numpy as np

from dstjax import layouts, masks
from dstjax._arrays.lanes import layer_counts
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import MaskedLeaves, named, named_masks
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import Tree, is_array
from dstjax._engine.states import find, whole


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
      opt_state: an optimiser state that holds one of ``sparsify``.
      layout: as given to ``sparsify``.

    Raises:
      ValueError: the masks do not fit the parameters, or other layers than those of the layout are in the state.
    """
    state = whole(find(opt_state))
    leaves = MaskedLeaves.of(state.masks)
    leaves.find(params, "parameters")
    known = layouts.read(layout, {name: leaf for name, leaf in named(params).items() if is_array(leaf)})
    of_leaf = [one if isinstance(one := known.get(name), Layout) else None for name in leaves.masked]
    stored = leaves.read(state.masks)
    numbers = layer_counts([masks.shape(m) for m in stored], of_leaf)
    targets = np.atleast_1d(np.asarray(jax.device_get(state.targets), np.int64))
    if sum(numbers) != len(targets):
        raise ValueError(
            f"the state has the targets of {len(targets)} layers, and with layout={layout!r} the parameters have "
            f"{sum(numbers)}; expected the layout= that was given to dstjax.sparsify."
        )
    active = np.asarray(jax.device_get(count_true(stored, tuple(of_leaf)))) if stored else targets
    ends = np.cumsum([0, *numbers])
    masked = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(leaves.masked)}
    rows = []
    for path, leaf in named_masks(params).items():
        shape = tuple(np.shape(leaf))
        size = int(np.prod(shape, dtype=np.int64))
        if path not in masked:
            rows.append(LeafSummary(path, shape, size, None, size, reason=layouts.reason(path, leaf)))
            continue
        mine, one = masked[path], known.get(path)
        found = tuple(active[mine].tolist())
        written = str(one) if isinstance(one, Layout) else "layout not known"
        rows.append(LeafSummary(path, shape, size, int(sum(targets[mine])), sum(found), found, written))
    held = jax.tree_util.tree_leaves(state._replace(inner_state=()))
    return Summary(tuple(rows), sum(x.size * x.dtype.itemsize for x in held))
