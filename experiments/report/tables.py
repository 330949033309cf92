"""The numbers of a comparison: for the terminal, for a spreadsheet."""

import csv
import hashlib
import io
import json
from typing import Any

from experiments.report.cells import CellResult, Comparison, Cost
from experiments.report.names import method_label
from experiments.report.statistics import Difference, paired, resolution, spread_of, together

VERSIONED = ("dstjax", "jax", "jaxlib", "optax", "numpy", "python")
COLUMNS = (
    *("cell", "method", "sparsity", "coefficient", "seed", "test_accuracy", "exploration_rate"),
    *("density", "active_weights", "weights", "counts"),
    *("dense_forward_flops", "inference_cost", "training_cost_paper", "training_cost_exact"),
    *("steps", "seconds_of_cell", "config_hash"),
    *VERSIONED,
    "command",
)
CLEAR = "* beyond chance at 5 %, by Student's t with Holm's correction over all differences of the table"


def differences(comparison: Comparison) -> dict[str, Difference]:
    """The paired differences of the sparse cells to the reference method, by cell, judged together."""
    return _judged(comparison, {c.name: (c, other) for c in comparison.every if (other := _other(comparison, c))})


def to_dense(comparison: Comparison) -> dict[str, Difference]:
    """Those of the cells at the sparsities that were asked for to the dense network, judged together."""
    dense = comparison.dense
    return {} if dense is None else _judged(comparison, {c.name: (c, dense) for c in comparison.sparse})


def _judged(comparison: Comparison, pairs: dict[str, tuple[CellResult, CellResult]]) -> dict[str, Difference]:
    found = [paired(a.accuracy, b.accuracy) for a, b in pairs.values()]
    noise = [resolution((a.mean + b.mean) / 2, comparison.samples) for a, b in pairs.values()]
    return dict(zip(pairs, together(found, noise), strict=True))


def _other(comparison: Comparison, cell: CellResult) -> CellResult | None:
    """What a cell is compared with, None for the reference itself and for dense."""
    if cell.pattern or (cell.method in ("dense", comparison.reference) and cell not in comparison.sweep):
        return None  # a pattern's sparsity may by chance be one that was asked for: still another question
    other = comparison.find(comparison.reference, cell.sparsity)
    return None if other is cell else other


def rows(comparison: Comparison) -> list[tuple[CellResult, Difference | None]]:
    """The cells in the order of the table: dense, patterns, then by sparsity and method, then the coefficients."""
    by_place = sorted(comparison.sparse, key=lambda c: (c.sparsity, comparison.methods.index(c.method)))
    in_grid = {c.name for c in comparison.grid}
    extra = [c for c in comparison.sweep if c.name not in in_grid]
    dense = [comparison.dense] if comparison.dense else []
    gaps = differences(comparison)
    return [(c, gaps.get(c.name)) for c in (*dense, *comparison.patterned, *by_place, *extra)]


def _mark(gap: Difference | None) -> str:
    return "  " if gap is None or not gap.known else " *" if gap.clear else " ~"


def name_of(cell: CellResult, comparison: Comparison) -> str:
    """The method, with the coefficient where several were run."""
    swept = cell.coefficient is not None and len(comparison.sweep) > 1
    return f"{cell.label}, c = {cell.coefficient:.15g}" if swept else cell.label


def as_text(comparison: Comparison) -> str:
    """The table for the terminal."""
    minus = f"minus {method_label(comparison.reference)}" if comparison.reference else ""
    head = ["method", "sparsity", "test accuracy (%)", minus, "density", "R", "training", "inference"]
    lines = []
    for cell, gap in rows(comparison):
        spread = "" if gap is None else f"{gap.mean:+.2f}" + (f" ± {gap.standard_error:.2f}" if gap.n > 1 else "")
        lines.append(
            [
                name_of(cell, comparison),
                cell.place.replace("\u00a0", " ").replace("–", "-"),
                spread_of(cell.accuracy, 2),
                spread + _mark(gap),
                f"{cell.density:.5f}",
                spread_of(cell.exploration, 3),
                "" if cell.cost is None else f"{cell.cost.training_exact:.3f}",
                "" if cell.cost is None else f"{cell.cost.inference:.3f}",
            ]
        )
    widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    text = [
        "  ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in [head, *lines]
    ]
    n = len(comparison.grid[0].seeds)
    said = f"Mean ± standard deviation over {n} seeds" if n > 1 else "One seed"
    gaps = f"{minus}: mean ± standard error over the same seeds,\n{CLEAR};\n~ the same, yet less than "
    gaps += f"{comparison.samples:,} test samples resolve; "
    text.append(
        f"{said}, after the last epoch; {gaps if minus else ''}density: share of the weights that are "
        "active; R: share of the weights that were ever active;\ntraining, inference: floating-point operations "
        "relative to the dense network,\nfrom the densities that the run had, training by the exact convention."
    )
    if comparison.patterned:
        text.append(
            "n:m or channels in place of a sparsity: the pattern, or a budget, gives it, so these rows are not at one "
            "that was asked for."
        )
    off = list(dict.fromkeys(c.label for c in comparison.sparse if c.off_density))
    if off:
        text.append(f"The density is not the one that was asked for with {', '.join(off)}.")
    return "\n".join(text)


def as_csv(comparison: Comparison) -> str:
    """One row per cell and seed."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in comparison.every:
        for i, seed in enumerate(cell.seeds):
            writer.writerow(
                {
                    "cell": cell.name,
                    "method": cell.method,
                    "sparsity": cell.sparsity,
                    "coefficient": "" if cell.coefficient is None else cell.coefficient,
                    "seed": seed,
                    "test_accuracy": cell.accuracy[i] / 100,
                    "exploration_rate": cell.exploration[i],
                    "density": cell.active[i] / cell.weights,
                    "active_weights": cell.active[i],
                    "weights": cell.weights,
                    "counts": cell.counts,
                    **_costs(cell.cost),
                    "steps": cell.steps,
                    "seconds_of_cell": f"{cell.seconds:.2f}",
                    "config_hash": config_hash(cell.config),
                    **{name: cell.versions.get(name, "") for name in VERSIONED},
                    "command": comparison.command,
                }
            )
    return out.getvalue()


def _costs(cost: Cost | None) -> dict[str, float]:
    if cost is None:
        return {}
    return {
        "dense_forward_flops": cost.dense_forward,
        "inference_cost": cost.inference,
        "training_cost_paper": cost.training_paper,
        "training_cost_exact": cost.training_exact,
    }


def config_hash(config: dict[str, Any]) -> str:
    """12 hexadecimal digits that differ where two configs differ."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
