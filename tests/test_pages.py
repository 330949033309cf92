"""The README and the pages against the catalogue and against each other."""

import inspect
import re
from pathlib import Path

import pytest

import dstjax
from dstjax.method import rewiring
from tests.test_docs import PAGES, ROOT

SHARED = {n: p.default for n, p in inspect.signature(rewiring).parameters.items() if n != "name"}
FIRST_FOUR = ("sparsity", "distribution", "maskable", "structure")
NAMES = dstjax.methods.names(channels=True)


def rows(page: Path, *header: str) -> list[list[str]]:
    """The cells of the table that has this header."""
    lines = page.read_text().splitlines()
    start = lines.index("| " + " | ".join(header) + " |") + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")])
        assert len(found[-1]) == len(header), line
    return found


def named(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall("`(.*?)`", cell)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_table_of_the_readme_is_that_of_the_catalogue():
    table = rows(ROOT / "README.md", "family", "method", "drops", "grows", "needs")
    listed = {name: (family, needs) for family, names, _, _, needs in table for name in named(names)}
    assert sum(len(named(row[1])) for row in table) == len(listed)
    assert sorted(listed) == NAMES
    for name, (family, needs) in listed.items():
        about = dstjax.methods.about(name)
        assert (family, sorted(named(needs))) == (about.family, sorted(about.needs)), name
    families = [row[0] for row in table]
    runs = [f for i, f in enumerate(families) if i == 0 or families[i - 1] != f]
    assert runs == [*dstjax.methods.FAMILIES]


HYPER = ROOT / "docs" / "hyper-parameters.md"


def test_the_defaults_that_methods_share_are_those_of_the_table():
    listed = {}
    for names, defaults, _ in rows(HYPER, "name", "default", "meaning"):
        values = named(defaults) or [defaults]
        listed |= dict(zip(named(names), values, strict=True))
    assert listed.keys() == SHARED.keys()
    assert (listed.pop("sparsity"), listed.pop("structure")) == ("required", "single weights")
    assert listed == {n: repr(v) for n, v in SHARED.items() if n in listed}


def test_every_method_has_the_shared_ones_that_the_table_says():
    has = {}
    for methods, what in rows(HYPER, "methods", "have of these"):
        first = {"all": SHARED, "none": ()}.get(what.split(",")[0])
        if what.startswith("all but "):
            first = {*SHARED} - {*named(what)}
        if first is None:
            first = (*(FIRST_FOUR if "the first four" in what else ()), *named(what))
        has |= {name: {*first} for name in named(methods)}
    assert sorted(has) == NAMES
    for name, expected in has.items():
        assert {*dstjax.methods.hyperparameters(name)} & {*SHARED} == expected, name


def test_every_other_default_stands_in_the_table():
    listed: dict[str, set[str]] = {}
    for methods, defaults in rows(HYPER, "method", "default"):
        for name in named(methods):
            listed[name] = {d for d in named(defaults) if "=" in d}
    other = {}
    for name in NAMES:
        own = dstjax.methods.hyperparameters(name)
        differ = {
            n for n in own.keys() & SHARED.keys() if own[n] != SHARED[n] and own[n] is not inspect.Parameter.empty
        }
        if differ:
            other[name] = {f"{n}={own[n]!r}" for n in differ}
    assert listed == other


def test_every_hyperparameter_of_a_single_method_stands_in_the_table():
    listed = {}
    for methods, name, default, meaning in rows(HYPER, "method", "name", "default", "meaning"):
        assert meaning
        for method in named(methods):
            listed[method, *named(name)] = (named(default) or [default])[0]
    found = {}
    for name in NAMES:
        for n, default in dstjax.methods.hyperparameters(name).items():
            if n not in SHARED:
                found[name, n] = "required" if default is inspect.Parameter.empty else repr(default)
    assert listed == found


def test_every_name_of_a_criterion_and_of_a_schedule_stands_in_a_table():
    by_role: dict[str, set[str]] = {"drop": set(), "grow": set()}
    for names, roles, _ in rows(HYPER, "name", "as", "score"):
        for role in named(roles):
            by_role[role] |= {n.strip("'") for n in named(names)}
    assert by_role == {"drop": {*dstjax.criteria.DROP}, "grow": {*dstjax.criteria.GROW}}
    schedules = [n.strip("'") for row in rows(HYPER, "name", "share at step t") for n in named(row[0])]
    assert sorted(schedules) == sorted(dstjax.schedules.NAMES)


def anchors(page: Path) -> set[str]:
    """The headings of a page as the links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


PROSE = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PROSE[:-1], ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    """Of the folders that the repository has; the changelog names files that were."""
    for path in re.findall(r"`((?:dstjax|experiments|tests|colabs|docs)/[\w/.-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


def test_the_index_lists_every_page():
    index = ROOT / "docs" / "README.md"
    listed = {re.search(r"\((.*)\)", row[0])[1] for row in rows(index, "page", "what it answers")}
    assert listed == {page.name for page in index.parent.glob("*.md")} - {"README.md"}
