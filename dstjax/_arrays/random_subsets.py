"""Draws subsets of tensors, in few kernels for all of them together."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dstjax._arrays.counting import Blocks
from dstjax._arrays.drawing import random_rows
from dstjax._arrays.rows import WIDTH
from dstjax._arrays.search import find
from dstjax._arrays.shards import Shards

MOST = 2**28  # entries that are drawn together: the places of more rows would be large constants of the program


def random_subsets(
    keys: Sequence[jax.Array], shapes: Sequence[tuple[int, ...]], stacks: Sequence[int], ks: jax.Array
) -> list[jax.Array]:
    """Marks so many entries of each lane of each tensor, those of the highest of its random bits.

    Bits and choice are those of ``random_bits`` and ``top_k_masks``. Here the bits are drawn as rows of one array and
    searched there, so that no kernel is compiled for a single tensor but the one that cuts its marks out.

    Args:
      keys: a threefry key for each tensor.
      shapes: their shapes, which lie in one piece each.
      stacks: how many leading axes of each number its lanes.
      ks: how many to mark in each lane of all tensors, int32[lanes] or uint32[lanes].

    Returns:
      A boolean tensor of each shape.
    """
    lanes = [math.prod(shape[:n]) for shape, n in zip(shapes, stacks, strict=True)]
    sizes = [math.prod(shape[n:]) for shape, n in zip(shapes, stacks, strict=True)]
    tensors = [jax.ShapeDtypeStruct(shape, jnp.uint32) for shape in shapes]
    pieces = Shards(tuple(shapes), tuple(jax.P() for _ in shapes))
    layout = Blocks(pieces, tensors, [tuple(range(n)) for n in stacks], joined=True)
    rows = random_rows(keys, sizes, lanes)[: layout.rows.starts[-1]]
    wanted, told = jnp.maximum(ks, 0).astype(jnp.uint32), [False] * len(shapes)
    _, _, marks = find(layout, [rows], None, wanted, told=told)
    return layout.tensors([], marks)


def fits(size: int, lanes: int) -> bool:
    """Whether the lanes of a tensor fill enough of their rows."""
    return lanes == 1 or size // lanes >= WIDTH // 8
