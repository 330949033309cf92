"""Parameters that are spread over many devices, and the shapes and shardings of their sparse state."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.models.shapes import path_name

# layout -> mesh axes that split the rows, and the columns
LAYOUTS: dict[str, tuple[Any, Any]] = {
    "row": (("x", "y"), None),
    "column": (None, ("x", "y")),
    "2-d": ("x", "y"),
    "replicated": (None, None),
}
MESHES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def mesh(devices: int, kind: str, of: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of two axes, x and y, as square as powers of two allow; of the devices of the process, or of others.

    Raises:
      ValueError: ``devices`` is not a power of two.
    """
    if devices < 1 or devices & (devices - 1):
        raise ValueError(f"devices={devices} is not accepted; expected a power of two.")
    y = 1 << (devices.bit_length() - 1) // 2
    return jax.make_mesh((devices // y, y), ("x", "y"), axis_types=(MESHES[kind],) * 2, devices=of)


def spec(layout: str, ndim: int) -> P:
    """The layout of the last two axes; the others are never split, and vectors neither."""
    if ndim < 2:
        return P()
    return P(*[None] * (ndim - 2), *LAYOUTS[layout])


def placed(on: Mesh, tree: Any, layout: str) -> Any:
    """The shapes of a tree with their shardings."""

    def one(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(on, spec(layout, len(x.shape))))

    return jax.tree_util.tree_map(one, tree)


def state_like(tx: optax.GradientTransformation, params: Any) -> Any:
    """Shapes and shardings of the state of an optimiser: what belongs to a parameter is split as it is.

    Args:
      tx: a transformation, of ``sparsify`` or any other.
      params: shapes with shardings, in a flat dictionary.
    """
    shardings = {path_name(path): x.sharding for path, x in jax.tree_util.tree_flatten_with_path(params)[0]}
    on = next(iter(shardings.values())).mesh

    def one(path: Any, x: Any) -> Any:
        name = next((n for n in shardings if x.ndim and f"/{path_name(path)}".endswith(f"/{n}")), None)
        sharding = NamedSharding(on, P()) if name is None else shardings[name]
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    with jax.set_mesh(on):
        return jax.tree_util.tree_map_with_path(one, jax.eval_shape(tx.init, params))
