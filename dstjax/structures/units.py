"""Whole filters, whole heads."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dstjax._arrays.layout import Layout
from dstjax.checks import check_choice
from dstjax.structures.blocks import Tiles, sum_widely, whole_tiles
from dstjax.structures.weights import Shapes, Stored, stored_as, told


@dataclasses.dataclass(frozen=True)
class Units(Tiles):
    """Switches whole units of a layer: a filter with all its weights, or a head."""

    of: str
    ranks_together: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("of", self.of, ("filters", "heads"))

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns whole units, at least one."""
        found = {}
        for path, n in counts.items():
            layout, shape = stored_as(path, shapes, stored)
            if self.of == "heads" and not _heads(layout):
                raise ValueError(
                    f"structure=heads() is not accepted for {told(path, layout, shape)} which has no axis of heads; "
                    "expected 'in out out' or 'in in out', or leave the leaf dense with maskable=lambda path, leaf: ..."
                )
            found[path] = whole_tiles(n, self.area(layout, shape))
        return found

    def area(self, layout: Layout, shape: tuple[int, ...]) -> int:
        """Returns the weights of a filter, or of a head."""
        return math.prod(shape[a] for a in self._summed(layout))

    def coarse(self, x: jax.Array, layout: Layout, *, add: bool) -> jax.Array:
        """Sums over the units, or asks whether any entry is set; the axes stay, of length one."""
        axes = self._summed(layout)
        # All flags of a unit are alike, but its first may lie on another device, where no slice can take it.
        return sum_widely(x, axes, keepdims=True) if add else jnp.any(x, axis=axes, keepdims=True)

    def fine(self, x: jax.Array, layout: Layout, shape: tuple[int, ...]) -> jax.Array:
        """Repeats the entries over their units."""
        return jnp.broadcast_to(x, shape)

    def _summed(self, layout: Layout) -> tuple[int, ...]:
        """Returns the axes within a unit."""
        if self.of == "filters":
            return layout.windows + layout.inputs
        (axis, *_) = _heads(layout)
        return tuple(a for a in layout.order if a != axis)


def _heads(layout: Layout) -> tuple[int, ...]:
    """Returns the axes of heads and of what a head has; none where there are no heads."""
    axes = layout.outputs if len(layout.outputs) > 1 else layout.inputs
    return axes if len(axes) > 1 else ()


def filters() -> Units:
    """Returns whole filters: all weights that lead to an output, over the inputs and the window."""
    return Units("filters")


def heads() -> Units:
    """Returns whole heads of attention, the first of two axes of outputs (query, key, value) or of inputs (output).

    A layer keeps whole heads, at most as many weights as its density asks for and one head at least.
    """
    return Units("heads")
