"""report.html of a table: one file that holds everything it shows."""

import html
from typing import Any

from experiments.report.page import STYLESHEET
from experiments.reproduce import charts, ranks
from experiments.reproduce.outcome import Outcome, orderings, rows
from experiments.reproduce.reading import metric_of


def page(found: Outcome) -> str:
    """The whole report."""
    title = f"{found.table.name}: {found.table.title}"
    sections = [_lead(found), _claims(found), *_ranks(found), *_figures(found), _orders(found), _numbers(found)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{STYLESHEET.read_text()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_text(found.table.title)}</h1>\n" + "\n".join(s for s in sections if s) + "\n</main>\n</body>\n</html>\n"
    )


def _lead(found: Outcome) -> str:
    table = found.table
    kind = (
        "This is a proxy: another network on other data, so its numbers are not those that the paper's should be "
        "compared with; whether they show the same is."
        if found.proxy
        else "Numbers of the paper are labelled as the paper's; all others were measured here."
    )
    runs = "".join(f"<li>{_text(s)}</li>" for s in found.settings)
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f'<p class="lead">{_text(table.paper)}, {_text(table.printed)}. {_text(kind)}</p><p>What was run, with '
        f"{found.seeds} seed(s):</p><ul>{runs}</ul>{note}<pre>{_text(found.command)}</pre>"
    )


def _claims(found: Outcome) -> str:
    if not found.verdicts:
        return ""
    body = ""
    for v in found.verdicts:
        inner = "".join(f"<li>{_text(b)}</li>" for b in v.blocks)
        more = f"<details><summary>each setting</summary><ul>{inner}</ul></details>" if len(v.blocks) > 1 else ""
        body += (
            f'<tr><th scope="row" class="settings">{_text(v.claim)}</th><td>{_text(v.verdict)}</td>'
            f'<td class="settings">{_text(v.evidence)}{more}</td></tr>'
        )
    head = '<th scope="col">claim of the paper</th><th scope="col">here</th><th scope="col">evidence</th>'
    return (
        f'<section id="claims"><h2>Claims</h2>{_table(head, body)}<p class="note">Evidence: the mean of the paired '
        "differences over the seeds ± its standard error. Shown: beyond 2 standard errors in the direction of the "
        "claim; reversed: beyond 2 in the other; not shown: neither.</p></section>"
    )


def _ranks(found: Outcome) -> list[str]:
    return [
        f"<section><h2>Average ranks, {_text(r.name)}</h2><figure>{ranks.diagram(r)}<figcaption>{_text(r.as_text())}. "
        "Rank 1 is best; a bar joins those that are not told apart at 5 %.</figcaption></figure></section>"
        for r in found.ranks
    ]


def _figures(found: Outcome) -> list[str]:
    drawn = [(metric_of(m).label, charts.metric(found, m)) for m in found.table.metrics[:3]]
    if found.table.curve:
        drawn.append((f"{metric_of(found.table.curve).label} over training", charts.curves(found, found.table.curve)))
    over = f"Means over {found.seeds} seeds, bars are one standard deviation." if found.seeds > 1 else "One seed."
    return [
        f"<section><h2>{_text(title[:1].upper() + title[1:])}</h2><figure>{svg}<figcaption>{over}</figcaption></figure>"
        "</section>"
        for title, svg in drawn
        if svg is not None
    ]


def _orders(found: Outcome) -> str:
    found_orders = orderings(found) if found.proxy else []
    if not found_orders:
        return ""
    body = "".join(
        f'<tr><th scope="row">{_text(b)}</th><td class="settings">{_text(p)}</td>'
        f'<td class="settings">{_text(o)}</td></tr>'
        for b, p, o in found_orders
    )
    head = '<th scope="col">setting</th><th scope="col">the paper\'s order</th><th scope="col">ours</th>'
    return f'<section id="orders"><h2>Order of the methods, best first</h2>{_table(head, body)}</section>'


def _numbers(found: Outcome) -> str:
    columns = [
        "stands for" if found.proxy else "setting",
        "metric",
        "ours",
        *([] if found.proxy else ["the paper's", "difference"]),
    ]
    body = ""
    for row in rows(found):
        digits = metric_of(row["metric"]).digits
        parts = [row["model"], row["dataset"], row["group"], row["method"]]
        parts += [
            f"{100 * row['sparsity']:g} %" if row["sparsity"] else "",
            "" if row["x"] is None else f"{row['x']:g}",
        ]
        values: list[Any] = [metric_of(row["metric"]).label, f"{row['ours']:.{digits}f} ± {row['ours_std']:.{digits}f}"]
        if not found.proxy:
            spread = f" ± {row['paper_std']:.{digits}f}" if row["paper_std"] else ""
            values.append("–" if row["paper"] is None else f"{row['paper']:.{digits}f}{spread}")
            values.append(
                "" if row["difference"] is None else f"{row['difference']:+.{digits}f}".replace("-", "\u2212")
            )
        cells = "".join(f"<td>{_text(v)}</td>" for v in values)
        body += f'<tr><th scope="row">{_text(", ".join(p for p in parts if p))}</th>{cells}</tr>'
    failed = "".join(f"<li>{_text(t)}: {_text(w)}</li>" for t, w in found.failures.items())
    head = "".join(f'<th scope="col">{_text(c)}</th>' for c in columns)
    return (
        f'<section id="numbers"><h2>All numbers</h2>{_table(head, body)}'
        f"{f'<h3>Cells that failed</h3><ul>{failed}</ul>' if failed else ''}</section>"
    )


def _table(head: str, body: str) -> str:
    return f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: Any) -> str:
    return html.escape(str(value), quote=False)
