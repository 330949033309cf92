"""Counts over the pieces of sharded tensors, and cuts their axes."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays.varying import varying_as

_UNNAMED: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


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

    def total(self, counts: jax.Array, lanes: Sequence[int]) -> jax.Array:
        """Sums the counts [tests, lanes] of the pieces over all devices in one all-reduce."""
        if not self.axes:
            return counts
        # Where several devices hold the same piece, the first of them counts it.
        first = [
            math.prod([lax.axis_index(a) == 0 for a in self.axes if a not in _names(spec)], start=jnp.ones((), bool))
            for spec in self.specs
        ]
        counted = jnp.repeat(jnp.stack(first), np.array(lanes), total_repeat_length=sum(lanes))
        return lax.psum(jnp.where(counted[None], counts, jnp.zeros((), counts.dtype)), self.axes)

    def of_lanes(self, tensor: int, numbers: jax.Array, stack: tuple[int, ...], ndim: int) -> jax.Array:
        """Returns numbers of all lanes of a tensor in a form that its piece can be compared with."""
        found = numbers.reshape([self.shapes[tensor][a] for a in stack])
        if self.axes:
            sizes, starts = self._piece(tensor, stack)
            found = lax.dynamic_slice(found, starts, sizes)
        ordered = found.transpose(np.argsort(stack))
        shape = [1] * ndim
        for axis, size in zip(sorted(stack), ordered.shape, strict=True):
            shape[axis] = size
        return ordered.reshape(shape)

    def all_lanes(self, tensor: int, counts: jax.Array, stack: tuple[int, ...]) -> jax.Array:
        """Returns counts of the lanes of a piece among those of the whole tensor, zero at the others, as a vector.

        Args:
          tensor: which one.
          counts: an array with the stack axes alone, as they are stored.
          stack: the stack axes in the order that numbers the lanes.
        """
        found = counts.transpose([sorted(stack).index(a) for a in stack])
        if self.axes:
            _, starts = self._piece(tensor, stack)
            whole = jnp.zeros([self.shapes[tensor][a] for a in stack], counts.dtype)
            found = lax.dynamic_update_slice(self._everywhere(whole), found, starts)
        return found.reshape(-1)

    def _piece(self, tensor: int, stack: tuple[int, ...]) -> tuple[list[int], list[Any]]:
        """Returns the sizes of the stack axes of a piece, and where it begins."""
        spec = (*self.specs[tensor], *[None] * len(self.shapes[tensor]))
        cut = [_entries(spec[a]) for a in stack]
        sizes = [
            self.shapes[tensor][a] // math.prod(self.mesh.shape[n] for n in names)
            for a, names in zip(stack, cut, strict=True)
        ]
        starts = [lax.axis_index(names) * size if names else 0 for names, size in zip(cut, sizes, strict=True)]
        return sizes, [jnp.asarray(s, jnp.int32) for s in starts]

    def _everywhere(self, x: jax.Array) -> jax.Array:
        return lax.pcast(x, self.axes, to="varying")

    def varying_as(self, tree: Any, *arrays: Any) -> Any:
        """Returns what loops begin with that end with totals of some arrays: totals are the same on every device."""
        return tree if self.axes else varying_as(tree, *arrays)

    def index(
        self,
        tensor: int,
        piece: jax.Array,
        stack: tuple[int, ...] = (),
        order: tuple[int, ...] | None = None,
        one: Any = 1,
    ) -> jax.Array:
        """Returns the place of each entry of a piece in its lane of the whole tensor, uint32; times ``one``, uint32[].

        Args:
          tensor: which one.
          piece: its piece; where that is the whole tensor it may come as a vector, or as a matrix of lanes.
          stack: the axes of the piece that number the lanes.
          order: the other axes from the slowest to the fastest; by default row-major.
          one: see above.
        """
        shape, spec = self.shapes[tensor] if self.axes else piece.shape, tuple(self.specs[tensor])
        sharding = None if self.axes else jax.typeof(piece).sharding
        index, stride = jnp.zeros((), jnp.uint32), 1
        for axis in reversed([a for a in range(piece.ndim) if a not in stack] if order is None else order):
            if shape[axis] > 1:
                at = lax.broadcasted_iota(jnp.uint32, piece.shape, axis, out_sharding=sharding)
                if self.axes and axis < len(spec) and spec[axis] is not None:
                    at = at + lax.axis_index(spec[axis]).astype(jnp.uint32) * jnp.uint32(piece.shape[axis])
                index = index + at * (jnp.uint32(stride) * one)
            stride *= shape[axis]
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


def may_be_cut(x: Any) -> bool:
    """Whether an array, or one of such a sharding (None: not known), may lie on several devices.

    Its type names its mesh, or the context does. Where neither has one a jit may still cut the array, by
    ``in_shardings`` that no type shows; then only a single device is certain.
    """
    sharding: Any = x if x is None or isinstance(x, jax.sharding.Sharding) else jax.typeof(x).sharding
    meshes = (*([] if sharding is None else [sharding.mesh]), jax.sharding.get_abstract_mesh())
    sizes = [math.prod(mesh.shape.values()) for mesh in meshes if not mesh.empty]
    return (sizes[0] if sizes else jax.device_count()) > 1


def pieces_of(x: jax.Array) -> int:
    """Returns into how many pieces an array is cut, as far as its type says."""
    spec = mesh_axes(x) or ()
    sizes = jax.typeof(x).sharding.mesh.shape
    return math.prod(sizes[name] for entry in spec for name in _entries(entry))


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
    return x.reshape(shape, out_sharding=_by(x, *spec[: axis + 1], None, *spec[axis + 1 :]))


def join_axes(x: jax.Array, axis: int) -> jax.Array:
    """Undoes :func:`split_axis`."""
    shape = (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
    spec = mesh_axes(x)
    return x.reshape(shape, out_sharding=None if spec is None else _by(x, *spec[: axis + 1], *spec[axis + 2 :]))


def gathered(x: jax.Array) -> jax.Array:
    """Returns an array of a mesh of Explicit axes whole on every device; another one as it is."""
    return x if mesh_axes(x) is None else jax.sharding.reshard(x, _by(x))


def mesh_of(arrays: Iterable[Any]) -> contextlib.AbstractContextManager[Any]:
    """Names the mesh of Explicit axes on which traced arrays lie, if no context does.

    Without a name jax, from 0.12 on, gives zeros like such an array none of its sharding.
    """
    if jax.sharding.get_abstract_mesh().empty:
        for x in arrays:
            if isinstance(x, jax.core.Tracer) and mesh_axes(x) is not None:
                is_staged = isinstance(jnp.zeros(()), jax.core.Tracer)  # not so under vmap or grad alone
                return jax.sharding.use_abstract_mesh(jax.typeof(x).sharding.mesh) if is_staged else _UNNAMED
    return _UNNAMED


def on_host(x: Any) -> np.ndarray:
    """Returns an array as NumPy's, whole, though other processes may have parts of it."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        everywhere = jax.NamedSharding(x.sharding.mesh, jax.P())  # type: ignore[attr-defined]  # only a mesh spans processes
        x = jax.jit(lambda y: y, out_shardings=everywhere)(x)
    return np.asarray(x)


def mesh_axes(x: jax.Array) -> Any:
    """Returns the mesh axes of every axis of an array, None where types do not say."""
    sharding = jax.typeof(x).sharding
    if not getattr(sharding.mesh, "explicit_axes", ()):
        return None
    return (*sharding.spec, *(None,) * (x.ndim - len(sharding.spec)))


def _by(x: jax.Array, *spec: Any) -> Any:
    """Returns a sharding over the mesh of an array; a spec alone would need a mesh in the context."""
    return jax.typeof(x).sharding.update(spec=jax.P(*spec))


def _names(spec: Any) -> set[str]:
    """Returns the mesh axes that a spec names."""
    return {name for entry in spec for name in _entries(entry)}


def _entries(entry: Any) -> tuple[str, ...]:
    """Returns the mesh axes that cut one axis."""
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)
