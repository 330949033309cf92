"""The list of what the papers have, beside what is here: nothing without a row, nothing missing without a reason."""

import dataclasses

import pytest

from experiments.reproduce import __main__ as command
from experiments.reproduce import coverage, published
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers import catalogue
from experiments.reproduce.papers.catalogue import get, tables


@pytest.fixture(autouse=True)
def _fresh():
    yield
    coverage._printed.cache_clear()
    coverage._reasons.cache_clear()


def test_everything_that_the_papers_have_is_here_or_has_a_reason(capsys):
    assert coverage.check() == []
    assert command.main(["--coverage"]) == 0
    said = capsys.readouterr().out
    printed = sum(f in coverage._printed(f.paper, f.table) for f in published.figures())
    assert f"{printed} of {len(published.figures())} published figures are printed beside ours" in said
    assert printed >= 400


def test_the_five_papers_have_their_tables_and_figures():
    """Those that the papers number, counted by hand: without a row for each the list is no list."""
    places = {p for i in coverage.inventory() if i.kind != "statement" for p in _places(i)}
    wanted = {
        *(("DST-EE", f"{kind} {n}") for kind, last in (("Table", 4), ("Figure", 3)) for n in range(1, last + 1)),
        *(("IEE", f"Table {n}") for n in range(1, 6)),
        *(("IEE", f"Figure {n}") for n in range(2, 6)),
        ("IEE", "Figure 1 left"),
        ("IEE", "Figure 1 right"),
        *(("Fantastic weights", f"Table {n}") for n in range(1, 7)),
        *(("Fantastic weights", f"Figure {n}") for n in range(1, 31) if n != 6),
        *(("Fantastic weights", f"Figure 6{part}") for part in "ab"),
        *(("Regrowing strategies", f"Table {n}") for n in (1, 2)),
        *(("Regrowing strategies", f"Figure {n}") for n in range(1, 7)),
    }
    assert wanted <= places


def _places(item):
    return [(item.paper, place) for place in item.place.split(", ")]


def test_a_figure_that_is_not_printed_says_why_in_the_table():
    (line,) = coverage.unprinted(get("iee_table2"))
    assert line.startswith("4 figure(s) of IP-FT [ERK] (accuracy, training share) are not printed: interspace pruning")
    assert coverage.unprinted(get("dst_ee_table1")) == []


def _without(monkeypatch, keep):
    rows = [i for i in coverage.inventory() if keep(i)]
    monkeypatch.setattr(coverage, "inventory", lambda: rows)


def test_a_claim_or_table_without_a_row_is_found(monkeypatch):
    _without(monkeypatch, lambda i: i.claim != "RigL is more accurate than SET." and i.where != "criteria_figure18")
    found = coverage.check()
    assert "dst_ee_table1: the claim 'RigL is more accurate than SET.' has no row in inventory.csv." in found
    assert len([line for line in found if "RigL is more accurate than SET." in line]) == 2  # Table 2 claims it too


def test_a_row_that_names_what_is_not_there_is_found(monkeypatch, capsys):
    wrong = [
        coverage.Item("IEE", "Table 9", "table", "nothing", "here", "iee_table9", "", ""),
        coverage.Item("IEE", "Table 9", "table", "no reason", "missing", "", "", ""),
        coverage.Item("IEE", "Table 9", "table", "a claim", "here", "iee_table2", "nobody says so", ""),
        coverage.Item("IEE", "Table 9", "table", "a file", "elsewhere", "docs/nothing.md", "", ""),
        coverage.Item("IEE", "Table 9", "picture", "a kind", "done", "", "", ""),
    ]
    rows = coverage.inventory()
    monkeypatch.setattr(coverage, "inventory", lambda: [*rows, *wrong])
    found = "\n".join(coverage.check())
    for text in (
        "there is no table 'iee_table9'",
        "missing, and no reason is given",
        "no claim of iee_table2 is 'nobody says so'",
        "there is no file 'docs/nothing.md'",
        "kind 'picture' or status 'done' is not known",
    ):
        assert text in found
    assert command.main(["--coverage"]) == 1
    assert "there is no table 'iee_table9'" in capsys.readouterr().out


def test_a_published_figure_without_a_metric_is_found(monkeypatch):
    every = tables()
    table = dataclasses.replace(every["iee_table3"], metrics=("accuracy",), claims=(Claim("new", {}, {}),))
    module = type("Module", (), {"TABLES": (*(t for n, t in every.items() if n != "iee_table3"), table)})
    monkeypatch.setattr(catalogue, "MODULES", (module,))
    coverage._printed.cache_clear()
    found = coverage.check()
    lost = [line for line in found if "inference GFLOPs is printed by no table" in line]
    assert len(lost) == 15
    (said,) = coverage.unprinted(table)
    assert said.endswith("are not printed: no reason is given")
