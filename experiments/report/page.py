"""The report: one HTML file that holds everything it shows and asks the network for nothing."""

import html
import inspect
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dstjax import methods
from experiments.report import charts, findings, pictures, tables
from experiments.report.cells import Cell, Comparison, method_label, percent
from experiments.report.statistics import deviation, mean
from experiments.report.style import colour, css_colour

STYLESHEET = Path(__file__).with_name("page.css")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def page(comparison: Comparison) -> str:
    """The whole report."""
    sections = [_summary(comparison), *_figures(comparison), _numbers(comparison), _made_with(comparison)]
    title = _title(comparison)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{STYLESHEET.read_text()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_text(title)}</h1>\n{_lead(comparison)}\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _title(comparison: Comparison) -> str:
    n = len(comparison.methods) + (comparison.dense is not None)
    count = NUMBERS[n].capitalize() if n < len(NUMBERS) else str(n)
    word = "method" if n == 1 else "methods"
    title = f"{count} {word} of training on {comparison.dataset}"
    return f"{title}, at {_list([percent(s) for s in comparison.sparsities])} sparsity" if comparison.sparse else title


def _lead(comparison: Comparison) -> str:
    first = comparison.grid[0]
    largest = max(comparison.grid, key=lambda c: len(c.layers))
    n = len(first.seeds)
    text = (
        "A sparse network uses only a few of its possible connections; the rest of its weights are exactly zero from "
        "the first training step to the last. In dynamic sparse training the choice of connections is revised while "
        "the network trains: every so often some are dropped and as many new ones are grown. The methods compared here "
        f"differ in which. Data: {comparison.data}."
    )
    described = "".join(
        f"<dt>{_dot(m, comparison)}{_text(method_label(m))}</dt><dd>{_text(_doc(m))}</dd>"
        for m in ([comparison.dense.method] if comparison.dense else []) + comparison.methods
    )
    facts = {
        "network": _network(largest),
        "weights": f"{largest.weights:,}",
        "training steps": _span(c.steps for c in comparison.every),
        "mask updates": _span(len(c.updates) for c in comparison.sparse if len(c.updates)),
        "seeds": f"{n} ({_seeds(first.seeds)})" if n > 1 else "1",
        "computing time": _duration(sum(c.seconds for c in comparison.every)),
    }
    listed = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items() if v)
    return f'<p class="lead">{_text(text)}</p><dl class="methods">{described}</dl><dl class="facts">{listed}</dl>'


def _summary(comparison: Comparison) -> str:
    def bullets(texts: list[str]) -> str:
        return "<ul>" + "".join(f"<li>{_text(t)}</li>" for t in texts) + "</ul>"

    return (
        f'<section id="findings"><div class="findings"><div><h2>What this shows</h2>'
        f"{bullets(findings.shows(comparison))}</div><div><h2>What it does not show</h2>"
        f"{bullets(findings.does_not_show(comparison))}</div></div>"
        '<p class="note">Both lists are computed from the numbers below. A ± after an accuracy is the standard '
        "deviation over seeds, after a difference the standard error of its mean.</p></section>"
    )


def _figures(comparison: Comparison) -> list[str]:
    n = len(comparison.grid[0].seeds)
    over = f"mean and standard deviation over {n} seeds" if n > 1 else "one seed"
    reference = method_label(comparison.reference or "")
    swept = percent(comparison.sweep[0].sparsity) if comparison.sweep else ""
    middle = comparison.sparsities[len(comparison.sparsities) // 2] if comparison.sparsities else 0.0
    figures: list[tuple[str, str, Callable[[], str | None], str]] = [
        (
            "accuracy",
            f"Test accuracy against sparsity, {over}",
            lambda: charts.accuracy(comparison),
            "Higher is better. Markers are means, bars one standard deviation, faint dots single seeds; methods at one "
            "sparsity stand side by side. The band is the dense network. The axis spreads out small errors: the step "
            "from 98 to 99 % is as tall as the one from 80 to 90 %.",
        ),
        (
            "differences",
            f"Difference in test accuracy to {reference} on the same seeds",
            lambda: charts.differences(comparison),
            "Seeds are paired: each compares two methods on the same data split and initial weights. Bars reach 2 "
            "standard errors to each side; where a bar crosses 0, the marker is hollow and these seeds do not tell the "
            "two methods apart. The axis is linear from -1 to 1 and logarithmic beyond.",
        ),
        (
            "exploration",
            f"Exploration rate of DST-EE for several coefficients c, at {swept} sparsity",
            lambda: charts.exploration(comparison),
            "R is the share of all weights that have been active at least once. Left: R after each mask update, the "
            "band is one standard deviation (often thinner than the line). Right: where each run ended, bars are one "
            "standard deviation. c weighs exploration (weights seldom active) against exploitation (large gradients); "
            "c = 0 would be RigL with the same drop fraction.",
        ),
        (
            "layers",
            "Density of each layer, requested and realised",
            lambda: charts.layers(comparison),
            "A ring is what the sparsity distribution asked for, the dot inside is what the masks had after the last "
            "step. Counts are active weights of all weights of the layer.",
        ),
        (
            "turnover",
            f"What was grown and dropped at each mask update, {over}",
            lambda: charts.turnover(comparison),
            "Top: the share of the weights grown by one mask update that the next one did not drop. Bottom: the mask "
            "error τ², the share of the squared weights that a mask update removed. Few "
            "weights move towards the end, so both get ragged there. A fixed mask has no line.",
        ),
        (
            "inputs",
            f"Connections of each input pixel, first and last step, mean over {n} seed{'s' * (n != 1)}",
            lambda: pictures.input_maps(comparison),
            "Each square is one pixel of the input image; the stronger its colour, the more active connections lead "
            "from it to the first hidden layer, on the scale at the left. A random mask spreads its connections "
            "evenly, with a quarter of them in the middle; a map that ends uneven has moved them to where they were of "
            "use. Hover over a pixel for its count.",
        ),
        (
            "raw",
            f"The first layer's mask at {percent(middle)} sparsity, first seed",
            lambda: pictures.raw_masks(comparison, middle),
            "Each dot is an active weight; rows are input pixels from the top left to the bottom right, columns are "
            "hidden units, ordered by their number of connections. An idle unit has no incoming connection left.",
        ),
    ]
    made: list[str] = []
    command = _command(comparison)
    for name, title, draw, caption in figures:
        drawn = draw()
        if drawn is not None:
            number = len(made) + 1
            made.append(
                f'<section id="{name}"><h2>{number}. {_text(title)}</h2><figure>{drawn}<figcaption>{_text(caption)}'
                f"<details><summary>The command that makes it again</summary>{command}</details></figcaption></figure>"
                "</section>"
            )
    return made


def _numbers(comparison: Comparison) -> str:
    reference = method_label(comparison.reference or "")
    columns = [
        "method",
        "sparsity",
        "test accuracy (%)",
        f"minus {reference} (points)",
        "density",
        "active weights",
        "R",
    ]
    body, place = [], None
    for cell, gap in tables.rows(comparison):
        group = ' class="group"' if place not in (None, cell.sparsity) else ""
        place = cell.sparsity
        shown = ""
        if gap is not None:
            spread = f" ± {gap.standard_error:.2f}" if gap.n > 1 else ""
            shown = f"<span{' class=clear' if gap.clear else ''}>{_signed(gap.mean)}{spread}</span>"
        values = [
            percent(cell.sparsity) if cell.method != "dense" else "–",
            f"{cell.mean:.2f} ± {cell.deviation:.2f}",
            shown,
            f"{cell.density:.6f}".rstrip("0").rstrip("."),
            f"{cell.active_weights:,}",
            f"{mean(cell.exploration):.3f} ± {deviation(cell.exploration):.3f}",
        ]
        name = _dot(cell.method, comparison) + _text(tables.name_of(cell, comparison))
        body.append(f'<tr{group}><th scope="row">{name}</th>{"".join(f"<td>{v}</td>" for v in values)}</tr>')
    head = "".join(f'<th scope="col">{_text(c)}</th>' for c in columns)
    return (
        '<section id="numbers"><h2>All numbers</h2><p class="note">Test accuracy after the last epoch and exploration '
        "rate R: mean ± standard deviation over seeds. Differences: mean ± standard error over the same seeds, bold "
        "beyond 2 standard errors.</p>"
        f"{_table(head, ''.join(body))}"
        f"<details><summary>Test accuracy (%) of every seed</summary>{_per_seed(comparison)}</details></section>"
    )


def _per_seed(comparison: Comparison) -> str:
    seeds = comparison.grid[0].seeds
    head = "".join(f'<th scope="col">seed {s}</th>' for s in seeds)
    body = "".join(
        f'<tr><th scope="row">{_text(tables.name_of(c, comparison))}'
        f"{'' if c.method == 'dense' else ', ' + percent(c.sparsity)}</th>"
        + "".join(f"<td>{a:.2f}</td>" for a in c.accuracy)
        + "</tr>"
        for c, _ in tables.rows(comparison)
    )
    return _table(f"<th></th>{head}", body)


def _table(head: str, body: str) -> str:
    return f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _made_with(comparison: Comparison) -> str:
    versions = sorted({json.dumps(c.versions, sort_keys=True) for c in comparison.every})
    named = [", ".join(f"{k} {v}" for k, v in json.loads(v).items()) or "not recorded" for v in versions]
    configs = [c.config for c in comparison.every]
    common = {k: v for k, v in configs[0].items() if all(k in c and c[k] == v for c in configs)}
    settings = "".join(
        f'<tr><th scope="row">{_text(c.name)}</th><td>{_text(tables.config_hash(c.config))}</td>'
        f'<td class="settings">{_text(_settings(c))}</td></tr>'
        for c in comparison.every
    )
    head = '<th scope="col">cell</th><th scope="col">config hash</th><th scope="col" class="settings">made with</th>'
    return (
        f'<section id="made"><h2>How this was made</h2><p>One command, run from the root of the repository:</p>'
        f"{_command(comparison)}"
        f"<p>Versions: {_text('; '.join(named))}.</p>"
        "<p>Finished cells are kept: the same command again draws this page from them without training. The same "
        "numbers are in <code>results.csv</code> next to this page.</p>"
        f"<details><summary>Config that all cells share</summary><pre>{_text(json.dumps(common, indent=2))}</pre>"
        f"</details><details><summary>Settings of each cell</summary>{_table(head, settings)}</details></section>"
    )


def _settings(cell: Cell) -> str:
    return ", ".join(f"{k}: {v}" for k, v in cell.settings.items())


def _command(comparison: Comparison) -> str:
    lines = comparison.command.replace(" --", " \\\n  --")
    return f"<pre>{_text(lines)}</pre>"


def _doc(method: str) -> str:
    documentation = inspect.getdoc(methods.CATALOGUE[method]) if method in methods.CATALOGUE else ""
    first = (documentation or "").split("\n\n")[0].replace("\n", " ").split(": ", 1)[-1]
    return first[:1].upper() + first[1:]


def _dot(method: str, comparison: Comparison) -> str:
    of = colour(method, comparison.methods)
    return f'<i class="dot" style="background: {css_colour(of)}"></i>'


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return "" if not found else f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _network(cell: Cell) -> str:
    """'64-300-100-10' where the layers form a chain."""
    shapes = [layer.shape for layer in cell.layers]
    chain = all(len(s) == 2 for s in shapes) and all(a[1] == b[0] for a, b in itertools.pairwise(shapes))
    return "-".join(str(n) for n in (shapes[0][0], *(s[1] for s in shapes))) if shapes and chain else ""


def _seeds(seeds: tuple[int, ...]) -> str:
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return _list([str(s) for s in seeds])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\u2212")


def _list(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _text(value: Any) -> str:
    return html.escape(str(value), quote=False)
