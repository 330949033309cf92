"""Counts over the pieces of sharded tensors, and cuts their axes."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dstjax._arrays.varying import varying_as

_LARGE = 2**22  # entries from which several cores count faster than one, although they are waited for
_ROWS = 4096  # at most; as many as divide the entries


@dataclasses.dataclass(frozen=True)
class Shards:
    """Holds a piece of each of some tensors, those of this device; or the whole tensors where there is no ``axes``."""

    shapes: tuple[tuple[int, ...], ...]  # of the whole tensors
    specs: tuple[Any, ...]  # jax.P of each tensor
    mesh: Any = None
    axes: tuple[str, ...] = ()  # mesh axes over which the pieces are spread by hand

    @property
    def sizes(self) -> tuple[int, ...]:
        """Returns the entries of the whole tensors."""
        return tuple(math.prod(shape) for shape in self.shapes)

    def total(self, counts: jax.Array) -> jax.Array:
        """Sums the counts [tests, tensors] of the pieces over all devices, in one all-reduce."""
        if not self.axes:
            return counts
        # Where several devices hold the same piece, the first of them counts it.
        first = [
            math.prod([lax.axis_index(a) == 0 for a in self.axes if a not in _names(spec)], start=jnp.ones((), bool))
            for spec in self.specs
        ]
        return lax.psum(jnp.where(jnp.stack(first)[None], counts, jnp.zeros((), counts.dtype)), self.axes)

    def varying_as(self, tree: Any, *arrays: jax.Array) -> Any:
        """Returns what loops begin with that end with totals of some arrays: totals are the same on every device."""
        return tree if self.axes else varying_as(tree, *arrays)

    def index(self, tensor: int, piece: jax.Array, one: Any = 1) -> jax.Array:
        """Returns the row-major index in the whole tensor of each entry of its piece, uint32; times ``one``, uint32[].

        Where the piece is the whole tensor it may come as a vector.
        """
        shape, spec = self.shapes[tensor] if self.axes else piece.shape, tuple(self.specs[tensor])
        sharding = None if self.axes else jax.typeof(piece).sharding
        index = jnp.zeros((), jnp.uint32)
        for axis in (a for a in range(piece.ndim) if shape[a] > 1):
            at = lax.broadcasted_iota(jnp.uint32, piece.shape, axis, out_sharding=sharding)
            if self.axes and axis < len(spec) and spec[axis] is not None:
                at = at + lax.axis_index(spec[axis]).astype(jnp.uint32) * jnp.uint32(piece.shape[axis])
            index = index + at * (jnp.uint32(math.prod(shape[axis + 1 :])) * one)
        return index


def over_pieces(
    function: Callable[..., Any],
    tensors: Sequence[jax.Array],
    others: Sequence[jax.Array | None],
    small: Any,
    *,
    whole: bool = False,
) -> Any:
    """Calls ``function(pieces, tensors, others, small)`` on the pieces of each device, so that it counts itself.

    On a mesh of Explicit axes the types have the shardings, and a ``shard_map`` takes the place of the compiler's
    partitioning, which needs a collective for every count. Elsewhere the function sees the whole tensors.

    Args:
      function: returns one tensor for each of ``tensors``, sharded like it; or, if ``whole``, arrays that are the same
        on every device.
      tensors: arrays that may be sharded.
      others: for each tensor another array of its shape, or None.
      small: a tree of arrays that every device needs whole.
      whole: see ``function``.
    """
    shapes = tuple(x.shape for x in tensors)
    shardings = [jax.typeof(x).sharding for x in tensors]
    mesh = shardings[0].mesh
    axes = tuple(getattr(mesh, "explicit_axes", ()))
    if not any(_names(s.spec) for s in shardings) or not axes:
        return function(Shards(shapes, tuple(jax.P() for _ in tensors)), tensors, others, small)
    specs = tuple(s.spec for s in shardings)
    pieces = Shards(shapes, specs, mesh, axes)
    mapped = jax.shard_map(
        lambda *args: function(pieces, *args),
        mesh=mesh,
        in_specs=(list(specs), [None if o is None else s for o, s in zip(others, specs, strict=True)], jax.P()),
        out_specs=jax.P() if whole else list(specs),
        axis_names=set(axes),
    )
    return mapped(list(tensors), list(others), small)


def line(x: jax.Array) -> jax.Array:
    """Returns a tensor as a vector, so that tensors of one size share their programs; as it is if an axis may be cut.

    A large one becomes rows, which several cores can count.
    """
    if may_be_cut(x):
        return x
    rows = math.gcd(x.size, _ROWS) if x.size >= _LARGE else 1
    return x.reshape(rows, -1) if rows > 1 else x.reshape(-1)


def is_rows(x: jax.Array) -> bool:
    """Whether a tensor lies in one piece as rows, and is large enough for several cores."""
    return x.ndim == 2 and x.size >= _LARGE and not may_be_cut(x)


def may_be_cut(x: jax.Array) -> bool:
    """Whether an array may lie on several devices.

    Its type names its mesh, or the context does. Where neither has one a jit may still cut the array, by
    ``in_shardings`` that no type shows; then only a single device is certain.
    """
    meshes = (jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh())
    sizes = [math.prod(mesh.shape.values()) for mesh in meshes if not mesh.empty]
    return (sizes[0] if sizes else jax.device_count()) > 1


def split_axis(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Cuts an axis into two, of groups and of ``size`` entries each.

    Raises:
      ValueError: on a mesh of Explicit axes a group would lie on two devices.
    """
    shape = (*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])
    spec = mesh_axes(x)
    if spec is None:
        return x.reshape(shape)
    mesh, names = jax.typeof(x).sharding.mesh, spec[axis]
    devices = math.prod(mesh.shape[n] for n in ((names,) if isinstance(names, str) else names or ()))
    if shape[axis] % devices:
        raise ValueError(
            f"an axis of {x.shape[axis]} weights lies in {devices} pieces of {x.shape[axis] // devices}, which groups "
            f"of {size} do not fit; expected pieces of a multiple of {size}: shard another axis, or use Auto axes."
        )
    return x.reshape(shape, out_sharding=jax.P(*spec[: axis + 1], None, *spec[axis + 1 :]))


def join_axes(x: jax.Array, axis: int) -> jax.Array:
    """Undoes :func:`split_axis`."""
    shape = (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
    spec = mesh_axes(x)
    return x.reshape(shape, out_sharding=None if spec is None else jax.P(*spec[: axis + 1], *spec[axis + 2 :]))


def mesh_axes(x: jax.Array) -> Any:
    """Returns the mesh axes of every axis of an array, None where types do not say."""
    sharding = jax.typeof(x).sharding
    if not getattr(sharding.mesh, "explicit_axes", ()):
        return None
    return (*sharding.spec, *(None,) * (x.ndim - len(sharding.spec)))


def _names(spec: Any) -> set[str]:
    """Returns the mesh axes that a spec names."""
    names: set[str] = set()
    for entry in spec:
        names.update(() if entry is None else entry if isinstance(entry, tuple) else (entry,))
    return names
