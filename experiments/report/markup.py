"""Pieces of the page that depend on the comparison."""

from experiments.report.cells import Comparison
from experiments.report.document import escaped
from experiments.report.style import colour, css_colour

CONTINUED = " \\\n  --"


def dot(method: str, comparison: Comparison) -> str:
    """A dot in the colour that a method has in the charts."""
    of = colour(method, comparison.all_methods)
    return f'<i class="dot" style="background: {css_colour(of)}"></i>'


def command(comparison: Comparison) -> str:
    """The command that makes the comparison, a line per option."""
    return f"<pre>{escaped(comparison.command.replace(' --', CONTINUED))}</pre>"
