"""report.html of a table: one file that holds everything it shows."""

from typing import Any

from experiments.report.document import bullets, document, escaped, row, signed, table
from experiments.report.statistics import LEVEL
from experiments.reproduce import charts, ranks
from experiments.reproduce.cells import stands_for
from experiments.reproduce.coverage import unprinted
from experiments.reproduce.outcome import Outcome, headings, orderings, with_cells
from experiments.reproduce.reading import metric_of
from experiments.reproduce.wording import chance, interval, number, power


def page(found: Outcome) -> str:
    """The whole report."""
    title = f"{found.table.name}: {found.table.title}"
    sections = [_lead(found), _claims(found), *_ranks(found), *_figures(found), _orders(found), _numbers(found)]
    return document(title, sections, found.table.title)


def _lead(found: Outcome) -> str:
    table = found.table
    kind = (
        "This is a proxy: another network on other data, so its numbers are not those that the paper's should be "
        "compared with; whether they show the same is."
        if found.proxy
        else "Numbers of the paper are labelled as the paper's; all others were measured here."
    )
    note = f'<p class="note">{escaped(table.note)}</p>' if table.note else ""
    return (
        f'<p class="lead">{escaped(table.paper)}, {escaped(table.printed)}. {escaped(kind)}</p><p>What was run, with '
        f"{found.seeds} seed(s):</p>{bullets(found.settings)}{note}<pre>{escaped(found.command)}</pre>"
    )


def _claims(found: Outcome) -> str:
    if not found.verdicts:
        return ""
    body = ""
    for v in found.verdicts:
        more = f"<details><summary>each setting</summary>{bullets(v.blocks)}</details>" if len(v.blocks) > 1 else ""
        remarks = bullets(v.remarks) if v.remarks else ""
        numbers = number(v.paper), interval(v), chance(v), str(v.seeds or "-"), power(v)
        body += (
            f'<tr><th scope="row" class="settings">{escaped(v.claim)}<br>{escaped(v.direction)}</th>'
            f'<td>{escaped(v.verdict)}</td><td class="settings">{escaped(v.evidence)}{more}{remarks}</td>'
            f"{''.join(f'<td>{escaped(n)}</td>' for n in numbers)}</tr>"
        )
    columns = "claim of the paper", "here", "evidence", "the paper's", "95 % interval", "p", "seeds", "power"
    return f'<section id="claims"><h2>Claims</h2>{table(columns, body)}<p class="note">{escaped(MEANING)}</p></section>'


MEANING = (
    "Evidence: the mean of the paired differences over the seeds ± its standard error; the interval is Student's. "
    f"Shown: on the claim's side of what its signs say, at {LEVEL:g} by Student's t with Holm's correction over the "
    "claims of the table; reversed: on the other side; not shown: neither, which does not mean that there is no "
    "difference. Not tested: the numbers cannot tell. The paper's: its own difference, over the settings that it "
    "prints both sides of. Power: the chance that as many seeds with this spread show a true difference of that size, "
    "at the strictest level that the correction gives."
)


def _ranks(found: Outcome) -> list[str]:
    return [
        f"<section><h2>Average ranks, {escaped(r.name)}</h2><figure>{ranks.diagram(r)}<figcaption>"
        f"{escaped(r.as_text())}. Rank 1 is best; a bar joins those that are not told apart at 5 %.</figcaption>"
        "</figure></section>"
        for r in found.ranks
    ]


def _figures(found: Outcome) -> list[str]:
    drawn = [(metric_of(m).label, charts.metric(found, m)) for m in found.table.metrics[: found.table.drawn]]
    if found.table.curve:
        drawn.append((f"{metric_of(found.table.curve).label} over training", charts.curves(found, found.table.curve)))
    drawn += [(metric_of(n).label, charts.curves(found, n, axis=axis)) for n, axis in found.table.curves.items()]
    if found.table.zoom:
        late = f"{metric_of(found.table.zoom).label} over the last tenth of training"
        drawn.append((late, charts.curves(found, found.table.zoom, since=0.9)))
    if found.table.against:
        both = f"{metric_of(found.table.metrics[0]).label} against {metric_of(found.table.against).label}"
        drawn.append((both, charts.against(found, found.table.against)))
    over = f"Means over {found.seeds} seeds, bars are one standard deviation." if found.seeds > 1 else "One seed."
    return [
        f"<section><h2>{escaped(title[:1].upper() + title[1:])}</h2><figure>{svg}<figcaption>{over}</figcaption>"
        "</figure></section>"
        for title, svg in drawn
        if svg is not None
    ]


def _orders(found: Outcome) -> str:
    found_orders = orderings(found) if found.proxy else []
    if not found_orders:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escaped(b)}</th><td class="settings">{escaped(p)}</td>'
        f'<td class="settings">{escaped(o)}</td></tr>'
        for b, p, o in found_orders
    )
    columns = "setting", "the paper's order", "ours"
    return f'<section id="orders"><h2>Order of the methods, best first</h2>{table(columns, body)}</section>'


def _numbers(found: Outcome) -> str:
    body = ""
    for measured, figure in with_cells(found):
        digits = metric_of(figure["metric"]).digits
        parts = [figure["model"], figure["dataset"], figure["group"], figure["method"]]
        parts += [
            f"{100 * figure['sparsity']:g} %" if figure["sparsity"] else "",
            "" if figure["x"] is None else f"{figure['x']:g}",
        ]
        values: list[Any] = [
            metric_of(figure["metric"]).label,
            f"{figure['ours']:.{digits}f} ± {figure['ours_std']:.{digits}f}",
        ]
        if not found.proxy:
            spread = f" ± {figure['paper_std']:.{digits}f}" if figure["paper_std"] else ""
            values.append("–" if figure["paper"] is None else f"{figure['paper']:.{digits}f}{spread}")
            values.append("" if figure["difference"] is None else signed(figure["difference"], digits))
        title = ", ".join(p for p in parts if p)
        body += row(escaped(stands_for(measured.trained, title) if found.proxy else title), map(escaped, values))
    failed = bullets(f"{title}: {why}" for title, why in found.failures.items())
    left_out = bullets(unprinted(found.table))
    return (
        f'<section id="numbers"><h2>All numbers</h2>{table(headings(found), body)}'
        f"{f'<h3>Cells that failed</h3>{failed}' if found.failures else ''}"
        f"{f'<h3>Published, and not printed here</h3>{left_out}' if unprinted(found.table) else ''}</section>"
    )
