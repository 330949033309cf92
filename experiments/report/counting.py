"""Sentences about the numbers of active weights: which methods promise them, and which came out otherwise."""

from experiments.report.cells import CellResult, Comparison, percent
from experiments.report.document import listed

PROMISES = {  # Method.counts
    "kept": ("every layer had exactly", "of a layer"),
    "reached": ("every layer had exactly", "of a layer"),
    "total": ("the network had exactly", "of the network"),
}


def kept(comparison: Comparison) -> list[str]:
    """Whether the counts were those that were asked for, for the methods that promise so."""
    counted = [c for c in comparison.every if c.layers]
    promised = [name for name in PROMISES if any(c.counts == name for c in counted)]
    # One promise that all keep needs no names.
    named = len({c.counts for c in counted}) > 1
    found = []
    for promise in promised:
        cells = [c for c in counted if c.counts == promise]
        exactly, of = PROMISES[promise]
        worst = max(c.off_count for c in cells)
        text = (
            f"{exactly} the number of active weights that was asked for"
            if worst == 0
            else f"the number of active weights {of} was off by up to {worst:,}"
        )
        found.append(f"{_when(promise, cells, 'their' if named else 'all')}, {text}{_who(cells) if named else ''}.")
    return found


def missed(comparison: Comparison) -> list[str]:
    """The realised density where it is not the one that was asked for."""
    parts = []
    for sparsity in comparison.sparsities:
        cells = [c for c in comparison.sparse if c.sparsity == sparsity and c.off_density]
        if cells:
            density = percent(round(1 - sparsity, 6))
            parts.append(f"in place of {density}, {listed([f'{_density(c)} with {c.label}' for c in cells])}")
    free = {c.label for c in comparison.sparse if c.counts == "free"}
    found = []
    if parts:
        found.append(
            f"Some densities are not those that were asked for: {'; '.join(parts)}. These rows answer another "
            "question than the others."
        )
    near = sorted(free - {c.label for c in comparison.sparse if c.off_density})
    if near:
        worst = max(c.off_weights for c in comparison.sparse if c.label in near)
        where = f"within {worst:,} weight{'s' * (worst > 1)} of" if worst else "at"
        found.append(f"{listed(near)} promises no number of active weights and came out {where} the one asked for.")
    dense = list(dict.fromkeys(c.label for c in comparison.sparse if c.too_dense))
    if dense:
        found.append(
            f"{listed(dense)} kept more weights than asked for and is left out wherever methods are ranked or called "
            "the most accurate."
        )
    return found


def _when(promise: str, cells: list[CellResult], whose: str) -> str:
    if promise != "kept":
        return "After the last step"
    rounds = sum(len(c.updates) * len(c.seeds) for c in cells)
    if not any(c.unrecorded for c in cells):
        return f"At every recorded step ({rounds:,} mask updates over {whose} runs)"
    number = sum(c.mask_updates * len(c.seeds) for c in cells)
    one_by_one = f" and at {rounds:,} mask updates" if rounds else ""
    return f"At the end of every epoch{one_by_one} (of {number:,} mask updates over {whose} runs)"


def _who(cells: list[CellResult]) -> str:
    return f" with {listed(list(dict.fromkeys(c.label for c in cells)))}"


def _density(cell: CellResult) -> str:
    return percent(float(f"{cell.density:.2g}"))
