"""The fields that every config of an experiment has: one for each hyper-parameter of each method."""

import functools
import inspect
from typing import Any

from ml_collections import ConfigDict, config_dict

import dstjax

# Of those whose default says nothing.
TYPES: dict[str, type] = {
    "sparsity": float,
    "epsilon": float,
    "coefficient": float,
    "end_step": int,
    "prune_step": int,
    "prune_end_step": int,
    "partitions": int,
    "stages": tuple,
    "maskable": str,  # a regular expression: of the leaves that could be masked, those whose path it fits are
    "structure": str,  # such as 'n_m(2, 4)', from dstjax.structures
}
NOT_HERE = ("counters",)  # what follows from others


def hyperparameters() -> ConfigDict:
    """A config with a field for each hyper-parameter, all None: the matter is left to the method."""
    config = ConfigDict()
    for name, kind in _kinds().items():
        config[name] = config_dict.placeholder(kind)
    return config


@functools.cache
def _kinds() -> dict[str, type]:
    """The type of each hyper-parameter: that of the default of the first method that has it."""
    found: dict[str, type] = {}
    for method in dstjax.methods.names(channels=True):
        for name, default in dstjax.methods.hyperparameters(method).items():
            if name not in NOT_HERE:
                found.setdefault(name, TYPES.get(name) or _kind(default))
    return found


def _kind(default: Any) -> type:
    return object if default is None or default is inspect.Parameter.empty else type(default)
