"""Sums over segments, against NumPy."""

import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstjax._arrays.segments import ALIKE, Segments

LENGTHS = st.lists(
    st.sampled_from([1, 2, ALIKE - 1, ALIKE, ALIKE + 1, 3 * ALIKE, ALIKE**2 + 1]), min_size=1, max_size=4
)


@settings(max_examples=20)
@example([ALIKE + 1] * 3, 0)  # no place beside them: nothing is gathered
@given(LENGTHS, st.integers(0, 2**32 - 1))
def test_each_segment_is_summed(lengths, seed):
    table = np.random.default_rng(seed).integers(0, 2**32, (3, sum(lengths)), np.uint32)
    first = np.cumsum(lengths) - lengths
    found = Segments(lengths).sums(jnp.asarray(table))
    np.testing.assert_array_equal(found, np.add.reduceat(table, first, axis=1, dtype=np.uint32))


@settings(max_examples=20)
@example([ALIKE + 1] * 3, 0)  # no place beside them: nothing is gathered
@given(LENGTHS, st.integers(0, 2**32 - 1))
def test_the_last_entry_before_which_there_is_room(lengths, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, sum(lengths), np.uint32)
    segments = np.split(counts, np.cumsum(lengths)[:-1])
    most = np.array(
        [rng.choice([0, max(int(x.sum()) - 1, 0), int(x.sum()), rng.integers(0, x.sum() + 2)]) for x in segments]
    )
    places, before = Segments(lengths).after(jnp.asarray(counts), jnp.asarray(most, jnp.uint32))
    for x, n, place, sum_before in zip(segments, most, np.asarray(places), np.asarray(before), strict=True):
        fits = [p for p in range(len(x)) if x[:p].sum() <= n]
        assert place == fits[-1]
        assert sum_before == x[:place].sum()
