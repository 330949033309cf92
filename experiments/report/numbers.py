"""The tables of the page, and how it was made."""

import json

from experiments.report import tables
from experiments.report.cells import CellResult, Comparison
from experiments.report.document import escaped, row, signed, table
from experiments.report.markup import command, dot
from experiments.report.names import method_label
from experiments.report.statistics import spread_of


def numbers(comparison: Comparison) -> str:
    reference = method_label(comparison.reference or "")
    costed = any(c.cost is not None for c in comparison.every)
    columns = [
        "method",
        "sparsity",
        "test accuracy (%)",
        f"minus {reference} (points)" if reference else "",
        "density",
        "active weights",
        "R",
        *(["training cost", "inference cost"] if costed else []),
    ]
    body, place = [], None
    for cell, gap in tables.rows(comparison):
        group = ' class="group"' if place not in (None, cell.place) else ""
        place = cell.place
        shown = ""
        if gap is not None:
            spread = f" ± {gap.standard_error:.2f}" if gap.n > 1 else ""
            shown = f"<span{' class=clear' if gap.clear else ''}>{signed(gap.mean)}{spread}</span>"
        values = [
            cell.place,
            spread_of(cell.accuracy, 2),
            shown,
            f"{cell.density:.6f}".rstrip("0").rstrip("."),
            f"{cell.active_weights:,}",
            spread_of(cell.exploration, 3),
        ]
        if costed:
            values += (
                ["", ""] if cell.cost is None else [f"{cell.cost.training_exact:.3f}", f"{cell.cost.inference:.3f}"]
            )
        name = dot(cell.method, comparison) + escaped(tables.name_of(cell, comparison))
        body.append(row(name, values, group))
    return (
        '<section id="numbers"><h2>All numbers</h2><p class="note">Test accuracy after the last epoch and exploration '
        "rate R: mean ± standard deviation over seeds. Differences: mean ± standard error over the same seeds, bold "
        "where they are clear: beyond chance at 5 % by Student's t, with Holm's correction over all differences of the "
        f"table, and more than {comparison.samples:,} test examples resolve.{_patterns(comparison)}</p>"
        f"{_costs(comparison) if costed else ''}"
        f"{table(columns, ''.join(body))}"
        f"<details><summary>Test accuracy (%) of every seed</summary>{_per_seed(comparison)}</details></section>"
    )


def _patterns(comparison: Comparison) -> str:
    if not comparison.patterned:
        return ""
    return (
        " Where a pattern n:m stands before the sparsity, n of every m weights are active; where channels do, a budget "
        "says how many: they give the sparsity, which is not one that was asked for."
    )


def _costs(comparison: Comparison) -> str:
    """What the costs are, with both conventions for every cell."""
    dense = next(c.cost.dense_forward for c in comparison.every if c.cost is not None)
    columns = ("method", "training, paper", "training, exact", "inference")
    body = "".join(
        row(_full_name(c, comparison), [f"{v:.4f}" for v in (cost.training_paper, cost.training_exact, cost.inference)])
        for c, _ in tables.rows(comparison)
        if (cost := c.cost) is not None
    )
    return (
        '<p class="note">Costs are floating-point operations a sample relative to the dense network, from the '
        'densities that each run really had; training is counted by the <a href="#conventions">exact '
        'convention</a>: each pass by the weights that take part in it. The <a href="#conventions">paper '
        "convention</a> takes the formulas that the papers' tables are made with.</p>"
        f'<details id="conventions"><summary>What the costs count, and both conventions</summary><p>A step has three '
        "passes: forward, the gradient of the activations, the gradient of the weights. Each costs about as much as "
        "the forward pass, so dense training costs three times the dense forward pass, which takes "
        f"{dense:,.0f} operations a sample here; a multiplication and an addition are two. <b>Paper</b>: the formulas "
        "that the papers' tables are made with. <b>Exact</b>: each pass counted by the weights that take part in it. "
        "Both leave out the optimiser, selecting weights, normalisation, scoring before the first step (SNIP, GraSP, "
        "SynFlow, FORCE), and that the first layer needs no gradient of its input. They say what sparse arithmetic "
        "would cost, not what dense hardware that multiplies by zeros does. After training, inference costs one "
        "forward pass of the sparse network. The formula of every method is in <code>docs/costs.md</code>.</p>"
        f"{table(columns, body)}</details>"
    )


def _per_seed(comparison: Comparison) -> str:
    seeds = comparison.grid[0].seeds
    body = "".join(row(_full_name(c, comparison), [f"{a:.2f}" for a in c.accuracy]) for c, _ in tables.rows(comparison))
    return table(["", *(f"seed {s}" for s in seeds)], body)


def _full_name(cell: CellResult, comparison: Comparison) -> str:
    return escaped(tables.name_of(cell, comparison)) + ("" if cell.method == "dense" else f", {cell.place}")


def made_with(comparison: Comparison) -> str:
    versions = sorted({json.dumps(c.versions, sort_keys=True) for c in comparison.every})
    named = [", ".join(f"{k} {v}" for k, v in json.loads(v).items()) or "not recorded" for v in versions]
    configs = [c.config for c in comparison.every]
    common = {k: v for k, v in configs[0].items() if all(k in c and c[k] == v for c in configs)}
    settings = "".join(
        f'<tr><th scope="row">{escaped(c.name)}</th><td>{escaped(tables.config_hash(c.config))}</td>'
        f'<td class="settings">{escaped(_settings(c))}</td></tr>'
        for c in comparison.every
    )
    columns = "cell", "config hash", "made with"
    return (
        f'<section id="made"><h2>How this was made</h2><p>One command, run from the root of the repository:</p>'
        f"{command(comparison)}"
        f"<p>Versions: {escaped('; '.join(named))}.</p>"
        "<p>Finished cells are kept: the same command again draws this page from them without training. The same "
        "numbers are in <code>results.csv</code> next to this page.</p>"
        f"<details><summary>Config that all cells share</summary><pre>{escaped(json.dumps(common, indent=2))}</pre>"
        "</details><details><summary>Settings of each cell</summary>"
        f"{table(columns, settings, columns[-1])}</details></section>"
    )


def _settings(cell: CellResult) -> str:
    return ", ".join(f"{k}: {v}" for k, v in cell.settings.items())
