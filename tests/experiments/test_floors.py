"""Who imports whom: nothing private of dstjax, nothing from a higher floor, no circle."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the ground up: a room imports its own floor and those below. Rooms of one line do not know each other.
FLOORS = (
    ("stopping", "configs", "tasks", "turns", "alone"),
    ("command_line", "supervising"),
    ("data", "models"),
    ("training",),
    ("report", "queue"),
    ("variants", "latency_table"),
    ("grid",),
    ("benchmarks", "reproduce", "compare", "compact", "latency", "train", "flops", "run_colabs"),
)
FILES = sorted((ROOT / "experiments").rglob("*.py"))


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def imports(path):
    """The modules that a file names, wherever it does so; of a package the one that is meant."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def room(name):
    return name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_imports_what_is_public_and_below(path):
    own = [i for i, floor in enumerate(FLOORS) if module(path) != "experiments" and room(module(path)) in floor]
    for name in imports(path):
        parts = name.split(".")
        assert not (parts[0] == "dstjax" and any(part.startswith("_") for part in parts)), name
        if parts[0] == "experiments" and len(parts) > 1 and room(name) != room(module(path)):
            assert any(room(name) in floor for floor in FLOORS[: own[0]]), f"{name} is not below"


def test_there_is_no_circle():
    graph = {module(path): {n for n in imports(path) if n in MODULES and n != module(path)} for path in FILES}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_notebooks_import_what_is_public():
    for path in (ROOT / "colabs").glob("*.ipynb"):
        text = path.read_text()
        assert "dstjax._" not in text
        assert "dstjax import _" not in text
