"""Parameters and masks on the host by path, and back into trees."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dstjax._arrays.bits import unpack
from dstjax._arrays.leaves import MaskedLeaves, named
from dstjax._arrays.trees import Tree, is_array, is_traced, places
from dstjax._engine.states import masks_of


class Weight(NamedTuple):
    """A leaf on the host."""

    values: np.ndarray
    mask: np.ndarray | None  # bool of the same shape; None where it is dense


def weights_of(params: Tree, opt_state_or_masks: Tree | None) -> dict[str, Weight]:
    """Returns the leaves of a tree of arrays by path.

    Raises:
      ValueError: a leaf is no array of numbers, or traced; a mask does not fit; a weight outside its mask is not zero.
    """
    leaves = named(params)
    for name, leaf in leaves.items():
        if not is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct) or is_traced(leaf):
            raise ValueError(
                f"leaf {name!r} is a {type(leaf).__name__}, which cannot be written; expected arrays of numbers, "
                "outside jit: leave out what is none, as with equinox.filter(model, equinox.is_array), and take keys "
                "as jax.random.key_data(key)."
            )
    _refuse_parts(leaves)
    flags: dict[str, np.ndarray] = {}
    if opt_state_or_masks is not None:
        stored = masks_of(opt_state_or_masks)
        masked = MaskedLeaves.of(stored)
        _refuse_parts(dict(zip(masked.masked, masked.read(stored), strict=True)))
        masks = [np.asarray(jax.device_get(unpack(mask))) for mask in masked.read(stored)]
        masked.find(params, "parameters", [mask.shape for mask in masks])
        flags = dict(zip(masked.masked, masks, strict=True))
    found = {n: Weight(np.asarray(x), flags.get(n)) for n, x in jax.device_get(leaves).items()}
    for name, (values, mask) in found.items():
        outside = 0 if mask is None else int(np.count_nonzero((values != 0) & ~mask))
        if outside:
            raise ValueError(
                f"leaf {name!r} has {outside} weights outside its mask that are not zero; expected sparse parameters: "
                "dstjax.forward_params(params, opt_state, training=False)."
            )
    return found


def _refuse_parts(leaves: Mapping[str, Any]) -> None:
    """Refuses arrays of which other processes have parts."""
    for name, x in leaves.items():
        if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
            raise ValueError(
                f"leaf {name!r} lies on devices of several processes, of which this one has a part; expected whole "
                "arrays, as jax.experimental.multihost_utils.process_allgather(tree, tiled=True) makes them. A "
                "checkpoint of orbax is written in parts."
            )


def trees_of(found: Mapping[str, Weight], like: Tree | None, what: str) -> tuple[Tree, Tree]:
    """Returns the parameters and the masks as trees.

    Args:
      found: the leaves by path.
      like: parameters of the wanted tree, or their shapes; None makes dictionaries of the paths.
      what: names the source in messages.

    Raises:
      ValueError: the leaves are not those of ``like``, or have other shapes or dtypes, or make no dictionaries.
    """
    if like is None:
        return _dictionaries({n: w.values for n, w in found.items()}), _dictionaries(
            {n: w.mask for n, w in found.items()}
        )
    wanted = {n: x for n, x in named(like).items() if is_array(x)}
    missing, unexpected = sorted({*wanted} - {*found}), sorted({*found} - {*wanted})
    if missing or unexpected:
        raise ValueError(f"{what} lacks {missing} of the tree that is expected, and has {unexpected} besides.")
    for name, x in wanted.items():
        check_like(name, found[name].values, x, what)
    every, treedef = places(like)
    params = [p.holding(found[p.name].values) if p.name in wanted else p.node for p in every]
    masks = [p.holding(m) if p.name in wanted and (m := found[p.name].mask) is not None else None for p in every]
    return treedef.unflatten(params), treedef.unflatten(masks)


def check_like(name: str, values: np.ndarray, like: Any, what: str) -> None:
    """Refuses an array of another shape or dtype than a leaf has."""
    if values.shape != tuple(like.shape) or values.dtype != like.dtype:
        raise ValueError(
            f"leaf {name!r} of {what} has shape {values.shape} and dtype {values.dtype}; expected "
            f"{tuple(like.shape)} and {like.dtype}, those of the tree that is expected."
        )


def imported(name: str, what: str) -> Any:
    """Returns a module that is no dependency of dstjax.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ValueError(f"{what} needs {package}, which is not installed; pip install {package}.") from None


def _dictionaries(leaves: Mapping[str, Any]) -> Tree:
    if [*leaves] == [""]:
        return leaves[""]
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if "//" in name:
            raise ValueError(f"path {name!r} has keys with slashes, which cannot be told from it; give like=.")
        *folders, last = name.split("/")
        folder = tree
        for key in folders:
            folder = folder.setdefault(key, {}) if isinstance(folder, dict) else folder
        if not isinstance(folder, dict) or last in folder:
            raise ValueError(f"path {name!r} goes through another leaf, so that no dictionaries hold it; give like=.")
        folder[last] = leaf
    return tree
