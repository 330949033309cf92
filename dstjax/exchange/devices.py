"""Parameters and states on other devices than those that they were made on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.bits import pack_like, shape, unpack
from dstjax._arrays.keys import placed_like
from dstjax._arrays.trees import Tree, is_array

_STORED = ("bool", "uint8", "int8")


def place_like(tree: Tree, like: Tree) -> Tree:
    """Returns a tree with each array on the devices of another, and each stored mask in its form.

    A state holds its masks in bits along one axis or another, or in bytes where a device's piece of an axis is no
    multiple of eight. So the shapes in a checkpoint of one device may not be those of a fresh start on four. Restore it
    with the shapes of before, and then place it.

    Args:
      tree: parameters, a state, or both, such as a checkpoint of other devices held.
      like: the same from a fresh start (:func:`dstjax.start`) on the new devices, all of this process.

    Raises:
      ValueError: the trees differ, or the shape or dtype of a leaf does; or a leaf of ``like`` is on no device.
    """
    one, other = (str(jax.tree_util.tree_structure(x)) for x in (tree, like))
    if one != other:
        raise ValueError(f"the tree {one} is not {other}; expected a state of the same optimiser and parameters.")
    return jax.tree_util.tree_map_with_path(lambda path, x, y: _placed(jax.tree_util.keystr(path), x, y), tree, like)


def _placed(name: str, x: Any, like: Any) -> Any:
    if not is_array(x) and not is_array(like):
        return x
    if (
        not isinstance(like, jax.Array)
        or isinstance(like, jax.core.Tracer)
        or not isinstance(x, jax.Array | np.ndarray)
    ):
        raise ValueError(
            f"leaf {name} is a {type(x).__name__}, and a {type(like).__name__} in like; expected arrays on devices, as "
            "dstjax.start gives them."
        )
    if (x.shape, x.dtype) != (like.shape, like.dtype):
        if not _same_mask(x, like):
            raise ValueError(
                f"leaf {name} has shape {x.shape} and dtype {x.dtype}; expected {like.shape} and {like.dtype}."
            )
        x = pack_like(
            jnp.asarray(np.asarray(unpack(jnp.asarray(x)))), like.dtype
        )  # on one device: bytes may lie over two pieces
    if like.committed or jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return placed_like(x, like)
    return jnp.asarray(np.asarray(x))  # on no device in particular


def _same_mask(x: Any, like: Any) -> bool:
    """Whether both are stored masks of one shape."""
    if not {str(x.dtype), str(like.dtype)} <= {*_STORED}:
        return False
    return shape(x) == shape(like)
