"""Exact selection of the k best entries of tensors, by counting, without a sort.

Each score becomes an unsigned integer key that is ordered like the score. The k-th largest key is then built from its
most significant bits down: one pass over the tensor counts how many keys reach each of a few candidate thresholds
(``2**bits_per_pass - 1`` of them in one variadic integer reduction), and the largest candidate that at least k keys
reach becomes the new threshold. Entries equal to the final threshold are taken by ascending row-major index, found by
the same search on the index. All tensors of a list advance together in one loop, so a tree costs as many kernels
per pass as it has leaves.

Nothing is sorted or gathered, and no tensor reshaped that may be spread over devices: a pass moves a few integers
between those that hold it, k may be traced, and the result is the same bit for bit on one device and on many.

Order of scores: NaN < -inf < ... < -0.0 = 0.0 < ... < inf. Subnormals keep their own place.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from dstjax.shards import Pieces, line, over_pieces

Scalars = list[jax.Array]

BITS_PER_PASS = 2  # three thresholds a pass: fastest on CPU, and quickest to compile


def top_k_mask(
    scores: jax.Array, k: ArrayLike, *, where: jax.Array | None = None, bits_per_pass: int = BITS_PER_PASS
) -> jax.Array:
    """Marks the k largest scores of one tensor; of equal scores the lower row-major index wins.

    Args:
      scores: real scores, any shape. float16, bfloat16, float32, float64, integers or booleans.
      k: how many to mark, an integer scalar that may be traced. At most as many as there are candidates are marked.
      where: boolean candidates of the same shape; all are candidates if omitted.
      bits_per_pass: bits of the threshold that one pass over the tensor resolves.

    Returns:
      A boolean array of the shape of ``scores``.

    >>> top_k_mask(jnp.array([3.0, 1.0, 3.0, jnp.nan]), 1)
    Array([ True, False, False, False], dtype=bool)
    """
    return top_k_masks([scores], [k], where=[where], bits_per_pass=bits_per_pass)[0]


@functools.partial(jax.jit, static_argnames=("together", "bits_per_pass"))
def top_k_masks(
    scores: Sequence[jax.Array],
    ks: Sequence[ArrayLike],
    *,
    where: Sequence[jax.Array | None] | None = None,
    together: bool = False,
    bits_per_pass: int = BITS_PER_PASS,
) -> list[jax.Array]:
    """Marks the k largest scores of each tensor of a list, or of all of them taken together.

    Args:
      scores: a list of tensors of real scores.
      ks: how many to mark in each tensor; with ``together`` a list of one number, for all tensors in common.
      where: for each tensor its boolean candidates, or None for all.
      together: rank all entries in one list, earlier tensors first among equals.
      bits_per_pass: bits of the threshold that one pass resolves.

    Returns:
      A boolean mask for each tensor.

    Raises:
      ValueError: a tensor is complex, or has 2**32 entries or more.
    """
    if not scores:
        return []
    for score in scores:
        if score.size >= 2**32:
            raise ValueError(f"a tensor of {score.size} entries cannot be counted in 32 bits; split it.")
    wheres = [None] * len(scores) if where is None else list(where)
    keys = [_ordered_key(s, w) for s, w in zip(scores, wheres, strict=True)]
    if together and len({k.dtype for k in keys}) > 1:  # one common order needs one key type
        common = functools.reduce(jnp.promote_types, (s.dtype for s in scores), jnp.dtype(jnp.float32))
        keys = [_ordered_key(s.astype(common), w) for s, w in zip(scores, wheres, strict=True)]
    group = [0] * len(keys) if together else list(range(len(keys)))
    wanted = jnp.maximum(jnp.stack([jnp.asarray(k) for k in ks]), 0).astype(jnp.uint32)

    marks: list[jax.Array] = [jnp.zeros(0)] * len(keys)
    for dtype in sorted({k.dtype for k in keys}, key=str):
        members = [i for i, k in enumerate(keys) if k.dtype == dtype]
        ids = {g: n for n, g in enumerate(dict.fromkeys(group[i] for i in members))}
        chosen = over_pieces(
            functools.partial(_choose, group=[ids[group[i]] for i in members], bits_per_pass=bits_per_pass),
            [keys[i] for i in members],
            [_other_candidates(scores[i], wheres[i]) for i in members],
            wanted if len(ids) == len(ks) else jnp.stack([wanted[g] for g in ids]),
        )
        for i, mark in zip(members, chosen, strict=True):
            marks[i] = mark
    return marks


@jax.jit
def count_true(masks: Sequence[jax.Array]) -> jax.Array:
    """Number of True entries of each mask of a list, int32[len(masks)]; less than 2**31 each.

    Args:
      masks: boolean tensors, or bytes of 8 entries each as :func:`dstjax.masks.pack` makes them.
    """

    def count(pieces: Pieces, masks: Sequence[jax.Array], *_: Any) -> jax.Array:
        return pieces.total(_count_each([[line(m)] for m in masks]))[0].astype(jnp.int32)

    return over_pieces(count, masks, [None] * len(masks), None, whole=True)


def _choose(
    pieces: Pieces,
    keys: Sequence[jax.Array],
    wheres: Sequence[jax.Array | None],
    ks: jax.Array,
    *,
    group: list[int],
    bits_per_pass: int,
) -> list[jax.Array]:
    """top_k_masks for keys of one dtype; ``group[i]`` is the budget in ``ks`` that tensor i draws on.

    What kernels of whole tensors read comes as scalars out of a loop or a branch. As entries of a vector they would be
    sliced within each kernel, and each slice makes another program; so tensors of equal shape share one, and compiling
    the update of a ResNet-50 takes about a quarter less.
    """
    dtype = keys[0].dtype
    lines, candidates = [line(k) for k in keys], [None if w is None else line(w) for w in wheres]
    of_tensor = jnp.array(group)
    every = jnp.uint32(2**32 - 1)

    # The largest threshold that at least k keys of the group reach. Besides it the loop carries, for each tensor, how
    # many keys reach it and how many lie above it.
    def narrow(i: jax.Array, loop: tuple[jax.Array, Scalars, Scalars, jax.Array, jax.Array]) -> Any:
        unit, places, threshold, at_least, above = loop
        digits, exist = _digits(unit, bits_per_pass)
        tests = [[key >= threshold[g] + d for d in digits] for key, g in zip(lines, group, strict=True)]
        counts = pieces.total(_count_each(tests))
        reached = exist & (_by_group(counts, group, len(ks)) >= ks[None])
        lower = reached if len(ks) == len(keys) else reached[:, of_tensor]
        upper = exist & ~lower
        at_least = jnp.minimum(at_least, jnp.min(jnp.where(lower, counts, every), axis=0))
        above = jnp.maximum(above, jnp.max(jnp.where(upper, counts, jnp.uint32(0)), axis=0))
        places = _unseen(places, i)
        return unit >> bits_per_pass, places, _advanced(threshold, places, reached, unit), at_least, above

    passes, unit = _passes(jnp.iinfo(dtype).bits, dtype, bits_per_pass)
    sizes = jnp.array(pieces.sizes, jnp.uint32)
    start = (unit, _places(len(ks)), [jnp.zeros((), dtype)] * len(ks), sizes, jnp.zeros_like(sizes))
    _, _, threshold, at_least, above = lax.fori_loop(0, passes, narrow, start)
    equal = at_least - above
    room = _split_room(ks - _by_group(above[None], group, len(ks))[0], equal, group)
    # No float is a candidate below key 1, so a threshold of 0 leaves room for nothing.
    nobody = jnp.array([where is None for where in wheres]) & (jnp.stack(threshold)[of_tensor] == 0)
    room = jnp.where(nobody, jnp.uint32(0), room)

    def ties(zero: Any) -> list[jax.Array]:
        same = [key == threshold[g] | jnp.asarray(zero, dtype) for key, g in zip(lines, group, strict=True)]
        return _among(same, candidates)

    stop = lax.cond(
        jnp.any(equal > room),
        lambda: _index_after(pieces, ties, room, bits_per_pass),
        lambda: [jnp.uint32(2**32 - 1)] * len(keys),
    )
    better = _among([key > threshold[g] for key, g in zip(keys, group, strict=True)], wheres)
    equals = _among([key == threshold[g] for key, g in zip(keys, group, strict=True)], wheres)
    return [
        best | (same & (pieces.index(i, key) < stop[i]))
        for i, (key, best, same) in enumerate(zip(keys, better, equals, strict=True))
    ]


def _among(flags: list[jax.Array], wheres: Sequence[jax.Array | None]) -> list[jax.Array]:
    return [flag if where is None else flag & where for flag, where in zip(flags, wheres, strict=True)]


def _index_after(
    pieces: Pieces, flags: Callable[[jax.Array], list[jax.Array]], n: jax.Array, bits_per_pass: int
) -> Scalars:
    """The highest row-major index of each tensor of ``flags(0)`` before which at most n entries are True, uint32."""

    def narrow(i: jax.Array, loop: tuple[jax.Array, Scalars, Scalars]) -> tuple[jax.Array, Scalars, Scalars]:
        unit, places, index = loop
        digits, exist = _digits(unit, bits_per_pass)
        # What does not change from pass to pass XLA would compute before the loop and store, which takes a kernel and a
        # pass for the flags of each tensor and for its indices. So it must not see that they do not change.
        zero = _zero(i)
        found = [(f, pieces.index(t, f, one=zero | jnp.uint32(1))) for t, f in enumerate(flags(zero))]
        tests = [[flag & (at < start + d) for d in digits] for (flag, at), start in zip(found, index, strict=True)]
        before = pieces.total(_count_each(tests))
        places = _unseen(places, i)
        return unit >> bits_per_pass, places, _advanced(index, places, exist & (before <= n[None]), unit)

    passes, unit = _passes(max(pieces.sizes).bit_length(), jnp.dtype(jnp.uint32), bits_per_pass)
    return lax.fori_loop(0, passes, narrow, (unit, _places(len(n)), [jnp.uint32(0)] * len(n)))[2]


def _passes(bits: int, dtype: Any, bits_per_pass: int) -> tuple[int, jax.Array]:
    """How many digits a number of so many bits has, and the value of one in the first of them."""
    passes = max(1, -(-bits // bits_per_pass))
    return passes, jnp.asarray(dtype.type(1 << (bits_per_pass * (passes - 1))))


def _digits(unit: jax.Array, bits_per_pass: int) -> tuple[Scalars, jax.Array]:
    """What to add to a number to try the values 1, 2, ... of a digit, and which of them exist, bool[values, 1].

    The topmost digit may reach beyond the width of the integers; what wraps around does not exist.
    """
    values = np.arange(1, 2**bits_per_pass, dtype=unit.dtype)
    exist = unit <= np.iinfo(unit.dtype).max // values
    return [unit * v for v in values], exist[:, None]


def _advanced(numbers: Scalars, places: Scalars, tests: jax.Array, unit: jax.Array) -> Scalars:
    """Each number with a unit more for every test of it, [values, numbers], that is passed."""
    steps = jnp.sum(tests, axis=0, dtype=unit.dtype) * unit
    return [n + lax.dynamic_slice(steps, (at,), (1,)).reshape(()) for n, at in zip(numbers, places, strict=True)]


def _places(n: int) -> Scalars:
    """The places 0, 1, ... of a vector, for a loop to carry: read at constant places, each entry takes a program."""
    return [jnp.uint32(i) for i in range(n)]


def _unseen(places: Scalars, i: jax.Array) -> Scalars:
    """The same places, in the i-th round of a loop, but XLA does not see that they are constant."""
    return [at | _zero(i) for at in places]


def _zero(i: jax.Array) -> jax.Array:
    """Zero, made of the number of a loop's round, uint32[]; XLA does not see that it does not change."""
    return lax.shift_right_logical(jnp.asarray(i, jnp.uint32), jnp.uint32(31))


def _count(tests: list[jax.Array]) -> list[jax.Array]:
    """True entries of each of several boolean tensors of one shape, in one pass: uint32[] each.

    Of a single test, which may be stored eight to a byte, the False ones too.

    One variadic reduction: XLA:CPU turns a reduction of a single operand into a chain of small windows that
    materialises its operand and is about ten times slower, so a single test is counted beside its opposite (beside
    itself it would be merged into one operand again, and a count that nobody reads would be cut out).
    """
    operands = tests if len(tests) > 1 else [tests[0], ~tests[0]]
    if tests[0].dtype != jnp.bool_:
        operands = [lax.population_count(lax.bitcast_convert_type(t, jnp.uint8)) for t in operands]
    totals = lax.reduce(
        tuple(t.astype(jnp.uint32) for t in operands),
        tuple(jnp.zeros((), jnp.uint32) for _ in operands),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        tuple(range(operands[0].ndim)),
    )
    return list(totals)


def _count_each(tests: list[list[jax.Array]]) -> jax.Array:
    """The counts of the tests of each tensor: uint32[tests, tensors]."""
    counted = [_count(t) for t in tests]
    # One array of all numbers at once: an array for each tensor would be a kernel for each tensor.
    rows = jnp.stack([c for test in zip(*counted, strict=True) for c in test]).reshape(-1, len(tests))
    if len(tests[0]) > 1:
        return rows
    sizes = jnp.array([t[0].size * (1 if t[0].dtype == jnp.bool_ else 8) for t in tests], jnp.uint32)
    return jnp.minimum(rows[:1], sizes[None] - rows[1:])  # both are the same number


def _by_group(counts: jax.Array, group: list[int], groups: int) -> jax.Array:
    """Sums counts [thresholds, tensors] over the tensors of each group: [thresholds, groups]."""
    if groups == counts.shape[1]:  # every tensor is a group of its own
        return counts
    sums = [jnp.zeros_like(counts[:, 0])] * groups
    for i, g in enumerate(group):
        sums[g] = sums[g] + counts[:, i]
    return jnp.stack(sums, axis=-1)


def _split_room(room: jax.Array, equal: jax.Array, group: list[int]) -> jax.Array:
    """Deals each group's room for equal keys to its tensors, earlier tensors first."""
    if room.shape == equal.shape:  # every tensor is a group of its own
        return jnp.minimum(room, equal)
    left = [room[g] for g in range(room.shape[0])]
    dealt = []
    for i, g in enumerate(group):
        share = jnp.minimum(left[g], equal[i])
        left[g] = left[g] - share
        dealt.append(share)
    return jnp.stack(dealt)


def _ordered_key(score: jax.Array, where: jax.Array | None) -> jax.Array:
    """An unsigned integer ordered like the score; 0 for what is no candidate.

    A float has 0 and 1 to spare: 1 is for NaN, so a key that is not 0 is a candidate. Integers use the whole range.
    """
    if jnp.issubdtype(score.dtype, jnp.complexfloating):
        raise ValueError(f"scores of dtype {score.dtype} have no order; expected real scores.")
    if jnp.issubdtype(score.dtype, jnp.floating):
        key = _float_key(score if jnp.finfo(score.dtype).bits >= 16 else score.astype(jnp.float32))
    else:
        if jnp.issubdtype(score.dtype, jnp.bool_) or jnp.iinfo(score.dtype).bits < 32:
            score = score.astype(jnp.int32)
        bits = jnp.iinfo(score.dtype).bits
        unsigned = jnp.dtype(f"uint{bits}")
        flip = 0 if jnp.issubdtype(score.dtype, jnp.unsignedinteger) else 1 << (bits - 1)
        key = lax.bitcast_convert_type(score, unsigned) ^ unsigned.type(flip)
    return key if where is None else jnp.where(where, key, jnp.zeros((), key.dtype))


def _other_candidates(score: jax.Array, where: jax.Array | None) -> jax.Array | None:
    """The candidates of integer scores; those of floats can be read from their keys."""
    if jnp.issubdtype(score.dtype, jnp.floating):
        return None
    return jnp.ones_like(score, bool) if where is None else where


def _float_key(score: jax.Array) -> jax.Array:
    # Comparisons of floats flush subnormals to zero on CPU, so everything here is done on the bits.
    width = jnp.finfo(score.dtype).bits
    unsigned = jnp.dtype(f"uint{width}")
    sign = unsigned.type(1 << (width - 1))
    bits = lax.bitcast_convert_type(score, unsigned)
    magnitude = bits & ~sign
    infinity = lax.bitcast_convert_type(jnp.asarray(jnp.inf, score.dtype), unsigned)
    negative = (bits & sign) != 0
    key = jnp.where(negative, sign - magnitude, sign + magnitude)  # -0.0 meets 0.0 at the middle
    return jnp.where(magnitude > infinity, unsigned.type(1), key)
