"""Finds the threshold of the k largest keys of each layer, and the last entry at it that is taken."""

import functools
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays import wide
from dstjax._arrays.counting import Blocks
from dstjax._arrays.layout import Layout, lanes_of, order_of
from dstjax._arrays.shards import Shards
from dstjax._arrays.sums import Scalars
from dstjax._arrays.wide import Wide

# Bits of a threshold that one pass resolves, by platform; any number of them gives the same masks. On a CPU two are
# faster than one or three, and compile in less time than three. The others are not measured: there each kernel costs
# its start, so fewer passes should pay, but a TPU's compiler takes twice as long over three.
# `python -m experiments.benchmarks --only selection` finds out.
BITS_PER_PASS = MappingProxyType({"cpu": 2, "gpu": 3, "tpu": 2})
BITS_ELSEWHERE = 3  # where tensors are spread by hand too: each pass waits for other devices


def choose(
    pieces: Shards,
    keys: Sequence[jax.Array],
    wheres: Sequence[jax.Array | None],
    ks: jax.Array | Wide,
    *,
    layouts: Sequence[Layout | None],
    told: Sequence[bool],
    bits_per_pass: int | None,
) -> list[jax.Array]:
    """Does what top_k_masks does, for keys of one dtype; ``ks`` has a number for each lane, or one for all together.

    Where candidates are told by keys, 0 is none. Elsewhere ``wheres`` has them, or None where all are.
    """
    stacks = [lanes_of(layout) for layout in layouts]
    orders = [order_of(layout, k.ndim) for layout, k in zip(layouts, keys, strict=True)]
    layout = Blocks(pieces, keys, stacks, orders)
    candidates = None
    if any(w is not None for w in wheres):
        every_one = [jnp.ones(k.shape, bool) if w is None else w for k, w in zip(keys, wheres, strict=True)]
        candidates = layout.flags(every_one)
    threshold, stop, rows = find(layout, layout.blocks(keys), candidates, ks, told=told, bits_per_pass=bits_per_pass)
    alone = [keys[i] for i in layout.alone]
    index = [layout.index_of(i, keys[i]) for i in layout.alone]
    n = len(alone)
    last = marked(alone, layout.at(threshold, shaped=True)[:n], index, layout.at(stop, shaped=True)[:n])
    marks = layout.tensors(last, rows)
    return [m if w is None else m & w for m, w in zip(marks, wheres, strict=True)]


def find(
    layout: Blocks,
    blocks: list[jax.Array],
    candidates: list[jax.Array] | None,
    ks: jax.Array | Wide,
    *,
    told: Sequence[bool],
    bits_per_pass: int | None = None,
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Finds what :func:`choose` marks: keys above a threshold of each lane, and those at it before an index.

    Args:
      layout: says what the blocks hold.
      blocks: the keys.
      candidates: boolean blocks, or None where all are candidates.
      ks: how many to mark.
      told: of each tensor whether its keys tell candidates.
      bits_per_pass: bits of the threshold that one pass resolves; by platform if omitted.

    Returns:
      The thresholds and the indices, one for each lane, and the marks of the block of small tensors.
    """
    pieces, dtype = layout.pieces, blocks[0].dtype
    if bits_per_pass is None:
        bits_per_pass = BITS_ELSEWHERE if pieces.axes else bits_by_platform()
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
    if turns > 1 and layout.is_whole:
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
    nobody = np.repeat(np.array(told), layout.lanes) & (threshold == 0)
    room = jnp.where(nobody, jnp.uint32(0), room)

    def equals(to: list[jax.Array]) -> list[jax.Array]:
        same = [key == at for key, at in zip(blocks, to, strict=True)]
        return same if candidates is None else [s & where for s, where in zip(same, candidates, strict=True)]

    def marked_until(stop: jax.Array) -> list[jax.Array]:
        return layout.rows_of(marked(blocks, layout.at(threshold), layout.index(blocks), layout.at(stop)))

    behind = pieces.varying_as(jnp.full(lanes, every), room, *blocks)  # all indices
    is_tied = jnp.any(equal > room)
    index_after = functools.partial(_index_after, layout, blocks, equals, threshold, room, bits_per_pass)

    # Small tensors are marked within the branch: its result is stored, and each tensor cut out of it once.
    def tied() -> tuple[jax.Array, list[jax.Array]]:
        stop = layout.after(blocks, candidates, threshold, room) if layout.is_whole else index_after()
        return stop, marked_until(stop)

    def untied() -> tuple[jax.Array, list[jax.Array]]:
        marks = [key >= at for key, at in zip(blocks, layout.at(threshold), strict=True)]
        return behind, layout.rows_of(marks)

    if layout.for_tpu:  # whose compiler keeps no keys in vector memory that are read both in a branch and after it
        stop = index_after((~is_tied, behind))
        rows = marked_until(stop)
    else:
        stop, rows = lax.cond(is_tied, tied, untied)
    return threshold, stop, rows


def bits_by_platform() -> int:
    """Returns the bits per pass of the platform that JAX computes on by default."""
    return BITS_PER_PASS.get(jax.default_backend(), BITS_ELSEWHERE)


def marked(
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
    equals: Callable[[list[jax.Array]], list[jax.Array]],
    threshold: jax.Array,
    room: jax.Array,
    bits_per_pass: int,
    unless: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Returns the highest index of each lane before which at most ``room`` keys are at the threshold.

    Where the first of ``unless`` is true, bool[], the loop does not run, and the second is returned.
    """
    if not (layout.by_rows or layout.pieces.axes):
        bits_per_pass = 1  # compiles in less time, and no pass waits for other devices

    def narrow(i: jax.Array, loop: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        unit, start = loop
        digits, exist = _digits(unit, bits_per_pass)
        # Hides from XLA that keys and indices do not change from pass to pass. It would compute what is equal, and the
        # indices, before the loop and store them: a kernel and a pass for each tensor.
        zero = lax.shift_right_logical(jnp.asarray(i, jnp.uint32), jnp.uint32(31))
        index = layout.index(blocks, one=zero | jnp.uint32(1))
        same = equals([at | zero.astype(at.dtype) for at in layout.at(threshold)])
        before = layout.before(same, index, start, digits)
        return unit >> bits_per_pass, _advanced(start, exist & (before <= room[None]), unit)

    passes, unit = _passes(max(layout.whole_sizes).bit_length(), jnp.dtype(jnp.uint32), bits_per_pass)
    start = layout.pieces.varying_as(jnp.zeros_like(room), room, *blocks)
    if unless is None:
        return lax.fori_loop(0, passes, narrow, (unit, start))[1]
    left_out, instead = unless
    first = jnp.where(left_out, passes, 0)
    return lax.fori_loop(first, passes, narrow, (unit, jnp.where(left_out, instead, start)))[1]


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
