"""What of the papers is reproduced here: their tables, figures and statements, beside what exists.

inventory.csv has a row for each of them: the paper, the place, what is there, the status, where it is here (names of
tables, a command, a file) and the claim that stands for it, or the reason why it is not here. unprinted.csv says why
published figures are printed by no table. :func:`check` compares both with the tables, the claims and published.csv.
"""

import csv
import functools
from pathlib import Path
from typing import NamedTuple

from experiments.reproduce import published
from experiments.reproduce.papers.catalogue import tables
from experiments.reproduce.papers.table import Table
from experiments.reproduce.published import Figure

INVENTORY = Path(__file__).with_name("inventory.csv")
UNPRINTED = Path(__file__).with_name("unprinted.csv")
ROOT = Path(__file__).parents[2]
KINDS = ("table", "figure", "statement")
# here: at full size and as a proxy; proxy: there is no full run; elsewhere: a file of the repository shows it; partly,
# missing: the reason says what is left out, and why; no experiment: a drawing, a setting, a proof.
STATUSES = ("here", "proxy", "elsewhere", "partly", "missing", "no experiment")
REASONED = ("proxy", "partly", "missing", "no experiment")


class Item(NamedTuple):
    """One thing that a paper has."""

    paper: str
    place: str  # 'Table 1', 'Figure 3 left', 'Section 5.2'
    kind: str  # one of KINDS
    text: str  # what it says or shows
    status: str  # one of STATUSES
    where: str  # names of tables with spaces between them; of status 'elsewhere' a file of the repository
    claim: str  # the text of a claim of these tables, '' where there is none
    reason: str


class Unprinted(NamedTuple):
    """Why figures of published.csv are printed by no table; an empty method or metric stands for all."""

    paper: str
    table: str
    method: str
    metric: str
    reason: str

    def fits(self, figure: Figure) -> bool:
        """Whether a figure is one of these."""
        same = (self.paper, self.table) == (figure.paper, figure.table)
        return same and self.method in ("", figure.method) and self.metric in ("", figure.metric)


def inventory() -> list[Item]:
    """All of inventory.csv."""
    with INVENTORY.open(newline="") as file:
        return [Item(**row) for row in csv.DictReader(file)]


@functools.cache
def _reasons() -> tuple[Unprinted, ...]:
    with UNPRINTED.open(newline="") as file:
        return tuple(Unprinted(**row) for row in csv.DictReader(file))


@functools.cache
def _printed(paper: str, printed: str) -> frozenset[Figure]:
    """The figures of a table of a paper that a table of ours prints."""
    own = [t for t in tables().values() if (t.paper, t.printed) == (paper, printed)]
    found = [
        published.find(paper, printed, cell, metric)
        for t in own
        for cell in t.cells(bool(t.proxy_only))
        for metric in t.metrics
    ]
    return frozenset(f for f in found if f is not None)


def unprinted(table: Table) -> list[str]:
    """The published figures of a table that nothing here prints, with the reason, in lines."""
    left = [f for f in published.of_table(table.paper, table.printed) if f not in _printed(table.paper, table.printed)]
    groups: dict[str, list[Figure]] = {}
    for figure in left:
        reason = next((u.reason for u in _reasons() if u.fits(figure)), "no reason is given")
        groups.setdefault(reason, []).append(figure)
    return [
        f"{len(group)} figure(s) of {', '.join(dict.fromkeys(f.method for f in group))} "
        f"({', '.join(dict.fromkeys(f.metric for f in group))}) are not printed: {reason}"
        for reason, group in groups.items()
    ]


def check() -> list[str]:
    """What is wrong, in lines: what has no row, no reason, or names what is not there. Nothing where all is well."""
    return [*_wrong_figures(), *_wrong_rows(), *_without_rows()]


def _wrong_figures() -> list[str]:
    """Published figures without a table or reason, and reasons without figures."""
    found, used = [], set()
    for figure in published.figures():
        fitting = [u for u in _reasons() if u.fits(figure)]
        printed = figure in _printed(figure.paper, figure.table)
        used |= {*fitting} if not printed else set()
        name = f"{figure.paper}, {figure.table}, {figure.method}, {figure.metric}"
        if not printed and not fitting:
            found.append(f"published.csv: {name} is printed by no table, and unprinted.csv gives no reason.")
        if not figure.section:
            found.append(f"published.csv: {name} does not say its page or section.")
    found += [f"unprinted.csv: {', '.join(u)} fits no figure that is not printed." for u in _reasons() if u not in used]
    return found


def _wrong_rows() -> list[str]:
    found, known = [], tables()
    for item in inventory():
        name = f"inventory.csv: {item.paper}, {item.place}, {item.text[:60]!r}"
        if item.kind not in KINDS or item.status not in STATUSES:
            found.append(f"{name}: kind {item.kind!r} or status {item.status!r} is not known.")
        if item.status in REASONED and not item.reason:
            found.append(f"{name}: {item.status}, and no reason is given.")
        if item.status in ("here", "proxy", "partly") and not item.where:
            found.append(f"{name}: {item.status}, and no table is named.")
        if item.status == "elsewhere":
            if not (ROOT / item.where).exists():
                found.append(f"{name}: there is no file {item.where!r}.")
            continue
        strange = [n for n in item.where.split() if n not in known]
        found += [f"{name}: there is no table {n!r}." for n in strange]
        own = [known[n] for n in item.where.split() if n in known]
        if item.claim and not any(c.text == item.claim for t in own for c in t.claims):
            found.append(f"{name}: no claim of {item.where} is {item.claim!r}.")
        if item.status == "proxy" and not any(t.proxy_only for t in own):
            found.append(f"{name}: no table of {item.where} is a proxy alone.")
    return found


def _without_rows() -> list[str]:
    """Tables and claims of ours, and tables of published.csv, that have no row."""
    items = inventory()
    named = {name for item in items for name in item.where.split()}
    claims = {(name, item.claim) for item in items for name in item.where.split()}
    places = {(item.paper, word) for item in items for word in item.place.split(", ")}
    found = [f"table {name} has no row in inventory.csv." for name in tables() if name not in named]
    for table in tables().values():
        found += [
            f"{table.name}: the claim {c.text!r} has no row in inventory.csv."
            for c in table.claims
            if (table.name, c.text) not in claims
        ]
    for paper, table_name in dict.fromkeys((f.paper, f.table) for f in published.figures()):
        if (paper, table_name) not in places and table_name != "text":
            found.append(f"{paper}, {table_name} of published.csv has no row in inventory.csv.")
    return found


def summary() -> str:
    """How many things of each paper have which status, and all that are not here, as Markdown."""
    items = inventory()
    lines = [f"| paper | {' | '.join(STATUSES)} |", "|---" * (len(STATUSES) + 1) + "|"]
    for paper in dict.fromkeys(i.paper for i in items):
        counts = [sum((i.paper, i.status) == (paper, s) for i in items) for s in STATUSES]
        lines.append(f"| {paper} | {' | '.join(map(str, counts))} |")
    lines += ["", "| paper | place | what | status | reason |", "|---|---|---|---|---|"]
    for i in items:
        if i.status in ("missing", "partly", "proxy"):
            lines.append(f"| {i.paper} | {i.place} | {i.text} | {i.status} | {i.reason} |")
    printed = sum(f in _printed(f.paper, f.table) for f in published.figures())
    total = len(published.figures())
    return "\n".join(
        [
            *lines,
            "",
            f"{printed} of {total} published figures are printed beside ours; unprinted.csv says why not the others.",
        ]
    )
