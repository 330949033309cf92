"""Says what :func:`dstjax.compact` has removed, and prints it as a table."""

import dataclasses
import math

from dstjax._arrays.trees import Tree
from dstjax.program.cuts import Cuts


@dataclasses.dataclass(frozen=True)
class Row:
    """Holds one leaf."""

    path: str
    before: tuple[int, ...]  # its shape
    after: tuple[int, ...]
    work_before: int | None  # multiply-adds of the example; None where they cannot be counted
    work_after: int | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Compaction:
    """Says what was removed; prints as a table, and takes parameters and states to the smaller network and back."""

    rows: tuple[Row, ...]
    other: tuple[int | None, int | None]  # multiply-adds of no leaf, before and after
    widths: dict[str, int]  # outputs of each layer in the smaller network, by the name of the layer
    kept: dict[str, dict[str, int]]  # units that are dead and stay: reason -> leaf -> how many of its indices
    fixed: dict[str, tuple[str, ...]]  # leaves with an axis that no unit can be removed from: by reason
    zeros: dict[str, int]  # weights that are active, or have no mask, and were removed for being 0: leaf -> how many
    cuts: Cuts

    @property
    def parameters(self) -> tuple[int, int]:
        """Returns the number of parameters before and after."""
        return sum(math.prod(r.before) for r in self.rows), sum(math.prod(r.after) for r in self.rows)

    @property
    def flops(self) -> tuple[int, int] | None:
        """Returns floating-point operations of the example before and after; None where they cannot be counted."""
        before = [self.other[0], *(r.work_before for r in self.rows)]
        after = [self.other[1], *(r.work_after for r in self.rows)]
        if None in before or None in after:
            return None
        return 2 * sum(n for n in before if n), 2 * sum(n for n in after if n)

    def cut(self, params: Tree) -> Tree:
        """Returns the smaller parameters of others of the same network with the same zeros, such as an average.

        Constants of removed units are added as they were when the network was made smaller.

        Raises:
          ValueError: they are of another network.
        """
        return self.cuts.cut(params)

    def expand(self, params: Tree, like: Tree) -> Tree:
        """Puts smaller parameters back into the full network, which then computes the same.

        But where a mask update has grown a weight that reads a dead unit, one that stays for the width or as the last
        of its axis: what fed that unit comes back with it. And what is trained that fed a constant moves the constant.

        Args:
          params: the smaller parameters, trained on or not.
          like: the masked parameters that were given to :func:`dstjax.compact`, which have what was removed.

        Raises:
          ValueError: they are of another network.
        """
        return self.cuts.expand(params, like)

    def cut_state(self, state: Tree) -> Tree:
        """Returns masks, gradients or the state of an optimiser as they are in the smaller network.

        Moments, masks and counters are found by structure: arrays whose path ends with that of a leaf, and that have
        its shape. All else stays, but the numbers of weights that ``sparsify`` keeps active, which are less by those
        that were removed: training goes on with the same optimiser.

        Raises:
          ValueError: a state of several networks, or one that was split.
        """
        return self.cuts.cut_state(state)

    def expand_state(self, state: Tree, like: Tree) -> Tree:
        """Undoes :meth:`cut_state`; ``like`` is the state of the full network, which has what was removed."""
        return self.cuts.expand_state(state, like)

    def __str__(self) -> str:
        """Prints the table."""
        width = max([len(r.path) for r in self.rows] + [10])
        old = max([len(str(r.before)) for r in self.rows] + [6])
        lines = [f"{'leaf':<{width}}  {'before':>{old}}  {'after':>{old}}  {'weights':>22}  {'multiply-adds':>28}"]
        for r in self.rows:
            weights = f"{math.prod(r.before):,} -> {math.prod(r.after):,}"
            work = "" if r.work_before is None or r.work_after is None else f"{r.work_before:,} -> {r.work_after:,}"
            lines.append(f"{r.path:<{width}}  {r.before!s:>{old}}  {r.after!s:>{old}}  {weights:>22}  {work:>28}")
        lines.append(f"parameters: {_ratio(*self.parameters)}")
        lines.append(
            "FLOPs: cannot be counted" if self.flops is None else f"FLOPs of the example: {_ratio(*self.flops)}"
        )
        for why, found in self.kept.items():
            lines.append(f"kept, since {why}: {', '.join(f'{n} of {path}' for path, n in found.items())}")
        for why, paths in self.fixed.items():
            lines.append(f"kept whole, since an axis {why}: {', '.join(paths)}")
        if self.zeros:
            numbers = ", ".join(f"{n:,} of {path}" for path, n in self.zeros.items())
            lines.append(f"removed, though active: {numbers}, which are 0, and can be trained no more")
        return "\n".join(lines)


def _ratio(before: int, after: int) -> str:
    return f"{before:,} -> {after:,}, {before / max(after, 1):.3g} times smaller"
