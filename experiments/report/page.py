"""The report of a comparison."""

import inspect
import itertools
import re
from collections.abc import Iterable

from dstjax import methods
from experiments.report import findings
from experiments.report.cells import CellResult, Comparison, percent
from experiments.report.document import bullets, document, escaped, listed
from experiments.report.figures import figures
from experiments.report.markup import dot
from experiments.report.names import DO, by_family, method_label
from experiments.report.numbers import made_with, numbers

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def page(comparison: Comparison) -> str:
    """The whole report."""
    sections = [_summary(comparison), *figures(comparison), numbers(comparison), made_with(comparison)]
    return document(_title(comparison), [_lead(comparison), *sections])


def _title(comparison: Comparison) -> str:
    n = len(comparison.all_methods) + (comparison.dense is not None)
    count = NUMBERS[n].capitalize() if n < len(NUMBERS) else str(n)
    word = "method" if n == 1 else "methods"
    title = f"{count} {word} of training on {comparison.dataset}"
    return f"{title}, at {listed([percent(s) for s in comparison.sparsities])} sparsity" if comparison.sparse else title


def _lead(comparison: Comparison) -> str:
    first = comparison.grid[0]
    largest = max(comparison.grid, key=lambda c: len(c.layers))
    n = len(first.seeds)
    text = (
        "A trained sparse network uses only a few of its possible connections; the rest of its weights are zero. "
        f"{_what_differs(comparison)} Data: {comparison.data}."
    )
    facts = {
        "network": _network(largest),
        "weights": f"{largest.weights:,}",
        "training steps": _span(c.steps for c in comparison.every),
        "mask updates": _span(c.mask_updates for c in comparison.grid if c.mask_updates),
        "seeds": f"{n} ({_seeds(first.seeds)})" if n > 1 else "1",
        "computing time": _duration(sum(c.seconds for c in comparison.every)),
    }
    cards = "".join(f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in facts.items() if v)
    return f'<p class="lead">{escaped(text)}</p>{_methods(comparison)}<dl class="facts">{cards}</dl>'


def _what_differs(comparison: Comparison) -> str:
    if not comparison.many:
        return (
            "In dynamic sparse training the choice of connections is revised while the network trains: every so often "
            "some are dropped and as many new ones are grown. The methods compared here differ in which."
        )
    doing = [DO[name] for name in by_family(comparison.all_methods) if name in DO]
    return f"The methods compared here differ in how the connections are found: {listed(doing)}."


def _methods(comparison: Comparison) -> str:
    """What each method does; many are folded away, a list per family."""

    def described(names: list[str]) -> str:
        rows = (
            f"<dt>{dot(m, comparison)}{escaped(method_label(m))}</dt><dd>{escaped(_doc(m, comparison))}</dd>"
            for m in names
        )
        return f'<dl class="methods">{"".join(rows)}</dl>'

    dense = [comparison.dense.method] if comparison.dense else []
    if not comparison.many:
        return described(dense + comparison.all_methods)
    families = by_family(comparison.all_methods)
    colours = "".join(
        f"<span>{dot(members[0], comparison)}{escaped(name)}</span>" for name, members in families.items()
    )
    parts = "".join(f"<h3>{escaped(name)}</h3>{described(members)}" for name, members in families.items())
    return (
        f'<p class="families">Colours stand for families: {colours}</p><details><summary>What each of the '
        f"{len(dense) + len(comparison.all_methods)} methods does</summary>{described(dense) if dense else ''}{parts}"
        "</details>"
    )


def _summary(comparison: Comparison) -> str:
    return (
        f'<section id="findings"><div class="findings"><div><h2>What this shows</h2>'
        f"{bullets(findings.shows(comparison))}</div><div><h2>What it does not show</h2>"
        f"{bullets(findings.does_not_show(comparison))}</div></div>"
        '<p class="note">Both lists are computed from the numbers below. A ± after an accuracy is the standard '
        "deviation over seeds, after a difference the standard error of its mean.</p></section>"
    )


def _doc(method: str, comparison: Comparison) -> str:
    if method not in methods.CATALOGUE:
        return next((c.variant for c in comparison.every if c.method == method), "")
    first = (inspect.getdoc(methods.CATALOGUE[method]) or "").split("\n\n")[0].replace("\n", " ")
    does, _, called = first.rpartition(": ")  # the name of the method comes last, where it is said
    first = f"{does}." if does and len(called) < len(does) else first
    first = re.sub(r":\w+:`([^`]*)`|``([^`]*)``", lambda found: found[1] or found[2], first)
    return first[:1].upper() + first[1:]


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return "" if not found else f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _network(cell: CellResult) -> str:
    """'64-300-100-10' where the layers form a chain."""
    shapes = [layer.shape for layer in cell.layers]
    chain = all(len(s) == 2 for s in shapes) and all(a[1] == b[0] for a, b in itertools.pairwise(shapes))
    return "-".join(str(n) for n in (shapes[0][0], *(s[1] for s in shapes))) if shapes and chain else ""


def _seeds(seeds: tuple[int, ...]) -> str:
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return listed([str(s) for s in seeds])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
