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
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from dstjax._arrays import wide
from dstjax._arrays.bits import shape, unpack
from dstjax._arrays.counting import Blocks, Scalars
from dstjax._arrays.layout import Layout, lanes_of, order_of
from dstjax._arrays.shards import Shards, over_pieces
from dstjax._arrays.sort_keys import is_narrow_integer, ordered_key, other_candidates
from dstjax._arrays.wide import Wide
from dstjax._arrays.widening import wide_dtype

# Bits of a threshold that one pass resolves, by platform; any number of them gives the same masks. On CPU two and three
# are about equally fast. The others are not measured: there each kernel costs its start, so fewer passes should pay.
# `python -m experiments.benchmarks --only selection` finds out.
BITS_PER_PASS = MappingProxyType({"cpu": 3, "gpu": 3, "tpu": 3})
BY_HALVES = frozenset({"cpu"})  # where keys are searched 16 bits at a time; not measured elsewhere


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
      ValueError: a tensor is complex, or a layer has 2**32 entries or more.
    """
    if not scores:
        return []
    if bits_per_pass is None:
        bits_per_pass = bits_by_platform()
    layouts = (None,) * len(scores) if layouts is None else layouts
    lanes = [math.prod(s.shape[a] for a in lanes_of(layout)) for s, layout in zip(scores, layouts, strict=True)]
    for score, n in zip(scores, lanes, strict=True):
        if score.size // max(n, 1) >= 2**32:
            raise ValueError(f"a layer of {score.size // n} entries cannot be counted in 32 bits; split it.")
    wheres = [None] * len(scores) if where is None else list(where)
    if together:  # keys of integers of one width alone have one order
        scores = [s.astype(jnp.int32) if is_narrow_integer(s.dtype) else s for s in scores]
    keys = [ordered_key(s, w) for s, w in zip(scores, wheres, strict=True)]
    if together and len({k.dtype for k in keys}) > 1:  # one common order needs one key type
        common = wide_dtype(*(s.dtype for s in scores))
        keys = [ordered_key(s.astype(common), w) for s, w in zip(scores, wheres, strict=True)]
    wanted = _wanted(ks, lanes, together)

    marks: list[jax.Array] = [jnp.zeros(0)] * len(keys)
    of_lane = np.repeat(np.arange(len(lanes)), lanes)
    for dtype in sorted({k.dtype for k in keys}, key=str):
        members = [i for i, k in enumerate(keys) if k.dtype == dtype]
        mine = np.flatnonzero(np.isin(of_lane, members))
        chosen = over_pieces(
            functools.partial(_choose, layouts=[layouts[i] for i in members], bits_per_pass=bits_per_pass),
            [keys[i] for i in members],
            [other_candidates(scores[i], wheres[i]) for i in members],
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


def bits_by_platform() -> int:
    """Returns the bits per pass of the platform that JAX computes on by default."""
    return BITS_PER_PASS.get(jax.default_backend(), 3)


@functools.partial(jax.jit, static_argnames="layouts")
def count_true(masks: Sequence[jax.Array], layouts: tuple[Layout | None, ...] | None = None) -> jax.Array:
    """Counts the True entries of each mask of a list, or of each of its layers, int32[layers]; less than 2**31 each.

    Args:
      masks: boolean tensors, or bytes of 8 entries each as :func:`dstjax.masks.pack` makes them.
      layouts: for each what its axes mean, or None; then it is one layer.
    """
    stacks = [lanes_of(layout) for layout in layouts or [None] * len(masks)]
    masks = [unpack(m) if _is_packed_along(m, stack) else m for m, stack in zip(masks, stacks, strict=True)]

    def count(pieces: Shards, masks: Sequence[jax.Array], *_: Any) -> jax.Array:
        blocks = Blocks(pieces, masks, stacks)
        held = [m.astype(jnp.uint8) if m.dtype == jnp.bool_ else lax.bitcast_convert_type(m, jnp.uint8) for m in masks]
        return blocks.bits(blocks.blocks(held)).astype(jnp.int32)

    return over_pieces(count, masks, [None] * len(masks), None, whole=True)


def _is_packed_along(mask: jax.Array, stack: tuple[int, ...]) -> bool:
    """Whether a byte holds entries of several layers."""
    if not stack:
        return False
    ndim = len(shape(mask))
    return (mask.dtype == jnp.uint8 and ndim - 2 in stack) or (mask.dtype == jnp.int8 and ndim - 1 in stack)


def _choose(
    pieces: Shards,
    keys: Sequence[jax.Array],
    wheres: Sequence[jax.Array | None],
    ks: jax.Array | Wide,
    *,
    layouts: Sequence[Layout | None],
    bits_per_pass: int,
) -> list[jax.Array]:
    """Does what top_k_masks does, for keys of one dtype; ``ks`` has a number for each lane, or one for all together."""
    dtype = keys[0].dtype
    stacks = [lanes_of(layout) for layout in layouts]
    orders = [order_of(layout, k.ndim) for layout, k in zip(layouts, keys, strict=True)]
    layout = Blocks(pieces, keys, stacks, orders)
    blocks = layout.blocks(keys)
    candidates = None
    if any(w is not None for w in wheres):
        candidates = layout.blocks(
            [jnp.ones(k.shape, bool) if w is None else w for k, w in zip(keys, wheres, strict=True)]
        )
    lanes = sum(layout.lanes)
    every = jnp.uint32(2**32 - 1)
    budgets = 1 if isinstance(ks, Wide) else len(ks)

    def each(numbers: jax.Array) -> jax.Array:
        """Numbers of the budgets as numbers of the lanes, along the last axis."""
        return numbers if budgets == lanes else jnp.broadcast_to(numbers, (*numbers.shape[:-1], lanes))

    def summed(counts: jax.Array) -> jax.Array:
        """Counts [thresholds, lanes] as those of the budgets."""
        return counts if budgets == lanes else jnp.sum(counts, axis=1, keepdims=True, dtype=counts.dtype)

    def suffice(counts: jax.Array) -> jax.Array:
        """Whether counts [thresholds, lanes] are as many as the budgets, bool[thresholds, budgets]."""
        if isinstance(ks, Wide):
            return wide.at_least(wide.total(counts), ks)[:, None]
        return summed(counts) >= ks[None]

    sizes = jnp.array(np.repeat(layout.whole_sizes, layout.lanes), jnp.uint32)
    begin = pieces.varying_as((sizes, jnp.zeros_like(sizes)), *jax.tree.leaves(ks), *blocks)

    # Finds the largest threshold that at least k keys reach. The loop also carries, for each lane, how many keys reach
    # it and how many lie above it.
    def search(
        blocks: list[jax.Array], at_least: jax.Array, above: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        outside, width = above, blocks[0].dtype

        def narrow(_: Any, loop: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> Any:
            unit, threshold, at_least, above = loop
            digits, exist = _digits(unit, bits_per_pass)
            counts = outside[None] + layout.reaching(blocks, each(threshold), digits)
            reached = exist & suffice(counts)
            lower = each(reached)
            upper = exist & ~lower
            at_least = jnp.minimum(at_least, jnp.min(jnp.where(lower, counts, every), axis=0))
            above = jnp.maximum(above, jnp.max(jnp.where(upper, counts, jnp.uint32(0)), axis=0))
            return unit >> bits_per_pass, _advanced(threshold, reached, unit), at_least, above

        passes, unit = _passes(jnp.iinfo(width).bits, width, bits_per_pass)
        zeros = pieces.varying_as(jnp.zeros(budgets, width), *jax.tree.leaves(ks), *blocks)
        return lax.fori_loop(0, passes, narrow, (unit, zeros, at_least, above))[1:]

    # Keys of more than 16 bits are searched 16 at a time, the highest first: these are read and counted twice as fast.
    # A key whose higher bits are not those of the threshold counts as 0, which is below all that is tried.
    def refine(i: Any, found: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        prefix, at_least, above = found
        shift = (turns - 1 - jnp.asarray(i)).astype(dtype) * dtype.type(16)
        ours = layout.at(each(prefix))
        parts = [
            jnp.where((key >> shift) >> 16 == at, key >> shift & dtype.type(2**16 - 1), dtype.type(0)).astype(
                jnp.uint16
            )
            for key, at in zip(blocks, ours, strict=True)
        ]
        threshold, at_least, above = search(parts, at_least, above)
        return prefix << 16 | threshold.astype(dtype), at_least, above

    turns = jnp.iinfo(dtype).bits // 16
    if turns > 1 and layout.is_whole and jax.default_backend() in BY_HALVES:
        zeros = pieces.varying_as(jnp.zeros(budgets, dtype), *jax.tree.leaves(ks), *blocks)
        threshold, at_least, above = lax.fori_loop(0, turns, refine, (zeros, *begin))
    else:
        threshold, at_least, above = search(blocks, *begin)
    threshold = each(threshold)
    equal = at_least - above
    if isinstance(ks, Wide):  # earlier lanes first, here too
        left = wide.minus(ks, wide.total(above))
        room = jnp.minimum(wide.narrow(wide.minus(left, wide.before(equal))), equal)
    elif budgets == lanes:
        room = jnp.minimum(ks - above, equal)
    else:  # earlier lanes first
        room = ks - summed(above[None])[0]
        before = jnp.cumsum(equal, dtype=jnp.uint32) - equal
        room = jnp.where(before < room, jnp.minimum(room - before, equal), jnp.uint32(0))
    # No float is a candidate below key 1, so a threshold of 0 leaves room for nothing.
    nobody = np.repeat([w is None for w in wheres], layout.lanes) & (threshold == 0)
    room = jnp.where(nobody, jnp.uint32(0), room)

    behind = pieces.varying_as(jnp.full(lanes, every), room, *blocks)  # all indices

    # Small tensors are marked within the branch: its result is stored, and each tensor cut out of it once.
    def tied() -> tuple[jax.Array, list[jax.Array]]:
        stop = _index_after(layout, blocks, candidates, threshold, room, bits_per_pass)
        return stop, layout.rows_of(_marked(blocks, layout.at(threshold), layout.index(blocks), layout.at(stop)))

    def untied() -> tuple[jax.Array, list[jax.Array]]:
        marks = [key >= at for key, at in zip(blocks, layout.at(threshold), strict=True)]
        return behind, layout.rows_of(marks)

    stop, rows = lax.cond(jnp.any(equal > room), tied, untied)
    alone = [keys[i] for i in layout.alone]
    index = [layout.index_of(i, keys[i]) for i in layout.alone]
    n = len(alone)
    last = _marked(alone, layout.at(threshold, shaped=True)[:n], index, layout.at(stop, shaped=True)[:n])
    marks = layout.tensors(last, rows)
    return [m if w is None else m & w for m, w in zip(marks, wheres, strict=True)]


def _marked(
    keys: Sequence[jax.Array], thresholds: Sequence[jax.Array], index: Sequence[jax.Array], stops: Sequence[jax.Array]
) -> list[jax.Array]:
    """Marks the keys above their threshold, or at it and before an index; for arrays in a list."""
    return [_mark(*x) for x in zip(keys, thresholds, index, stops, strict=True)]


@jax.jit
def _mark(key: jax.Array, threshold: jax.Array, index: jax.Array, stop: jax.Array) -> jax.Array:
    return (key > threshold) | ((key == threshold) & (index < stop))


def _index_after(
    layout: Blocks,
    blocks: list[jax.Array],
    candidates: list[jax.Array] | None,
    threshold: jax.Array,
    room: jax.Array,
    bits_per_pass: int,
) -> jax.Array:
    """Returns the highest index of each lane before which at most ``room`` keys are at the threshold."""

    def equal(to: list[jax.Array]) -> list[jax.Array]:
        same = [key == at for key, at in zip(blocks, to, strict=True)]
        return same if candidates is None else [s & where for s, where in zip(same, candidates, strict=True)]

    if layout.is_whole:
        return layout.after(equal(layout.at(threshold)), room)

    def narrow(i: jax.Array, loop: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        unit, start = loop
        digits, exist = _digits(unit, bits_per_pass)
        # Hides from XLA that keys and indices do not change from pass to pass. It would compute what is equal, and the
        # indices, before the loop and store them: a kernel and a pass for each tensor.
        zero = lax.shift_right_logical(jnp.asarray(i, jnp.uint32), jnp.uint32(31))
        index = layout.index(blocks, one=zero | jnp.uint32(1))
        same = equal([at | zero.astype(at.dtype) for at in layout.at(threshold)])
        before = layout.before(same, index, start, digits)
        return unit >> bits_per_pass, _advanced(start, exist & (before <= room[None]), unit)

    passes, unit = _passes(max(layout.whole_sizes).bit_length(), jnp.dtype(jnp.uint32), bits_per_pass)
    return lax.fori_loop(0, passes, narrow, (unit, layout.pieces.varying_as(jnp.zeros_like(room), room, *blocks)))[1]


def _passes(bits: int, dtype: Any, bits_per_pass: int) -> tuple[int, jax.Array]:
    """Returns how many digits a number of so many bits has, and the value of one in the first of them."""
    passes = max(1, -(-bits // bits_per_pass))
    return passes, jnp.asarray(dtype.type(1 << (bits_per_pass * (passes - 1))))


def _digits(unit: jax.Array, bits_per_pass: int) -> tuple[Scalars, jax.Array]:
    """Returns what to add to a number to try the values 1, 2, ... of a digit, and which of them exist, bool[values, 1].

    The topmost digit may reach beyond the width of the integers; values that wrap around do not exist.
    """
    values = np.arange(1, 2**bits_per_pass, dtype=unit.dtype)
    exist = unit <= np.iinfo(unit.dtype).max // values
    return [unit * v for v in values], exist[:, None]


def _advanced(numbers: jax.Array, tests: jax.Array, unit: jax.Array) -> jax.Array:
    """Adds a unit to each number for every test of it, [values, numbers], that it passes."""
    return numbers + jnp.sum(tests, axis=0, dtype=unit.dtype) * unit
