"""Prints what is sparse and what it costs."""

import dataclasses

import jax
import numpy as np

from dstjax import masks
from dstjax._arrays.leaves import MaskedLeaves, named_masks
from dstjax._arrays.trees import Tree
from dstjax._engine.states import find, whole


@dataclasses.dataclass(frozen=True)
class LeafSummary:
    """Holds one row of :func:`summary`."""

    path: str
    shape: tuple[int, ...]
    size: int
    requested: int | None  # active weights asked for; None where the leaf is dense
    active: int

    @property
    def density(self) -> float:
        """Returns the realised density."""
        return self.active / max(self.size, 1)


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
        return "\n".join(lines)


def summary(params: Tree, opt_state: Tree) -> Summary:
    """Returns a table of all leaves (shapes, requested and realised densities, active weights) and the bytes of state.

    Args:
      params: the parameters; their shapes suffice.
      opt_state: an optimiser state that holds one of ``sparsify``.

    Raises:
      ValueError: the masks do not fit the parameters.
    """
    state = whole(find(opt_state))
    leaves = MaskedLeaves.of(state.masks)
    leaves.find(params, "parameters")
    requested = dict(zip(leaves.masked, np.asarray(jax.device_get(state.targets)).tolist(), strict=True))
    active = masks.count_active(state.masks)
    rows = []
    for path, leaf in named_masks(params).items():
        shape = tuple(np.shape(leaf))
        size = int(np.prod(shape, dtype=np.int64))
        rows.append(LeafSummary(path, shape, size, requested.get(path), active.get(path, size)))
    held = jax.tree_util.tree_leaves(state._replace(inner_state=()))
    return Summary(tuple(rows), sum(x.size * x.dtype.itemsize for x in held))
