"""Single weights, and what every structure is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from dstjax._arrays import wide
from dstjax._arrays.keys import placed_like
from dstjax._arrays.layout import Layout, assumed
from dstjax._arrays.shards import mesh_axes
from dstjax._arrays.wide import Wide
from dstjax.selection import count_true, top_k_masks

Array = jax.Array
Arrays = list[jax.Array]
Scores = Callable[[], Arrays]
Kept = tuple[Arrays, Arrays]  # what stays, and where something may be grown
Shapes = Mapping[str, tuple[int, ...]]
Layouts = tuple[Layout | None, ...] | None
Stored = Mapping[str, tuple[Layout | None, tuple[int, ...]]]  # of each layer: the layout and shape of its leaf


class Structure(Protocol):
    """Turns scores into masks; see :mod:`dstjax.structures`."""

    exact: ClassVar[bool]  # dropping leaves as many as asked for in each layer
    refills: ClassVar[bool]  # growth makes good what earlier updates could not place
    keeps_counts: ClassVar[bool]  # each layer has the number of the method after every update
    ranks_together: ClassVar[bool]  # all leaves may share one ranking
    reads_layout: ClassVar[bool]  # it must know what the axes mean

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns the numbers of active weights that the structure can have."""
        ...

    def best(self, scores: Sequence[jax.Array], counts: Any, layouts: Layouts = None) -> Arrays:
        """Returns the masks of the highest scores."""
        ...

    def drop(
        self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array, layouts: Layouts = None
    ) -> Kept:
        """Returns the masks of what stays, and of where something may be grown."""
        ...

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array, layouts: Layouts = None) -> Arrays:
        """Returns the masks of what is grown."""
        ...


@dataclasses.dataclass(frozen=True)
class Weight:
    """Switches every weight by itself."""

    exact: ClassVar[bool] = True
    refills: ClassVar[bool] = False
    keeps_counts: ClassVar[bool] = True
    ranks_together: ClassVar[bool] = True
    reads_layout: ClassVar[bool] = False

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns the counts: all numbers are possible."""
        del shapes
        return dict(counts)

    def best(self, scores: Sequence[jax.Array], counts: Any, layouts: Layouts = None) -> Arrays:
        """Marks the best of each layer, as many as its count."""
        return top_k_masks(scores, numbers(counts), layouts=layouts)

    def holds(self, masks: Arrays, prunes: bool = False, layouts: Layouts = None) -> Arrays:
        """Returns of each leaf whether its mask is one of this structure, bool[].

        Args:
          masks: boolean masks.
          prunes: whether :meth:`drop` brings them to the structure later, so that it suffices if it can.
          layouts: as in the other functions.
        """
        del prunes, layouts
        return [jnp.ones((), bool) for _ in masks]

    def drop(
        self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array, layouts: Layouts = None
    ) -> Kept:
        """Keeps the best of each layer; a common ranking also keeps the best one of every layer."""
        del salient, target
        if not isinstance(keep, Wide) and jnp.ndim(keep):
            kept = top_k_masks(scores, keep, where=masks, layouts=layouts)
        else:
            best = top_k_masks(scores, [1] * len(scores), where=masks, layouts=layouts)
            others = [m & ~b for m, b in zip(masks, best, strict=True)]
            first = count_true(best)
            left = wide.minus(keep, wide.total(first)) if isinstance(keep, Wide) else keep - jnp.sum(first)
            rest = top_k_masks(scores, [left], where=others, together=True, layouts=layouts)
            kept = [b | k for b, k in zip(best, rest, strict=True)]
        return kept, [~k for k in kept]

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array, layouts: Layouts = None) -> Arrays:
        """Grows the best of each layer; a common ranking also grows the best one of every layer that has none."""
        if not isinstance(n, Wide) and jnp.ndim(n):
            return top_k_masks(scores, n, where=room, layouts=layouts)
        some = wide.narrow(n) > 0 if isinstance(n, Wide) else n > 0
        empty = ((count_true(kept, layouts) == 0) & some).astype(jnp.int32)
        first = top_k_masks(scores, empty, where=room, layouts=layouts)
        others = [r & ~f for r, f in zip(room, first, strict=True)]
        left = wide.minus(n, wide.total(empty)) if isinstance(n, Wide) else n - jnp.sum(empty, dtype=jnp.int32)
        rest = top_k_masks(scores, [left], where=others, together=True, layouts=layouts)
        return [f | r for f, r in zip(first, rest, strict=True)]


def is_best(structure: Structure, masks: Arrays, layouts: Layouts) -> Arrays:
    """Returns of each leaf whether the best by its own mask, as many as it has, are the mask."""
    counts = count_true(masks, None if layouts is None else tuple(layouts))
    best = structure.best([m.astype(jnp.float32) for m in masks], counts, layouts)
    return [jnp.all(m == b) for m, b in zip(masks, best, strict=True)]


def numbers(counts: Any) -> jax.Array:
    """Returns counts of all layers as one vector."""
    return jnp.stack([jnp.asarray(n) for n in counts]) if isinstance(counts, list | tuple) else counts


def stored_as(path: str, shapes: Shapes, stored: Stored | None) -> tuple[Layout, tuple[int, ...]]:
    """Returns the layout and the shape of the leaf that holds a layer; those of the layer where they are not known."""
    layout, shape = (stored or {}).get(path, (None, shapes[path]))
    return layout or assumed(len(shape)), shape


def told(path: str, layout: Layout, shape: tuple[int, ...]) -> str:
    """Names the leaf of a layer as a refusal does."""
    name = path.rpartition("[")[0] if layout.stack else path  # a layer of a stack is `name[0]`
    return f"leaf {name!r} of shape {shape}, {str(layout)!r},"


def known(layouts: Layouts, arrays: Sequence[jax.Array]) -> list[Layout]:
    """Returns the layouts of some leaves; (window..., in, out) where they are not given."""
    given = (None,) * len(arrays) if layouts is None else layouts
    return [layout or assumed(x.ndim) for layout, x in zip(given, arrays, strict=True)]


def cut_like(x: jax.Array, leaf: jax.Array) -> jax.Array:
    """Cuts an array over devices as a leaf is, where types or places tell; under a jit Auto axes are the compiler's."""
    return placed_like(x, leaf) if mesh_axes(leaf) is None else jax.sharding.reshard(x, jax.typeof(leaf).sharding)


WEIGHT = Weight()
