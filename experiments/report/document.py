"""One HTML file that holds everything it shows and asks the network for nothing, and its pieces."""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STYLESHEET = Path(__file__).with_name("page.css")


def document(title: str, parts: Iterable[str], heading: str | None = None) -> str:
    """The file: a heading, the title where none is given, and below it what is in ``parts``."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{STYLESHEET.read_text()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escaped(heading or title)}</h1>\n" + "\n".join(p for p in parts if p) + "\n</main>\n</body>\n</html>\n"
    )


def escaped(value: Any) -> str:
    """Text, escaped."""
    return html.escape(str(value), quote=False)


def table(columns: Iterable[Any], body: str, wide: str = "") -> str:
    """A table of numbers: its columns, of which the one named ``wide`` holds text, and its rows."""

    def head(column: Any) -> str:
        of = ' class="settings"' if column == wide else ""
        return f'<th scope="col"{of}>{escaped(column)}</th>'

    heads = "".join(map(head, columns))
    return (
        f'<div class="wide"><table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def row(name: str, values: Iterable[str], of: str = "") -> str:
    """A row of a table: its name and its cells, which are HTML; ``of``: attributes of the row."""
    return f'<tr{of}><th scope="row">{name}</th>{"".join(f"<td>{v}</td>" for v in values)}</tr>'


def bullets(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escaped(t)}</li>" for t in texts) + "</ul>"


def signed(value: float, digits: int = 2) -> str:
    """+0.50, with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def listed(parts: list[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
