"""What a run reads beside its config: fingerprints of the data, of tables, and of the source of rules of one's own."""

import ast
import hashlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from experiments.data import Data, Stream
from experiments.training.rules import Own
from experiments.training.sealed import file_digest

SAMPLES = 32  # of each split that are looked at of data that are read batch by batch
NOT_OURS = ("dstjax", "experiments")
TABLE = "the table of costs"
Inputs = dict[str, str]  # what it is -> fingerprint


class ChangedError(ValueError):
    """What a run reads is not what it was."""


def fingerprints(data: Data | Stream, seeds: list[int], rules: Mapping[str, Own | Path]) -> Inputs:
    """Fingerprints of all that a run reads.

    Args:
      data: of what is in memory every value counts, of what is read batch by batch the sizes and some samples.
      seeds: whose splits are looked at.
      rules: by the field that names them; and files, by what they are.
    """
    return {"data": _of_data(data, seeds), **of_rules(rules)}


def of_rules(rules: Mapping[str, Own | Path]) -> Inputs:
    """Fingerprints of rules of one's own, and of files, by what they are."""
    return {name: file_digest(rule) if isinstance(rule, Path) else of_rule(rule) for name, rule in rules.items()}


def check(now: Inputs, then: Inputs, what: str) -> None:
    """Refuses to go on with other inputs than before.

    Raises:
      ChangedError: they are others.
    """
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if changed:
        words = [
            name if name == TABLE else "the data" if name == "data" else f"the source of {name}" for name in changed
        ]
        raise ChangedError(
            f"{what} was trained with something else than what is there now: {' and '.join(words)} changed. Put it "
            "back as it was, or give another directory."
        )


def of_rule(rule: Own) -> str:
    """Of the source of a rule: the module that names it and that which defines it, and modules of their folders that
    these import or use.

    Comments and layout do not count. Of a rule without Python source its name counts.
    """
    function = rule.function
    defined = inspect.getmodule(function) or sys.modules.get(type(function).__module__)
    modules = {rule.named.partition(":")[0], "" if defined is None else defined.__name__}
    found = hashlib.sha256(rule.named.encode())
    for path in sorted(set().union(*map(_sources, modules))):
        found.update(ast.dump(ast.parse(path.read_bytes())).encode())
    return found.hexdigest()


def _sources(name: str) -> set[Path]:
    """The files of a module and of those that it uses, as far as they lie in the folder that it is imported from."""
    modules = {path: module for module in [*sys.modules.values()] if (path := _file(module)) is not None}
    first = _file(sys.modules.get(name))
    if first is None:
        return set()
    root = first.parents[name.count(".") + (first.name == "__init__.py")]
    found: set[Path] = set()
    waiting = [first]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_relative_to(root):
            continue
        found.add(path)
        waiting += _imported(path, root)
        if path in modules:  # modules that it came to without an import statement
            values = [*vars(modules[path]).values()]
            used = [v if isinstance(v, ModuleType) else sys.modules.get(_module_of(v)) for v in values]
            waiting += [file for module in used if (file := _file(module)) is not None]
    return found


def _imported(path: Path, root: Path) -> list[Path]:
    """The files below a folder that a file imports, at its beginning or where a function runs."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        base, names = root, []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else root
            names = [f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names]
        for parts in [name.split(".") for name in names]:
            if base == root and parts[0] in NOT_OURS:
                continue
            places = [base.joinpath(*parts[:n]) for n in range(len(parts) + 1)]
            found += [file for place in places[1:] if (file := place.with_name(f"{place.name}.py")).is_file()]
            found += [file for place in places if (file := place / "__init__.py").is_file()]
    return found


def _module_of(value: Any) -> str:
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else ""


def _file(module: ModuleType | None) -> Path | None:
    """The source of a module that is neither installed nor of this repository."""
    if not isinstance(module, ModuleType) or module.__name__.split(".")[0] in NOT_OURS:
        return None
    path = vars(module).get("__file__")  # some modules import others where they are asked for what they lack
    if not isinstance(path, str) or not path.endswith(".py") or "site-packages" in Path(path).parts:
        return None
    return Path(path).resolve()


def _of_data(data: Data | Stream, seeds: list[int]) -> str:
    found = hashlib.blake2b(digest_size=16)
    found.update(repr((data.classes, data.sizes)).encode())
    if isinstance(data, Data):
        arrays: Any = [data.x, data.y, [tuple(data.split(seed)) for seed in seeds]]
    else:
        parts = [data.train, data.validation, data.test]
        arrays = [[data.plain(part[i]) for i in _some(len(part))] for part in parts]
    for leaf in jax.tree.leaves(arrays):
        array = np.ascontiguousarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _some(size: int) -> list[int]:
    """Places spread evenly over so many."""
    return sorted({round(i) for i in np.linspace(0, size - 1, min(SAMPLES, size))})
