"""Every ``python`` block of the pages runs as a reader would paste it: in order, page by page, in an empty session."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def blocks(text: str) -> list[str]:
    """The blocks of a page, each below so many empty lines that a traceback names the line of the page."""
    return ["\n" * (text[: m.start()].count("\n") + 1) + m[1] for m in BLOCK.finditer(text)]


def test_blocks_are_found_where_they_stand():
    text = "a\n\n```python\nx = 1\n\ny = 2\n```\n\n```pycon\n>>> 1\n1\n```\n```python\nz\n```\n"
    assert blocks(text) == ["\n" * 3 + "x = 1\n\ny = 2\n", "\n" * 13 + "z\n"]


def test_pages_have_blocks():
    assert blocks((ROOT / "README.md").read_text())


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES if blocks(page.read_text())])
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    """In an empty folder, and with jax's own settings where those of the tests are stricter."""
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"):
        for block in blocks((ROOT / page).read_text()):
            exec(compile(block, ROOT / page, "exec"), session)
