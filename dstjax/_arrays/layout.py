"""Says what each axis of a leaf means."""

import dataclasses
import itertools
import math

import jax

WORDS = ("in", "out", "window", "stack", "lookup")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """Says what each axis of a leaf means; made by :func:`parse`, and printed as it was written.

    A leaf holds as many *layers* as its stack axes have entries. A layer is a kernel of (window..., in, out), where
    several axes of inputs, or of outputs, multiply.
    """

    axes: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the words."""
        return " ".join(self.axes)

    @property
    def stack(self) -> tuple[int, ...]:
        """Returns the axes that number the layers: of a scan, of experts, of seeds."""
        return self._of("stack")

    @property
    def windows(self) -> tuple[int, ...]:
        """Returns the axes of the window of a convolution."""
        return self._of("window")

    @property
    def inputs(self) -> tuple[int, ...]:
        """Returns the axes of the inputs; of a table those that are looked up."""
        return self._of("in", "lookup")

    @property
    def outputs(self) -> tuple[int, ...]:
        """Returns the axes of the outputs."""
        return self._of("out")

    @property
    def order(self) -> tuple[int, ...]:
        """Returns the axes of a layer from the slowest to the fastest: (window..., in..., out...).

        Entries are numbered in this order, however the leaf is stored, so that equal scores fall the same way.
        """
        return self.windows + self.inputs + self.outputs

    @property
    def is_table(self) -> bool:
        """Whether it is a table that is looked up: an embedding."""
        return "lookup" in self.axes

    def layers(self, shape: tuple[int, ...]) -> int:
        """Returns the number of layers in a leaf of this shape."""
        return math.prod(shape[a] for a in self.stack)

    def kernel(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the dimensions of one layer: (window..., in, out)."""
        fans = (math.prod(shape[a] for a in axes) for axes in (self.inputs, self.outputs))
        return (*(shape[a] for a in self.windows), *fans)

    def _of(self, *words: str) -> tuple[int, ...]:
        return tuple(a for a, word in enumerate(self.axes) if word in words)


def assumed(ndim: int) -> Layout:
    """Returns the layout (window..., in, out)."""
    return Layout((*["window"] * (ndim - 2), *["in"] * (ndim > 1), "out"))


def lanes_of(layout: Layout | None) -> tuple[int, ...]:
    """Returns the axes of a leaf that number its layers; none where its layout is not known."""
    return () if layout is None else layout.stack


def order_of(layout: Layout | None, ndim: int) -> tuple[int, ...]:
    """Returns the axes of one layer from the slowest to the fastest; as they are stored where that is not known."""
    return tuple(range(ndim)) if layout is None else layout.order


def kernel_of(layout: Layout | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the dimensions of one layer; those of the leaf where its layout is not known."""
    return tuple(shape) if layout is None else layout.kernel(shape)


def layer_names(path: str, layout: Layout | None, shape: tuple[int, ...]) -> list[str]:
    """Returns a name for each layer of a leaf, row-major over the stack: ``path``, or ``path[2]``, ``path[2, 0]``."""
    axes = lanes_of(layout)
    if not axes:
        return [path]
    return [f"{path}[{', '.join(map(str, at))}]" for at in itertools.product(*(range(shape[a]) for a in axes))]
