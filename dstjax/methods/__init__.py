"""The catalogue: every method is a short function that names its paper.

>>> names()
['dense', 'dst_ee', 'mest', 'rigl', 'rigl_itop', 'set', 'static']
>>> get("rigl", sparsity=0.9, update_period=100, end_step=1000).name
'rigl'
"""

import inspect
from collections.abc import Callable
from typing import Any

from dstjax._checks import suggest
from dstjax.method import Method
from dstjax.methods.dynamic import dst_ee, mest, rigl, rigl_itop, set
from dstjax.methods.static import dense, static

CATALOGUE: dict[str, Callable[..., Method]] = {
    method.__name__: method for method in (dense, static, set, rigl, rigl_itop, mest, dst_ee)
}

__all__ = [
    "CATALOGUE",
    "dense",
    "dst_ee",
    "get",
    "hyperparameters",
    "mest",
    "names",
    "rigl",
    "rigl_itop",
    "set",
    "static",
]


def names() -> list[str]:
    """The names of all methods."""
    return sorted(CATALOGUE)


def hyperparameters(name: str) -> dict[str, Any]:
    """The hyper-parameters of a method and their defaults; ``inspect.Parameter.empty`` where one is required.

    Raises:
      ValueError: there is no such method.
    """
    return {n: p.default for n, p in inspect.signature(_method(name)).parameters.items()}


def get(name: str, **hyperparameters: Any) -> Method:
    """The method of a name.

    Raises:
      ValueError: no such method, or a hyper-parameter that it does not have, is out of range or contradictory.
    """
    return _method(name)(**hyperparameters)


def _method(name: str) -> Callable[..., Method]:
    if name not in CATALOGUE:
        raise ValueError(f"method {name!r} is not known; {suggest(name, names())}")
    return CATALOGUE[name]
