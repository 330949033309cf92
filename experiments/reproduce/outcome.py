"""What a table came to: ours beside the paper's, as text, JSON and CSV."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

import dstjax
from experiments.report.statistics import deviation, mean
from experiments.reproduce import published
from experiments.reproduce.cells import Cell, stands_for
from experiments.reproduce.claims import Verdict, judge
from experiments.reproduce.coverage import unprinted
from experiments.reproduce.grids import named
from experiments.reproduce.papers.table import Table
from experiments.reproduce.ranks import Ranking, rankings
from experiments.reproduce.reading import Measured, metric_of
from experiments.reproduce.wording import details
from experiments.training import sealed
from experiments.training.recording import to_json

Row = dict[str, Any]  # one metric of one cell, JSON values
CELL = ("model", "dataset", "group", "method", "sparsity", "epochs", "x")  # what a row says of its cell


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that is said about a table."""

    table: Table
    proxy: bool
    cells: tuple[Measured, ...]
    verdicts: tuple[Verdict, ...]
    ranks: tuple[Ranking, ...]
    failures: dict[str, str]
    command: str

    @property
    def settings(self) -> list[str]:
        """What was run, each once."""
        return list(dict.fromkeys(m.setting for m in self.cells))

    @property
    def seeds(self) -> int:
        """How many."""
        return max((len(m.seeds) for m in self.cells), default=0)


def outcome(
    table: Table,
    cells: Sequence[Measured],
    failures: dict[str, str],
    *,
    proxy: bool,
    command: str,
    lost: Sequence[tuple[Cell, str]] = (),
) -> Outcome:
    """Judges the claims of a table by its cells.

    Args:
      table: what is reproduced.
      cells: what was measured.
      failures: why cells diverged, by title.
      proxy: whether the cells are those of the proxy.
      command: what made them.
      lost: the cells of the table that were not measured, each with the reason.
    """
    cells = table.derive(cells)

    def paper(cell: Cell, metric: str) -> float | None:
        figure = published.find(table.paper, table.printed, cell, metric)
        return None if figure is None else figure.value

    verdicts = judge(table.claims, cells, lost, paper)
    ranked = rankings(cells, table.metrics[0]) if table.ranks else []
    return Outcome(table, proxy, tuple(cells), tuple(verdicts), tuple(ranked), failures, command)


def rows(found: Outcome) -> list[Row]:
    """One row for each metric of each cell."""
    table = found.table
    result = []
    for m in found.cells:
        for name in table.metrics:
            if name not in m.values:
                continue
            figure = published.find(table.paper, table.printed, m.cell, name)
            ours = mean(m.values[name])
            row = Row(
                {field: getattr(m.cell, field) for field in CELL},
                metric=name,
                ours=ours,
                ours_std=deviation(m.values[name]),
                seeds=len(m.seeds),
                paper=None if figure is None else figure.value,
                paper_std=None if figure is None else figure.std,
                # Another network on other data: a difference would say nothing.
                difference=None if figure is None or found.proxy else ours - figure.value,
                note="" if figure is None else figure.note,
                run=m.setting,
                per_seed=m.values[name].tolist(),
            )
            result.append(row)
    return result


def orderings(found: Outcome) -> list[tuple[str, str, str]]:
    """For each block the paper has numbers of: its name, the paper's order of methods, and ours; best first."""
    main = found.table.metrics[0]
    blocks: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows(found):
        if row["metric"] == main and row["paper"] is not None:
            blocks.setdefault((row["model"], row["dataset"], row["group"], row["sparsity"]), []).append(row)
    result = []
    for (model, dataset, group, sparsity), block in blocks.items():
        if len(block) < 2:
            continue
        sign = -1 if metric_of(main).higher_is_better else 1
        theirs, ours = (
            " > ".join(
                f"{named(r)} {r[which]:.{metric_of(main).digits}f}"
                for r in sorted(block, key=lambda r: sign * r[which])
            )
            for which in ("paper", "ours")
        )
        at = f"{100 * sparsity:g} %" if sparsity else ""
        result.append((", ".join(p for p in (model, dataset, group, at) if p), theirs, ours))
    return result


def as_text(found: Outcome) -> str:
    """For the terminal."""
    lines = [f"{found.table.name}: {found.table.title} ({found.table.paper}, {found.table.printed})"]
    lines += [f"  run: {setting}" for setting in found.settings]
    if found.proxy:
        lines.append("  A proxy: another network on other data. The paper's numbers are not what it should reach.")
    lines += ["", *_table_text(found), ""]
    if found.proxy:
        for block, theirs, ours in orderings(found):
            lines += [f"order, for {block}", f"  the paper's  {theirs}", f"  ours         {ours}"]
    for ranking in found.ranks:
        lines += [ranking.as_text()]
    for v in found.verdicts:
        lines += [f"{v.verdict:<10} {v.claim}", *(f"{'':<10} {line}" for line in (v.evidence, *details(v)))]
    lines += [f"published  {line}" for line in unprinted(found.table)]
    lines += [f"failed     {title}: {why}" for title, why in found.failures.items()]
    if found.table.note:
        lines += ["", found.table.note]
    return "\n".join(lines)


def headings(found: Outcome) -> list[str]:
    """The columns of the table of all numbers; of a proxy without the paper's, which are of another network."""
    if found.proxy:
        return ["trained, for what it stands", "metric", "ours"]
    return ["setting", "metric", "ours", "the paper's", "difference"]


def _table_text(found: Outcome) -> list[str]:
    body = []
    for m, row in with_cells(found):
        digits = metric_of(row["metric"]).digits
        title = stands_for(m.trained, m.cell.title) if found.proxy else m.cell.title
        shown = [title, metric_of(row["metric"]).label, _spread(row["ours"], row["ours_std"], digits)]
        if not found.proxy:
            shown.append("-" if row["paper"] is None else _spread(row["paper"], row["paper_std"], digits))
            shown.append("" if row["difference"] is None else f"{row['difference']:+.{digits}f}")
        body.append(shown)
    lines = [headings(found), *body]
    widths = [max(len(r[i]) for r in lines) for i in range(len(lines[0]))]
    return ["  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)).rstrip() for r in lines]


def with_cells(found: Outcome) -> list[tuple[Measured, Row]]:
    """The rows, each with the cell that it is of."""
    places = [m for m in found.cells for name in found.table.metrics if name in m.values]
    return list(zip(places, rows(found), strict=True))


def _spread(value: float, std: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + (f" ± {std:.{digits}f}" if std else "")


def as_json(found: Outcome) -> str:
    """results.json."""
    table = found.table
    content = {
        "table": table.name,
        **{field: getattr(table, field) for field in ("title", "paper", "printed")},
        "proxy": found.proxy,
        "command": found.command,
        "version": dstjax.__version__,
        "runs": found.settings,
        "rows": rows(found),
        "claims": [v._asdict() for v in found.verdicts],
        "published, not printed": unprinted(table),
        "orderings": [{"block": b, "paper": p, "ours": o} for b, p, o in orderings(found)],
        "ranks": [r.as_dict() for r in found.ranks],
        "failures": found.failures,
        "seconds": round(sum(m.seconds for m in {id(m): m for m in found.cells}.values()), 1),
        "note": table.note,
    }
    return json.dumps(sealed.seal(json.loads(to_json(content))), indent=1)


def as_csv(found: Outcome) -> str:
    """results.csv: a row for each metric, cell and seed; the paper's numbers in columns of their own."""
    out = io.StringIO()
    names = [*CELL, "metric", "seed", "ours", "paper", "paper_std", "run"]
    writer = csv.DictWriter(out, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for m, row in with_cells(found):
        for seed, value in zip(m.seeds, row["per_seed"], strict=True):
            values = {k: "" if v is None else v for k, v in row.items()}
            writer.writerow({**values, "seed": seed, "ours": value if np.isfinite(value) else ""})
    return out.getvalue()
