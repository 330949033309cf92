"""What may import what. Sources are read, not imported, so that a broken house is still measured."""

import ast
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dstjax", "experiments")
MAX_ROOMS, MAX_FLOORS = 25, 9
ABOVE_THE_ENGINE = {
    "costs",
    "initial_masks",
    "exchange",
    "loops",
    "masks",
    "methods",
    "metrics",
    "program",
    "starting",
    "state",
    "summaries",
    "transform",
}


class Import(NamedTuple):
    """One name that a file imports: ``target`` is the module, ``name`` what is taken from it (None: the module)."""

    source: str
    target: str
    name: str | None
    line: int

    def __str__(self) -> str:
        taken = f"{self.target}.{self.name}" if self.name else self.target
        return f"{self.source}, line {self.line}: {taken}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def files() -> dict[str, Path]:
    return {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def is_module(name: str) -> bool:
    return name in files() or (ROOT / name.replace(".", "/")).is_dir()


def absolute(source: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    base = source.split(".") if is_package else source.split(".")[:-1]
    return ".".join([*base[: len(base) - node.level + 1], *([node.module] if node.module else [])])


def read(text: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    """All imports of a text, inside functions too, and private attributes of what it imports."""
    tree = ast.parse(text)
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    yield Import(source, alias.name, None, node.lineno)
                    modules[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            target = absolute(source, is_package, node)
            if target.split(".")[0] in PACKAGES:
                for alias in node.names:
                    inner = f"{target}.{alias.name}"
                    if is_module(inner):
                        yield Import(source, inner, None, node.lineno)
                        modules[alias.asname or alias.name] = inner
                    else:
                        yield Import(source, target, alias.name, node.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            target = modules.get(ast.unparse(node.value))
            if target:
                yield Import(source, target, node.attr, node.lineno)


@functools.cache
def imports() -> tuple[Import, ...]:
    return tuple(
        found
        for name, path in files().items()
        for found in read(path.read_text(), name, is_package=path.name == "__init__.py")
    )


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def room(module: str) -> str:
    """``masks`` of ``dstjax.masks``, ``methods`` of ``dstjax.methods.iee``; "" of the package itself."""
    return [*module.split("."), ""][1]


def package(module: str) -> str:
    return module.split(".")[0]


def said(found: list[Import]) -> str:
    return "\n".join(map(str, found))


def of_dstjax(source_room: str) -> list[Import]:
    return [
        i for i in imports() if package(i.source) == package(i.target) == "dstjax" and room(i.source) == source_room
    ]


def test_what_is_read():
    """The checks below must be able to fail."""
    text = (
        "import dstjax.masks as m\nfrom dstjax import methods, sparsify\ndef f():\n    from . import _arrays\nm._x, m.y"
    )
    found = {(i.target, i.name) for i in read(text, "dstjax.state")}
    assert found == {
        ("dstjax.masks", None),
        ("dstjax.methods", None),
        ("dstjax", "sparsify"),
        ("dstjax._arrays", None),
        ("dstjax.masks", "_x"),
    }
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
    assert {"dstjax", "dstjax._engine.update", "experiments.compare"} <= {*files()}


# --- Three rules ------------------------------------------------------------------------------------------------------


def test_arithmetic_imports_nothing_of_dstjax():
    wrong = [i for i in of_dstjax("_arrays") if room(i.target) != "_arrays"]
    assert not wrong, said(wrong)


def test_the_engine_imports_nothing_above_it():
    wrong = [i for i in of_dstjax("_engine") if room(i.target) in ABOVE_THE_ENGINE | {""}]
    assert not wrong, said(wrong)


def test_methods_are_made_of_public_parts():
    wrong = [i for i in of_dstjax("methods") if room(i.target) in ("_engine", "_arrays")]
    assert not wrong, said(wrong)


def test_experiments_and_notebooks_use_the_public_face():
    found = [i for i in imports() if package(i.source) == "experiments"]
    for path in sorted((ROOT / "colabs").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                # A line that begins with % or ! is IPython's.
                text = re.sub(r"^(\s*)[%!].*", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)
                found += read(text, path.name)
    private = [i for i in found if any(map(is_private, [*i.target.split("."), i.name or ""]))]
    wrong = [i for i in private if package(i.target) == "dstjax"]
    assert not wrong, said(wrong)


def test_dstjax_imports_jax_optax_and_numpy_alone():
    allowed = {"jax", "optax", "numpy", "dstjax", *sys.stdlib_module_names}
    for name, path in files().items():
        if package(name) != "dstjax":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [absolute(name, path.name == "__init__.py", node)]
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                assert name == "dstjax.exchange.host", name  # of `imported`, which says what to install
            assert {one.split(".")[0] for one in names} <= allowed, f"{name}, line {node.lineno}: {names}"


# --- No circle, few rooms, few floors ---------------------------------------------------------------------------------


def graph(of: str, node=lambda module: module) -> dict[str, set[str]]:
    """Who imports whom, without what a node imports of itself."""
    edges = {node(name): set() for name in files() if package(name) == of}
    for i in imports():
        if package(i.source) == package(i.target) == of and node(i.source) != node(i.target):
            edges[node(i.source)].add(node(i.target))
    return edges


def circle(edges: Mapping[str, set[str]]) -> list[str] | None:
    """A circle as the nodes along it, the first one again at its end; None where there is none."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        path.append(node)
        for other in sorted(edges.get(node, ())):
            found = visit(other)
            if found:
                return found
        done.add(path.pop())
        return None

    return next(filter(None, map(visit, sorted(edges))), None)


def floors(edges: Mapping[str, set[str]]) -> list[str]:
    """The longest chain of imports, from the top down."""

    @functools.cache
    def below(node):
        return [node, *max(map(below, sorted(edges[node])), key=len, default=[])]

    return max(map(below, sorted(edges)), key=len)


@pytest.mark.parametrize("of", PACKAGES)
def test_no_circle(of):
    found = circle(graph(of))
    assert not found, " -> ".join(found)


def rooms() -> dict[str, set[str]]:
    """The rooms of dstjax; its __init__ stands outside."""
    edges = graph("dstjax", room)
    edges.pop("")
    return edges


def test_no_circle_of_rooms():
    found = circle(rooms())
    assert not found, " -> ".join(found)


def test_few_rooms():
    assert len(rooms()) <= MAX_ROOMS, sorted(rooms())


def test_few_floors():
    edges = rooms()
    assert not circle(edges), "floors cannot be told where rooms form a circle"
    assert len(floors(edges)) <= MAX_FLOORS, " -> ".join(floors(edges))


@pytest.mark.parametrize("of", PACKAGES)
def test_what_is_private_stays_in_its_room(of):
    """A room itself may be private, which is what the rules above are about."""

    def within(i: Import) -> list[str]:
        return [*i.target.split(".")[2:], i.name or ""]

    wrong = [
        i
        for i in imports()
        if package(i.source) == package(i.target) == of
        and room(i.source) != room(i.target)
        and any(map(is_private, within(i)))
    ]
    assert not wrong, said(wrong)
