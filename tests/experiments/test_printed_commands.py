"""Every command that a page, a notebook or a docstring prints is one that its program accepts; nothing is trained."""

import json
import re
import shlex
from pathlib import Path

import pytest

from experiments import command_line, data, grid
from experiments.reproduce import __main__ as reproduce
from experiments.training import configuration
from tests.experiments.training.test_configs import TRUE, generated
from tests.thorough import few

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "README.md",
    ROOT / "Makefile",
    *(path for folder in ("docs", "colabs", "experiments", "dstjax") for path in sorted((ROOT / folder).rglob("*"))),
]
LINE = re.compile(r"(?<!`)python -m experiments\.(compare|train|reproduce)\b((?:\\\n|[^\n`#()])*)")
INLINE = re.compile(r"`python -m experiments\.(compare|train|reproduce)\b([^`]*)`")
# Of a form, of a name that a reader has, of the shell.
NO_COMMAND = re.compile(r"[\[\]{}|*\"$]|\.\.\.|\b(FILE|FIELD|NAME|NAMES|TEXT|my_module|my_rules)\b")


def text_of(path):
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def printed():
    """The programs and arguments of all commands, without those that only show the form of one."""
    found = {}
    for path in SOURCES:
        if path.is_file() and path.suffix in (".md", ".py", ".ipynb", ""):
            text = text_of(path)
            for program, words in (*LINE.findall(text), *INLINE.findall(text)):
                words = " ".join(words.replace("\\\n", " ").replace("DIR", "nowhere").split()).rstrip(".,;:")
                if "--" in words and not NO_COMMAND.search(words):
                    found.setdefault((program, words), path.relative_to(ROOT))
    return [pytest.param(*command, id=f"{source}: {' '.join(command)}") for command, source in found.items()]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Data sets of the true shape in place of those that cannot be had here."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(TRUE, "mnist5000", ((28, 28, 1), 10, 3000))

    def read(real):
        return lambda name, **rest: generated(name, samples=TRUE[name][2]) if name in TRUE else real(name, **rest)

    monkeypatch.setattr(data, "load", read(data.load))
    monkeypatch.setattr(data, "stream", read(data.stream))
    return str(tmp_path / "nowhere")


@few(20)
@pytest.mark.parametrize(("program", "words"), printed())
def test_a_printed_command_is_accepted(program, words, nowhere):
    arguments = [nowhere if word == "nowhere" else word for word in shlex.split(words)]
    if program == "reproduce":
        reproduce.parse(arguments)
    elif program == "compare":
        assert grid.plan([*arguments, *(() if "--workdir" in arguments else ("--workdir", nowhere))]).cells
    else:
        config, defaults, _ = command_line.parse(arguments, {"workdir": nowhere})
        configuration.plan(config, defaults)


def test_commands_are_found():
    programs = [command.values[0] for command in printed()]
    assert programs.count("train") > 25
    assert programs.count("compare") > 12
    assert programs.count("reproduce") > 5
