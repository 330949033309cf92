"""What the bias beside a kernel tells of its axes: it has an entry for each output of each layer."""

import math
from collections.abc import Iterable, Sequence

UNKNOWN = "?"
Written = str | None  # as people write it
Shape = tuple[int, ...]


def settled(written: str, others: Iterable[Sequence[str]], shape: Shape, bias: Shape | None) -> str:
    """Returns what a name says where the bias agrees, else the one other layout that the bias leaves, else ``"?"``.

    A bias with a length that the kernel lacks is of other outputs, as where a kernel is packed: it tells nothing.

    Args:
      written: what the name says.
      others: groups of layouts that the leaf may have besides; the first that has some decides.
      shape: of the kernel.
      bias: its shape; None: there is none.
    """
    if bias is None or _agrees(written, shape, bias):
        return written
    left = next((fits for group in others if (fits := {x for x in group if _agrees(x, shape, bias)})), set())
    if len(left) == 1:
        return left.pop()
    is_of_it = math.prod(bias) > 1 and {*_longer(bias)} <= {*shape}
    return UNKNOWN if left or is_of_it else written


def windows_first(ndim: int, *, convolves: bool) -> tuple[list[str], list[str]]:
    """Returns the layouts of a kernel that has stacks and windows first: inputs before outputs, and the other way."""
    several = ["in out out"] if ndim == 3 else []
    before = ["stack " * (ndim - 2 - windows) + "window " * windows for windows in range(ndim - 1 if convolves else 1)]
    return [*several, *(f"{words}in out" for words in before)], [f"{words}out in" for words in before]


def windows_last(ndim: int, *, convolves: bool) -> tuple[list[str], list[str]]:
    """Returns the layouts of a kernel that has windows last: outputs before inputs, and the other way."""
    ends = [("stack " * (ndim - 2 - windows), " window" * windows) for windows in range(ndim - 1 if convolves else 1)]
    return [f"{first}out in{last}" for first, last in ends], [f"{first}in out{last}" for first, last in ends]


def _agrees(written: str, shape: Shape, bias: Shape) -> bool:
    """Whether a bias has the axes of the stack and those of the outputs, or these as one."""
    words = written.split()
    if len(words) != len(shape):
        return False
    stack, outputs = ([n for n, word in zip(shape, words, strict=True) if word == kind] for kind in ("stack", "out"))
    return _longer(bias) in (_longer((*stack, *outputs)), _longer((*stack, math.prod(outputs))))


def _longer(shape: Shape) -> Shape:
    """Returns a shape without its ones: a bias of a convolution may be (outputs, 1, 1), one of rows (1, outputs)."""
    return tuple(n for n in shape if n != 1)
