"""What a run reads beside its config: fingerprints of the data, of tables, and of the source of rules of one's own."""

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from experiments.data import Data, Stream
from experiments.training.sealed import file_digest

SAMPLES = 32  # of each split that are looked at of data that are read batch by batch
NOT_OURS = ("dstjax", "experiments")
TABLE = "the table of costs"
Inputs = dict[str, str]  # what it is -> fingerprint


class ChangedError(ValueError):
    """What a run reads is not what it was."""


def fingerprints(data: Data | Stream, seeds: list[int], rules: Mapping[str, Callable[..., Any] | Path]) -> Inputs:
    """Fingerprints of all that a run reads.

    Args:
      data: of what is in memory every value counts, of what is read batch by batch the sizes and some samples.
      seeds: whose splits are looked at.
      rules: by the field that names them; and files, by what they are.
    """
    return {"data": _of_data(data, seeds), **of_rules(rules)}


def of_rules(rules: Mapping[str, Callable[..., Any] | Path]) -> Inputs:
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


def of_rule(rule: Callable[..., Any]) -> str:
    """Of the source of a rule: its module, and modules from the same folder that this one uses.

    Comments and layout do not count. Of a rule without Python source its name counts.
    """
    module = inspect.getmodule(rule) or sys.modules.get(type(rule).__module__)
    name = f"{getattr(module, '__name__', '')}:{getattr(rule, '__qualname__', type(rule).__qualname__)}"
    found = hashlib.sha256(name.encode())
    for path in sorted(_sources(module)):
        found.update(ast.dump(ast.parse(path.read_bytes())).encode())
    return found.hexdigest()


def _sources(module: ModuleType | None) -> set[Path]:
    """The files of a module and of those that it uses, as far as they lie in its folder."""
    first = _file(module)
    if module is None or first is None:
        return set()
    found, waiting = {first}, [module]
    while waiting:
        for value in list(vars(waiting.pop()).values()):
            used = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
            path = _file(used)
            if used and path and path not in found and path.is_relative_to(first.parent):
                found.add(path)
                waiting.append(used)
    return found


def _file(module: ModuleType | None) -> Path | None:
    """The source of a module that is neither installed nor of this repository."""
    if module is None or module.__name__.split(".")[0] in NOT_OURS:
        return None
    path = getattr(module, "__file__", None)
    if not path or not path.endswith(".py") or "site-packages" in Path(path).parts:
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
