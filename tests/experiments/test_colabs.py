"""The notebooks as they are stored: no outputs, code that parses, links that lead somewhere.

``make colabs`` runs them, which takes minutes.
"""

import ast
import re
import threading
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError

from experiments import run_colabs

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "colabs").glob("*.ipynb"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
MAGIC = re.compile(r"^(\s*)%.*$", re.MULTILINE)


def cells(path, kind):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stored_notebook(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    code, text = cells(path, "code"), [c.source for c in cells(path, "markdown")]
    assert all(not c.outputs and c.execution_count is None for c in code)
    for cell in code:
        ast.parse(MAGIC.sub(r"\1pass", cell.source))
    assert text[0].startswith("# ")
    assert "colab-badge" not in text[0]  # a badge would open nothing that runs: the notebook has no address
    assert "set `SOURCE` below" in text[0]
    assert any("%pip install" in c.source and "SOURCE" in c.source for c in code)
    for link in LINK.findall("\n".join(text)):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_the_readme_lists_every_notebook():
    listed = set(re.findall(r"\(colabs/(\w+)\.ipynb\)", (ROOT / "README.md").read_text()))
    assert listed == {path.stem for path in PATHS}


def test_several_run_at_a_time_and_one_that_fails_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "colabs").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "colabs" / f"{name}.ipynb").touch()
    both = threading.Barrier(2)

    def run(path):
        if path.stem == "c":
            raise DeadKernelError("no kernel")
        both.wait(timeout=60)

    monkeypatch.setattr(run_colabs, "ROOT", tmp_path)
    monkeypatch.setattr(run_colabs, "run", run)
    assert run_colabs.main(["--jobs", "2"]) == 1
    said = capsys.readouterr()
    assert "colabs/c.ipynb ... FAILED\nno kernel" in said.out
    assert said.out.count("ok, ") == 2
    assert said.err == "1 of 3 notebooks failed.\n"
    with pytest.raises(SystemExit, match="2"):
        run_colabs.main(["--jobs", "0"])
