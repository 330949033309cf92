"""Saves parameters and state, and restores them into what a new process would make."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from tests.fuzz.invariants import is_key


def _plain(tree: Any) -> Any:
    """The tree with the data of random keys in their place."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def _like(target: Any, tree: Any) -> Any:
    """The tree with arrays on the device, and random keys where the target has them."""

    def one(wanted: Any, x: Any) -> Any:
        if jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(x))
        return jnp.asarray(x)

    return jax.tree.map(one, target, tree)


def saved(kind: str, tree: Any) -> Any:
    """The tree in some form of a file."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(_plain(tree))]
    if kind == "msgpack":
        return flax.serialization.to_bytes(_plain(tree))
    if kind in ("pickle", "shapes"):
        return pickle.dumps(leaves)
    if kind == "npz":
        return [(x.shape, x.dtype.name, x.tobytes()) for x in leaves]
    folder = tempfile.TemporaryDirectory()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder.name) / "saved", _plain(tree))
    return folder


def restored(kind: str, file: Any, tx: Any, params: Any) -> Any:
    """Parameters and state of a file, in the form of those of a new optimiser."""
    make = lambda p: (p, tx.init(p))  # noqa: E731
    target = jax.eval_shape(make, params) if kind == "shapes" else make(params)
    treedef = jax.tree.structure(target)
    if kind == "msgpack":
        return _like(target, flax.serialization.from_bytes(_plain(target), file))
    if kind in ("pickle", "shapes"):
        return _like(target, treedef.unflatten(pickle.loads(file)))
    if kind == "npz":
        leaves = [np.frombuffer(data, jnp.dtype(name)).reshape(shape) for shape, name, data in file]
        return _like(target, treedef.unflatten(leaves))
    with file, ocp.StandardCheckpointer() as checkpointer:
        return _like(target, checkpointer.restore(Path(file.name) / "saved", _plain(target)))
