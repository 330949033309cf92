"""Lists all methods: each is a short function that names its paper.

A method is added in the file that it stands in, by :func:`catalogued` and its name in ``__all__`` there.

>>> "dst_ee" in names()
True
>>> get("rigl", sparsity=0.9, update_period=100, end_step=1000).name
'rigl'
>>> about("dst_ee").family
'sparse to sparse'
"""

import builtins
import inspect
from typing import Any

from dstjax.checks import suggest
from dstjax.method import Method
from dstjax.methods.adaptive import *  # noqa: F403
from dstjax.methods.admm import *  # noqa: F403
from dstjax.methods.averaging import *  # noqa: F403
from dstjax.methods.catalogue import CHANNELS as CHANNELS
from dstjax.methods.catalogue import FAMILIES as FAMILIES
from dstjax.methods.catalogue import About as About
from dstjax.methods.catalogue import Entry as Entry
from dstjax.methods.catalogue import catalogued as catalogued
from dstjax.methods.channels import *  # noqa: F403
from dstjax.methods.deep_rewiring import *  # noqa: F403
from dstjax.methods.dense_to_sparse import *  # noqa: F403
from dstjax.methods.dynamic import *  # noqa: F403
from dstjax.methods.iee import *  # noqa: F403
from dstjax.methods.redistributing import *  # noqa: F403
from dstjax.methods.shadow import *  # noqa: F403
from dstjax.methods.soft_threshold import *  # noqa: F403
from dstjax.methods.static import *  # noqa: F403
from dstjax.methods.structured import *  # noqa: F403

CATALOGUE: dict[builtins.str, Entry] = {
    entry.about.name: entry for entry in [*globals().values()] if isinstance(getattr(entry, "about", None), About)
}


def names(*, channels: bool = False) -> list[builtins.str]:
    """Returns the names of the methods that run on any parameters; with ``channels`` those too that need a network's.

    >>> {*names(channels=True)} - {*names()} == {"halp", "iee_structured"}
    True
    """
    return sorted(name for name, entry in CATALOGUE.items() if channels or CHANNELS not in about(entry).needs)


def about(method: builtins.str | Entry) -> About:
    """Returns what the catalogue knows of a method, or of an entry of your own: family, label, papers, cost and needs.

    Raises:
      ValueError: there is no such method, or the function is no entry (:func:`catalogued` makes it one).
    """
    found = getattr(_method(method) if isinstance(method, builtins.str) else method, "about", None)
    if not isinstance(found, About):
        raise ValueError(f"{method!r} is no entry of a catalogue; decorate it with dstjax.methods.catalogued(...).")
    return found


def reference(method: builtins.str | Entry) -> builtins.str:
    """Returns the BibTeX entry of the paper of a method; several, with a blank line between, where it has more.

    Raises:
      ValueError: there is no such method.

    >>> print(reference("dst_ee").splitlines()[0])
    @inproceedings{huang2023,
    """
    return about(method).reference()


def hyperparameters(name: builtins.str) -> dict[builtins.str, Any]:
    """Returns the hyper-parameters of a method and their defaults; ``inspect.Parameter.empty`` where one is required.

    Raises:
      ValueError: there is no such method.
    """
    return {n: p.default for n, p in inspect.signature(_method(name)).parameters.items()}


def get(name: builtins.str, **hyperparameters: Any) -> Method:
    """Returns the method of a name.

    Raises:
      ValueError: no such method, or a hyper-parameter that it does not have, is out of range or contradictory.
    """
    return _method(name)(**hyperparameters)


def _method(name: builtins.str) -> Entry:
    if not isinstance(name, builtins.str) or name not in CATALOGUE:
        raise ValueError(f"method {name!r} is not known; {suggest(name, names(channels=True))}")
    return CATALOGUE[name]


def __getattr__(name: builtins.str) -> Any:
    """Returns ``dstjax.methods.str``: a global of this name would hide the type in this module."""
    if name == "str":
        return CATALOGUE["str"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
