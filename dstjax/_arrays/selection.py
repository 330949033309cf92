"""Selects exactly the k best entries of tensors, by counting, without a sort.

Each score becomes an unsigned integer key that is ordered like the score. The search then builds the k-th largest key
from its most significant bits down. One pass over the tensor counts how many keys reach each of a few candidate
thresholds (``2**bits_per_pass - 1`` of them in one variadic integer reduction), and the largest candidate that at least
k keys reach becomes the new threshold. Of the entries equal to the final threshold those of lowest row-major index are
taken; the same search finds that index. All tensors of a list advance together in one loop, so a tree costs as many
kernels per pass as it has large leaves, and one for all small ones (:mod:`dstjax._arrays.counting`). On a CPU keys of
tensors in one piece are searched 16 bits at a time, and the index of the last of equal entries in a single row.

Nothing is sorted or gathered, and no tensor that may be spread over devices is reshaped. A pass moves a few integers
between the devices that hold it, k may be traced, and one device and many give the same result bit for bit.

Order of scores: NaN < -inf < ... < -0.0 = 0.0 < ... < inf. Subnormals keep their own place.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from dstjax._arrays.bits import shape, unpack
from dstjax._arrays.counting import Blocks
from dstjax._arrays.layout import Layout, lanes_of
from dstjax._arrays.platforms import is_tpu
from dstjax._arrays.search import choose
from dstjax._arrays.shards import Shards, over_pieces
from dstjax._arrays.sort_keys import common_dtype, is_narrow_integer, ordered_key, tell_candidates
from dstjax._arrays.wide import Wide


def top_k_mask(
    scores: jax.Array,
    k: ArrayLike,
    *,
    where: jax.Array | None = None,
    layout: Layout | None = None,
    bits_per_pass: int | None = None,
) -> jax.Array:
    """Marks the k largest scores of one tensor; of equal scores the lower row-major index wins.

    Args:
      scores: real scores, any shape. float16, bfloat16, float32, float64, integers or booleans.
      k: how many to mark, an integer that may be traced; with a layout in each layer, or int32[layers]. At most as many
        as there are candidates are marked.
      where: boolean candidates of the same shape; all are candidates if omitted.
      layout: what its axes mean; see :func:`top_k_masks`.
      bits_per_pass: bits of the threshold that one pass over the tensor resolves; by platform if omitted.

    Returns:
      A boolean array of the shape of ``scores``.

    >>> top_k_mask(jnp.array([3.0, 1.0, 3.0, jnp.nan]), 1)
    Array([ True, False, False, False], dtype=bool)
    """
    return top_k_masks([scores], [k], where=[where], layouts=(layout,), bits_per_pass=bits_per_pass)[0]


@functools.partial(jax.jit, static_argnames=("together", "layouts", "bits_per_pass"))
def top_k_masks(
    scores: Sequence[jax.Array],
    ks: Sequence[ArrayLike | Wide],
    *,
    where: Sequence[jax.Array | None] | None = None,
    together: bool = False,
    layouts: tuple[Layout | None, ...] | None = None,
    bits_per_pass: int | None = None,
) -> list[jax.Array]:
    """Marks the k largest scores of each tensor of a list, or of all of them taken together.

    A tensor with stack axes holds several layers, and each of them is ranked by itself; all layers of all tensors
    advance together in the same passes.

    Args:
      scores: a list of tensors of real scores.
      ks: how many to mark in each tensor: an integer, or int32[layers] of its layers; or one array of all layers,
        int32[all layers]; with ``together`` a list of one number, for all tensors in common.
      where: for each tensor its boolean candidates, or None for all.
      together: rank all entries in one list, earlier tensors first among equals.
      layouts: for each tensor what its axes mean, or None; then it is one layer, numbered row-major. Of equal scores
        that wins which comes first in the order of (window..., in..., out...).
      bits_per_pass: bits of the threshold that one pass resolves; by platform if omitted.

    Returns:
      A boolean mask for each tensor.

    Raises:
      ValueError: a tensor is complex, a pass is to resolve no bit, a layer has 2**32 entries or more, or no dtype holds
        all scores of one ranking.
    """
    if not scores:
        return []
    if bits_per_pass is not None and bits_per_pass < 1:
        raise ValueError(f"bits_per_pass={bits_per_pass} is not accepted; expected at least 1.")
    layouts = (None,) * len(scores) if layouts is None else layouts
    lanes = [math.prod(s.shape[a] for a in lanes_of(layout)) for s, layout in zip(scores, layouts, strict=True)]
    for score, n in zip(scores, lanes, strict=True):
        if score.size // max(n, 1) >= 2**32:
            raise ValueError(f"a layer of {score.size // n} entries cannot be counted in 32 bits; split it.")
    wheres = [None] * len(scores) if where is None else list(where)
    if together:
        common = common_dtype([s.dtype for s in scores])
        scores = [s.astype(common) for s in scores]
    if is_tpu():  # float32 holds narrow integers exactly, and its keys tell candidates; two bytes may stay without any
        scores = [
            s.astype(jnp.float32) if is_narrow_integer(s.dtype) and (w is not None or s.dtype.itemsize < 2) else s
            for s, w in zip(scores, wheres, strict=True)
        ]
    keys = [ordered_key(s, w) for s, w in zip(scores, wheres, strict=True)]
    told = [tell_candidates(s.dtype) for s in scores]
    wanted = _wanted(ks, lanes, together)

    marks: list[jax.Array] = [jnp.zeros(0)] * len(keys)
    of_lane = np.repeat(np.arange(len(lanes)), lanes)
    for dtype in sorted({k.dtype for k in keys}, key=str):
        members = [i for i, k in enumerate(keys) if k.dtype == dtype]
        mine = np.flatnonzero(np.isin(of_lane, members))
        chosen = over_pieces(
            functools.partial(
                choose,
                layouts=[layouts[i] for i in members],
                told=[told[i] for i in members],
                bits_per_pass=bits_per_pass,
            ),
            [keys[i] for i in members],
            [None if told[i] else wheres[i] for i in members],
            wanted if together or len(mine) == len(of_lane) else wanted[mine],
        )
        for i, mark in zip(members, chosen, strict=True):
            marks[i] = mark
    return marks


def _wanted(ks: Any, lanes: Sequence[int], together: bool) -> jax.Array | Wide:
    """Returns how many are marked in each layer, or altogether: uint32[layers], or uint32[1] or a wide number."""
    if together and isinstance(ks[0], Wide):
        if sum(lanes) > 2**16:
            raise ValueError(f"one ranking of {sum(lanes)} layers is too many; at most 65,536 layers can be ranked.")
        return ks[0]
    if not isinstance(ks, list | tuple):
        numbers = jnp.asarray(ks)
    elif together or all(n == 1 for n in lanes):
        numbers = jnp.stack([jnp.asarray(k).reshape(()) for k in ks])
    else:
        numbers = jnp.concatenate([jnp.broadcast_to(jnp.asarray(k), (n,)) for k, n in zip(ks, lanes, strict=True)])
    return jnp.maximum(numbers, 0).astype(jnp.uint32)


@functools.partial(jax.jit, static_argnames="layouts")
def count_true(masks: Sequence[jax.Array], layouts: tuple[Layout | None, ...] | None = None) -> jax.Array:
    """Counts the True entries of each mask of a list, or of each of its layers, int32[layers]; less than 2**31 each.

    Args:
      masks: boolean tensors, or bytes of 8 entries each as :func:`dstjax.masks.pack` makes them.
      layouts: for each what its axes mean, or None; then it is one layer.
    """
    if not masks:
        return jnp.zeros(0, jnp.int32)
    stacks = [lanes_of(layout) for layout in layouts or [None] * len(masks)]
    masks = [unpack(m) if _is_packed_along(m, stack) else m for m, stack in zip(masks, stacks, strict=True)]

    def count(pieces: Shards, masks: Sequence[jax.Array], *_: Any) -> jax.Array:
        blocks = Blocks(pieces, masks, stacks, once=True)
        held = [m.astype(jnp.uint8) if m.dtype == jnp.bool_ else lax.bitcast_convert_type(m, jnp.uint8) for m in masks]
        return blocks.bits(blocks.blocks(held)).astype(jnp.int32)

    return over_pieces(count, masks, [None] * len(masks), None, whole=True)


def _is_packed_along(mask: jax.Array, stack: tuple[int, ...]) -> bool:
    """Whether a byte holds entries of several layers."""
    if not stack:
        return False
    ndim = len(shape(mask))
    return (mask.dtype == jnp.uint8 and ndim - 2 in stack) or (mask.dtype == jnp.int8 and ndim - 1 in stack)
