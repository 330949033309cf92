"""Pieces of HTML that several parts of the page use."""

import html
from typing import Any

from experiments.report.cells import Comparison
from experiments.report.style import colour, css_colour

CONTINUED = " \\\n  --"


def escaped(value: Any) -> str:
    """Text, escaped."""
    return html.escape(str(value), quote=False)


def dot(method: str, comparison: Comparison) -> str:
    """A dot in the colour that a method has in the charts."""
    of = colour(method, comparison.all_methods)
    return f'<i class="dot" style="background: {css_colour(of)}"></i>'


def command(comparison: Comparison) -> str:
    """The command that makes the comparison, a line per option."""
    return f"<pre>{escaped(comparison.command.replace(' --', CONTINUED))}</pre>"


def signed(value: float) -> str:
    """+0.50, with a true minus sign."""
    return f"{value:+.2f}".replace("-", "\u2212")


def listed(parts: list[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
