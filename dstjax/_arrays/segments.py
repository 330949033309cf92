"""Sums over segments that follow one another along the last axis of an array."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax._arrays import sums

ALIKE = 32  # times as long as another may a segment be that shares a matrix with it


class Segments:
    """Says how long the segments are.

    Those of about the same length become the rows of one matrix, filled up with zeros. A cumulative sum in their place
    would be a dozen kernels on a CPU, which take longer to compile than to run.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray) -> None:
        """Takes the length of each segment."""
        self.lengths = np.asarray(lengths, int)
        first, size = np.cumsum(self.lengths) - self.lengths, int(np.sum(self.lengths))
        times = np.max(self.lengths, initial=1) / np.maximum(self.lengths, 1)
        level = np.floor(np.log(times) / np.log(ALIKE))
        self.members = [np.flatnonzero(level == x) for x in np.unique(level)]
        self.places = []
        for mine in self.members:
            at = np.arange(max(self.lengths[mine]))
            self.places.append(np.where(at < self.lengths[mine, None], first[mine, None] + at, size))

    def sums(self, numbers: jax.Array) -> jax.Array:
        """Adds up the entries of each segment, uint32[..., entries] to uint32[..., segments]."""
        return self._in_order([sums.of_rows(_taken(numbers, places)) for places in self.places])

    def after(self, counts: jax.Array, most: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Finds for each segment the last entry before which the entries add up to at most a number.

        Args:
          counts: uint32[entries].
          most: the number of each segment, uint32[segments].

        Returns:
          The place of that entry in its segment, and what the entries before it add up to; uint32[segments] each.
        """
        found = []
        for mine, places in zip(self.members, self.places, strict=True):
            matrix, last = _taken(counts, places), (self.lengths[mine] - 1).astype(np.uint32)
            place = jnp.minimum(sums.after(matrix, most[mine]), last)
            found.append((place, sums.before_of_rows(matrix, place)))
        place, before = (self._in_order(x) for x in zip(*found, strict=True))
        return place, before

    def _in_order(self, numbers: Sequence[jax.Array]) -> jax.Array:
        """Returns numbers of the segments of each matrix in the order of all segments."""
        return picked(jnp.concatenate(numbers, axis=-1), np.argsort(np.concatenate(self.members)))


def _taken(x: jax.Array, places: np.ndarray) -> jax.Array:
    """Returns the entries at some places of the last axis, 0 at the place behind the last one."""
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)]) if np.any(places == x.shape[-1]) else x
    return picked(padded, places.reshape(-1)).reshape(*x.shape[:-1], *places.shape)


def picked(x: jax.Array, places: np.ndarray) -> jax.Array:
    """Returns some entries of the last axis; those that follow one another without a gather."""
    if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
        return lax.slice_in_dim(x, int(places[0]), int(places[-1]) + 1, axis=-1)
    return x[..., places]
