"""The catalogue: every method is a short function that names its paper.

>>> "dst_ee" in names()
True
>>> get("rigl", sparsity=0.9, update_period=100, end_step=1000).name
'rigl'
"""

import builtins
import inspect
from collections.abc import Callable
from typing import Any

from dstjax.checks import suggest
from dstjax.method import Method
from dstjax.methods.adaptive import accset, dynset, lset
from dstjax.methods.admm import admm
from dstjax.methods.deep_rewiring import deepr, soft_deepr
from dstjax.methods.dense_to_sparse import gap, gmp, granet, one_shot, sis
from dstjax.methods.dynamic import dst_ee, mest, rigl, rigl_itop, set
from dstjax.methods.iee import iee
from dstjax.methods.redistributing import dsr, snfs
from dstjax.methods.references import reference
from dstjax.methods.shadow import dcil, dpf, str_, top_kast
from dstjax.methods.static import dense, force, grasp, iterative_snip, magnitude, snip, static, synflow
from dstjax.methods.structured import asp, sr_ste, srigl, ste

CATALOGUE: dict[builtins.str, Callable[..., Method]] = {
    method.__name__: method
    for method in (
        *(dense, static, magnitude, snip, grasp, synflow, iterative_snip, force),
        *(gmp, one_shot, str_, sis, granet, gap, dpf, dcil, admm),
        *(set, rigl, rigl_itop, mest, dst_ee, snfs, dsr, deepr, soft_deepr, top_kast),
        *(accset, lset, dynset, iee, asp, ste, sr_ste, srigl),
    )
}

__all__ = [
    "CATALOGUE",
    "accset",
    "admm",
    "asp",
    "dcil",
    "deepr",
    "dense",
    "dpf",
    "dsr",
    "dst_ee",
    "dynset",
    "force",
    "gap",
    "get",
    "gmp",
    "granet",
    "grasp",
    "hyperparameters",
    "iee",
    "iterative_snip",
    "lset",
    "magnitude",
    "mest",
    "names",
    "one_shot",
    "reference",
    "rigl",
    "rigl_itop",
    "set",
    "sis",
    "snfs",
    "snip",
    "soft_deepr",
    "sr_ste",
    "srigl",
    "static",
    "ste",
    "synflow",
    "top_kast",
]


def names() -> list[builtins.str]:
    """The names of all methods."""
    return sorted(CATALOGUE)


def hyperparameters(name: builtins.str) -> dict[builtins.str, Any]:
    """The hyper-parameters of a method and their defaults; ``inspect.Parameter.empty`` where one is required.

    Raises:
      ValueError: there is no such method.
    """
    return {n: p.default for n, p in inspect.signature(_method(name)).parameters.items()}


def get(name: builtins.str, **hyperparameters: Any) -> Method:
    """The method of a name.

    Raises:
      ValueError: no such method, or a hyper-parameter that it does not have, is out of range or contradictory.
    """
    return _method(name)(**hyperparameters)


def _method(name: builtins.str) -> Callable[..., Method]:
    if name not in CATALOGUE:
        raise ValueError(f"method {name!r} is not known; {suggest(name, names())}")
    return CATALOGUE[name]


def __getattr__(name: builtins.str) -> Any:
    """``dstjax.methods.str``: a global of this name would hide the type in this module."""
    if name == "str":
        return str_
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
