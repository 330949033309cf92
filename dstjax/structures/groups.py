"""N of every M consecutive inputs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dstjax._arrays.lanes import of_each
from dstjax._arrays.layout import Layout
from dstjax._arrays.shards import join_axes, split_axis
from dstjax.checks import check_bool, check_integer
from dstjax.structures.weights import (
    Array,
    Arrays,
    Kept,
    Layouts,
    Scores,
    Shapes,
    Stored,
    Weight,
    is_best,
    known,
    stored_as,
    told,
)


@dataclasses.dataclass(frozen=True, repr=False)
class NM(Weight):
    """Keeps exactly n active weights in every group of m consecutive inputs.

    Dropping ranks single weights; growing then fills every group up to n again. So the number dropped decides the
    number grown. A group lies along the inputs of a dense layer, and along the input channels of a convolution,
    whatever axes these are (Mishra et al., "Accelerating sparse deep neural networks", 2021). Several axes of inputs
    count as one. With ``pad`` the last group may have fewer inputs than m: it keeps n of them, or all.
    """

    n: int
    m: int
    pad: bool = False
    exact: ClassVar[bool] = False
    reads_layout: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_integer("n", self.n, 1)
        check_integer("m", self.m, 2)
        check_bool("pad", self.pad)
        if self.n > self.m:
            raise ValueError(f"n={self.n} of m={self.m} is not accepted; expected n <= m.")

    def __repr__(self) -> str:
        """Returns what makes it, without a default."""
        return f"NM(n={self.n}, m={self.m}{', pad=True' if self.pad else ''})"

    @property
    def density(self) -> float:
        """Returns the share of active weights, whatever sparsity is asked for."""
        return self.n / self.m

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns n of m, whatever was asked for."""
        found = {}
        for path in counts:
            shape = shapes[path]
            inputs, rest = (shape[-2], shape[-2] % self.m) if len(shape) >= 2 else (0, 1)
            if rest and not (self.pad and inputs):
                raise ValueError(
                    f"{told(path, *stored_as(path, shapes, stored))} has {inputs or 'no'} inputs, which cannot be cut "
                    f"into groups of m={self.m}; expected a multiple, n_m(..., pad=True), or leave the leaf dense with "
                    "maskable=lambda path, leaf: ..."
                )
            found[path] = (inputs // self.m * self.n + min(rest, self.n)) * (math.prod(shape) // inputs)
        return found

    def best(self, scores: Sequence[jax.Array], counts: Any, layouts: Layouts = None) -> Arrays:
        """Marks the n best of every group."""
        del counts
        return [
            self._fill(s, jnp.zeros(s.shape, bool), jnp.ones(s.shape, bool), layout)
            for s, layout in zip(scores, known(layouts, scores), strict=True)
        ]

    def holds(self, masks: Arrays, prunes: bool = False, layouts: Layouts = None) -> Arrays:
        """Returns whether every group has n; any mask can be pruned to that."""
        return super().holds(masks, prunes, layouts) if prunes else is_best(self, masks, layouts)

    def drop(
        self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array, layouts: Layouts = None
    ) -> Kept:
        """Keeps the best of each layer, and at most n in a group, which matters after a dense start only."""
        kept, _ = super().drop(scores, masks, keep, salient, target, layouts)
        each = zip(scores, kept, known(layouts, scores), strict=True)
        kept = [self._fill(s, jnp.zeros_like(k), k, layout) for s, k, layout in each]
        return kept, [~k for k in kept]

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array, layouts: Layouts = None) -> Arrays:
        """Grows the best of every group, as many as it lacks; nothing where nothing is to be grown."""
        where = known(layouts, scores)
        alike = not jnp.ndim(n)
        wanted = [n > 0] * len(scores) if alike else of_each(n > 0, [s.shape for s in scores], where)
        each = zip(scores, kept, room, wanted, where, strict=True)
        return [self._fill(s, k, r, layout) & w for s, k, r, w, layout in each]

    def _fill(self, score: jax.Array, kept: jax.Array, room: jax.Array, layout: Layout) -> jax.Array:
        """Ranks within groups by comparing all pairs, since m is small."""
        along = Inputs(layout, score.shape, self.m)
        s, k, r = (along.split(x) for x in (score, kept, room))
        axis = along.axis + 1
        missing = self.n - jnp.sum(k, axis=axis, dtype=jnp.int32)
        if jnp.issubdtype(s.dtype, jnp.floating):  # NaN ranks below every number, but above what has no room
            s, number = jnp.where(jnp.isnan(s), -jnp.inf, s), ~jnp.isnan(s)
        else:
            number = jnp.ones(s.shape, bool)

        def member(x: jax.Array, j: int) -> jax.Array:
            return x[(slice(None),) * axis + (j,)]

        members = [(member(s, j), member(number, j), member(r, j)) for j in range(self.m)]

        def before(a: Any, b: Any, first: bool) -> jax.Array:
            """Whether candidate a goes before candidate b; ``first`` where a has the lower index."""
            better = (a[1] & ~b[1]) | ((a[1] == b[1]) & (a[0] > b[0]))
            equal = (a[1] == b[1]) & (a[0] == b[0])
            return a[2] & (~b[2] | better | (equal & first))

        marks = []
        for i, mine in enumerate(members):
            rank = sum(before(other, mine, j < i).astype(jnp.int32) for j, other in enumerate(members) if j != i)
            marks.append(mine[2] & (rank < missing))
        return along.join(jnp.stack(marks, axis=axis))


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Cuts the inputs of a leaf into groups of ``m``, wherever their axes are."""

    layout: Layout
    shape: tuple[int, ...]
    m: int

    @property
    def axis(self) -> int:
        """Returns the axis of the groups after the cut; their members are the next."""
        return self._last if not self._joins else self._turned.index(self.layout.inputs[0])

    @property
    def _last(self) -> int:
        return self.layout.inputs[-1]

    @property
    def _joins(self) -> bool:
        """Whether a group spans several axes of inputs."""
        return len(self.layout.inputs) > 1 and self.shape[self._last] % self.m != 0

    @property
    def _turned(self) -> list[int]:
        """Returns the axes with those of the inputs next to each other, at the end."""
        return [a for a in range(len(self.shape)) if a not in self.layout.inputs] + list(self.layout.inputs)

    @property
    def _size(self) -> int:
        return math.prod(self.shape[a] for a in self.layout.inputs) if self._joins else self.shape[self._last]

    def split(self, x: jax.Array) -> jax.Array:
        """Returns an array with the inputs cut into groups; what is missing of the last one is zero."""
        if self._joins:
            x = x.transpose(self._turned)
            for _ in self.layout.inputs[1:]:
                x = join_axes(x, self.axis)
        if rest := -self._size % self.m:
            x = jnp.pad(x, [(0, rest if a == self.axis else 0) for a in range(x.ndim)])
        return split_axis(x, self.axis, self.m)

    def join(self, x: jax.Array) -> jax.Array:
        """Undoes :meth:`split`."""
        x = join_axes(x, self.axis)
        if x.shape[self.axis] != self._size:
            x = jax.lax.slice_in_dim(x, 0, self._size, axis=self.axis)
        if self._joins:
            for a in reversed(self.layout.inputs[1:]):
                x = split_axis(x, self.axis, self.shape[a])
            x = x.transpose([self._turned.index(a) for a in range(len(self.shape))])
        return x


def n_m(n: int, m: int, *, pad: bool = False) -> NM:
    """Returns N:M sparsity: exactly n active weights in every group of m consecutive inputs.

    So the density of every leaf is n / m, whatever the sparsity of the method says.

    Args:
      n: active weights of a group.
      m: inputs of a group.
      pad: accept a number of inputs that is no multiple of m; the last group then keeps n of its fewer inputs, or all.

    >>> n_m(1, 2).best([jnp.array([[3.0], [1.0], [2.0], [2.0]])], [2])[0].astype(int).T
    Array([[1, 0, 1, 0]], dtype=int32)
    """
    return NM(n, m, pad)
