"""Draws random bits for many tensors in few kernels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays.platforms import is_tpu
from dstjax._arrays.shards import may_be_cut

SMALL = 2**19  # entries below which tensors are drawn together
WIDTH = 1024  # entries of a row; each of them begins a row
BLOCK = 2**16  # entries that are drawn at a time; each of the larger ones begins a block
ROWS = BLOCK // WIDTH  # rows that are drawn at a time


def random_bits(
    keys: Sequence[jax.Array], shapes: Sequence[tuple[int, ...]], shardings: Sequence[Any]
) -> list[jax.Array]:
    """Draws 32 random bits for each entry of each tensor: those of ``jax.random.bits`` with its key.

    Tensors that lie on one device are drawn by one program, the small ones at once and the large ones block by block: a
    generator for each takes longer to compile than all else of a mask update.

    Args:
      keys: a key for each tensor.
      shapes: their shapes.
      shardings: their shardings, where types show them; else None.

    Returns:
      uint32 of each shape.
    """
    found: list[Any] = [None] * len(shapes)
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    whole = [
        i
        for i, (key, size, sharding) in enumerate(zip(keys, sizes, shardings, strict=True))
        if can_draw_rows(key, size, sharding)
    ]
    small, large = ([i for i in whole if (sizes[i] < SMALL) == is_small] for is_small in (True, False))
    for width, least, tensors in ((WIDTH, 2, small), (BLOCK, 1, large)):
        if len(tensors) >= least:
            mine, lengths = [keys[i] for i in tensors], [sizes[i] for i in tensors]
            bits = random_rows(mine, lengths, [1] * len(mine)) if width == WIDTH else _blocks(mine, lengths)
            start = 0
            for i in tensors:
                n = -(-sizes[i] // width)
                rows = lax.slice_in_dim(bits, start, start + n).reshape(-1)
                found[i] = lax.slice(rows, (0,), (sizes[i],)).reshape(shapes[i])
                start += n
    return [
        jax.random.bits(key, shape, jnp.uint32, out_sharding=sharding) if bits is None else bits
        for bits, key, shape, sharding in zip(found, keys, shapes, shardings, strict=True)
    ]


def random_rows(keys: Sequence[jax.Array], sizes: Sequence[int], lanes: Sequence[int]) -> jax.Array:
    """Draws what :func:`random_bits` draws for some tensors as rows of one array, in which each lane begins a row.

    Args:
      keys: a threefry key for each tensor.
      sizes: the entries of a lane of each.
      lanes: how many follow one another in each.

    Returns:
      uint32[rows, WIDTH], 0 behind the last entry of a lane; some more rows than there are lanes need.
    """
    data = jnp.stack([jax.random.key_data(key) for key in keys])
    numbers = [-(-size // WIDTH) for size, n in zip(sizes, lanes, strict=True) for _ in range(n)]
    of_lane = np.repeat(np.arange(len(keys)), lanes)
    first = [lane * size for size, n in zip(sizes, lanes, strict=True) for lane in range(n)]
    within = np.concatenate([np.arange(n) for n in numbers]) * WIDTH
    left = np.minimum(np.repeat(np.repeat(sizes, lanes), numbers) - within, WIDTH)
    places = np.repeat(np.array(first, np.int64), numbers) + within
    times = -(-len(places) // ROWS)

    def padded(x: np.ndarray, dtype: Any) -> np.ndarray:
        return np.pad(x, (0, times * ROWS - len(x))).reshape(times, ROWS, 1).astype(dtype)

    of_row = data[padded(np.repeat(of_lane, numbers), np.int32)[..., 0]]
    place_of, left_of = jnp.asarray(padded(places, np.uint32)), jnp.asarray(padded(left, np.uint32))

    def draw(i: Any, drawn: jax.Array) -> jax.Array:
        column = lax.broadcasted_iota(jnp.uint32, (ROWS, WIDTH), 1)
        bits = _threefry(of_row[i, :, :1], of_row[i, :, 1:], place_of[i] + column)
        return lax.dynamic_update_slice(drawn, jnp.where(column < left_of[i], bits, 0)[None], (i, 0, 0))

    begin = jnp.broadcast_to(data[0, 0], (times, ROWS, WIDTH))
    return lax.fori_loop(0, times, draw, begin).reshape(-1, WIDTH)


def can_draw_rows(key: jax.Array, size: int, sharding: Any) -> bool:
    """Whether :func:`random_rows` can draw a tensor of so many entries, of a sharding as in :func:`random_bits`."""
    return 0 < size < 2**32 and _is_threefry(key) and not may_be_cut(sharding)


def _is_threefry(key: jax.Array) -> bool:
    """Whether bits are a function of the key and of the place of an entry alone, in the way that is written below."""
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if not partitionable or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return False
    return str(jax.random.key_impl(key)) == "threefry2x32" and key.ndim == 0


def _blocks(keys: Sequence[jax.Array], sizes: Sequence[int]) -> jax.Array:
    """Draws the bits of some tensors, each from a new block on, uint32[blocks, BLOCK]; perhaps some more blocks."""
    numbers = [-(-size // BLOCK) for size in sizes]
    data = jnp.stack([jax.random.key_data(key) for key in keys])
    of_block = data[np.repeat(np.arange(len(keys)), numbers)]
    first = np.concatenate([np.arange(n, dtype=np.uint32) * np.uint32(BLOCK) for n in numbers])

    def draw(i: Any, drawn: jax.Array) -> jax.Array:
        place = firsts[i] + lax.iota(jnp.uint32, BLOCK)
        return lax.dynamic_update_slice(drawn, _threefry(of_block[i, 0], of_block[i, 1], place)[None], (i, 0))

    # A TPU's compiler takes seconds for each length, so that there are few. The array begins with a part of a key, so
    # that no memory is held before there is one.
    unit = min(32, 2 ** max(len(first).bit_length() - 2, 0)) if is_tpu() else 1
    firsts, begin = jnp.asarray(first), jnp.broadcast_to(data[0, 0], (-(-len(first) // unit) * unit, BLOCK))
    return lax.fori_loop(0, len(first), draw, begin)


def _threefry(high: jax.Array, low: jax.Array, place: jax.Array) -> jax.Array:
    """Returns the bits of a key at some places; one kernel, where on a CPU jax has a loop of several.

    Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011: Threefry-2x32 of 20 rounds.
    """
    keys = (high, low, high ^ low ^ np.uint32(0x1BD11BDA))
    a, b = jnp.zeros_like(place) + keys[0], place + keys[1]
    for group in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = a ^ (b << np.uint32(bits) | b >> np.uint32(32 - bits))
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + np.uint32(group + 1)
    return a ^ b
