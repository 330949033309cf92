import inspect
import re

import pytest

import dstjax
from dstjax.methods.references import entries

ENTRIES = entries()
PAPERS = {name: dstjax.methods.about(name).papers for name in dstjax.methods.names(channels=True)}

REQUIRED = {
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "misc": {"author", "title", "year"},
}


def parsed(entry: str) -> tuple[str, str, dict[str, str]]:
    """Kind, key and fields of one BibTeX entry; fails where a brace is open, a field twice or a comma missing."""
    head = re.match(r"@(\w+)\{([\w-]+),", entry)
    assert head
    fields: dict[str, str] = {}
    at = head.end()
    while field := re.compile(r"\s*(\w+) = \{").match(entry, at):
        depth, end = 1, field.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(entry[end], 0)
            end += 1
        assert field[1] not in fields
        assert entry[end] == ","
        fields[field[1]] = " ".join(entry[field.end() : end - 1].split())
        at = end + 1
    assert entry[at:].strip() == "}"
    return head[1], head[2], fields


def authors(entry: str) -> list[str]:
    return [name.split(",")[0] for name in parsed(entry)[2]["author"].split(" and ")]


def test_a_reader_of_bibtex_fails_where_it_should():
    assert parsed("@misc{a1,\n  title = {B {C} d}, year = {2000},\n}") == (
        "misc",
        "a1",
        {"title": "B {C} d", "year": "2000"},
    )
    for broken in (
        "@misc{a1,\n  title = {B {C d}, year = {2000},\n}",
        "@misc{a1,\n  title = {B} year = {2000},\n}",
        "@misc{a1,\n  title = {B}, title = {C},\n}",
        "@misc{a1,\n  title = B,\n}",
    ):
        with pytest.raises((AssertionError, IndexError)):
            parsed(broken)


@pytest.mark.parametrize("key", ENTRIES)
def test_entries_are_complete(key):
    kind, name, fields = parsed(ENTRIES[key])
    assert name == key
    assert fields.keys() >= REQUIRED[kind]
    assert all(fields.values())
    assert re.fullmatch(r"(19|20)\d\d", fields["year"])
    assert fields["year"] in key
    assert all("," in author for author in fields["author"].split(" and ") if author != "others")
    assert re.sub(r"\W", "", authors(ENTRIES[key])[0]).lower() in key
    if "eprint" in fields:
        assert re.fullmatch(r"\d{4}\.\d{5}", fields["eprint"])
    if "pages" in fields:
        first, last = map(int, fields["pages"].split("--"))
        assert first < last


def test_keys_and_titles_are_unique_and_each_entry_is_used():
    text = "\n".join(ENTRIES.values())
    keys = re.findall(r"^@\w+\{(.*),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == len(ENTRIES)
    titles = [parsed(entry)[2]["title"].lower() for entry in ENTRIES.values()]
    assert len(titles) == len(set(titles))
    assert {key for keys in PAPERS.values() for key in keys} == set(ENTRIES)


def test_every_method_has_a_reference_and_nothing_else_does():
    assert sorted(PAPERS) == dstjax.methods.names(channels=True)


def plain(text: str) -> str:
    return " ".join(re.sub(r"[{}]", "", text).split()).lower()


@pytest.mark.parametrize("name", dstjax.methods.names(channels=True))
def test_the_docstring_names_first_author_title_and_year(name):
    doc = plain(inspect.getdoc(dstjax.methods.CATALOGUE[name]) or "")
    assert doc.count("reference:") == 1
    said = doc.split("reference:")[1]
    entries = dstjax.methods.reference(name).split("\n\n")
    assert len(entries) == len(PAPERS[name])
    for entry in entries:
        fields = parsed(entry)[2]
        surnames = authors(entry)
        who = {1: surnames[0], 2: " and ".join(surnames)}.get(len(surnames), f"{surnames[0]} et al.")
        assert f'{who.lower()}, "{plain(fields["title"])}",' in said
        assert fields["year"] in said.split(plain(fields["title"]))[1][:50]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"method 'rig' is not known; did you mean 'rigl'\?"):
        dstjax.methods.reference("rig")
