"""Groups of indices of many leaves that are switched together, and the pools of groups that are alike."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.lanes import line_up
from dstjax._arrays.layout import Layout

Groups = Mapping[str, Sequence[Any]]  # path -> for each axis the group of each index, -1 where it always stays


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Holds an array of int32 as a value: equal, hashable and picklable."""

    data: bytes
    shape: tuple[int, ...]

    @staticmethod
    def of(array: Any) -> "Fixed":
        """Returns that of an array."""
        array = np.ascontiguousarray(array, np.int32)
        return Fixed(array.tobytes(), array.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns the array."""
        return np.frombuffer(self.data, np.int32).reshape(self.shape).astype(dtype or np.int32, copy=bool(copy))

    def __repr__(self) -> str:
        """Returns the size alone."""
        return f"<{self.shape}>"


@dataclasses.dataclass(frozen=True)
class Pools:
    """Groups of channels, numbered pool by pool.

    A group is what can only be removed together: a channel of all leaves that have it. A pool is the groups that stand
    in the same axes of the same leaves, so that only their number matters for the cost: the width of a layer.
    """

    paths: tuple[str, ...]  # the leaves that have groups, in the order of the tree
    axes: tuple[tuple[Fixed, ...], ...]  # of each leaf, for each axis the group of each index, -1 where it stays
    sizes: tuple[int, ...]  # groups of each pool
    counts: tuple[tuple[tuple[int, ...], ...], ...]  # [leaf][axis][pool]: indices that one group of the pool has there

    @staticmethod
    def of(groups: Groups) -> "Pools":
        """Sorts groups into pools; axes of -1 alone stay, and leaves without any group are left out."""
        where: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        arrays = {path: [np.asarray(a, np.int64) for a in axes] for path, axes in groups.items()}
        paths = [path for path, axes in arrays.items() if any((a >= 0).any() for a in axes)]
        for leaf, path in enumerate(paths):
            for k, a in enumerate(arrays[path]):
                for group, n in zip(*np.unique(a[a >= 0], return_counts=True), strict=True):
                    where[int(group)].append((leaf, k, int(n)))
        pools: dict[Any, list[int]] = defaultdict(list)
        for group in sorted(where):
            pools[tuple(where[group])].append(group)
        number = np.full(max(where, default=-1) + 2, -1)
        number[[g for found in pools.values() for g in found]] = np.arange(len(where))
        counts = [[[0] * len(pools) for _ in arrays[path]] for path in paths]
        for pool, found in enumerate(pools):
            for leaf, k, n in found:
                counts[leaf][k][pool] = n
        return Pools(
            tuple(paths),
            tuple(tuple(Fixed.of(number[a]) for a in arrays[path]) for path in paths),
            tuple(len(found) for found in pools.values()),
            tuple(tuple(map(tuple, axes)) for axes in counts),
        )

    @property
    def number(self) -> int:
        """Returns the number of groups."""
        return sum(self.sizes)

    @property
    def pool_of(self) -> np.ndarray:
        """Returns the pool of each group, int32[groups]."""
        return np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)

    @property
    def starts(self) -> np.ndarray:
        """Returns the first group of each pool, int32[pools]."""
        return np.cumsum([0, *self.sizes[:-1]]).astype(np.int32)

    def shape(self, leaf: int) -> tuple[int, ...]:
        """Returns the shape of a leaf."""
        return tuple(a.shape[0] for a in self.axes[leaf])

    def owners(self, layouts: Sequence[Layout | None]) -> list[int | None]:
        """Returns for each leaf the axis whose groups it scores: one of its outputs; None where no group is there.

        The importance of a channel is what the weights that make it add up to; those that read it would count it twice.
        Of several axes of outputs, as of heads, it is the first with groups that no leaf before has. Where nothing else
        has a group, a leaf that others can do without scores it, by whatever axis.

        Raises:
          ValueError: there are more axes with groups than leaves to score them.
        """
        owned = np.zeros(self.number, np.int64)  # by how many leaves
        found: list[int | None] = [None] * len(self.axes)

        def take(leaf: int, axis: int) -> None:
            for k, n in ((found[leaf], -1), (axis, 1)):
                if k is not None:
                    owned[self._groups(leaf, k)] += n
            found[leaf] = axis

        for leaf, (axes, layout) in enumerate(zip(self.axes, layouts, strict=True)):
            outputs = (len(axes) - 1,) if layout is None else layout.outputs
            grouped = [k for k in outputs if self._groups(leaf, k).size]
            fresh = [k for k in grouped if not owned[self._groups(leaf, k)].all()]
            if grouped:
                take(leaf, (fresh or grouped)[0])
        for leaf, axes in enumerate(self.axes):
            for k in range(len(axes)):
                last = found[leaf]
                if not owned[self._groups(leaf, k)].all() and (
                    last is None or (owned[self._groups(leaf, last)] > 1).all()
                ):
                    take(leaf, k)
        if not owned.all():
            pool = int(self.pool_of[np.flatnonzero(owned == 0)[0]])
            told = [p for p, c in zip(self.paths, self.counts, strict=True) if any(n[pool] for n in c)]
            raise ValueError(
                f"no leaf can score the channels that {', '.join(map(repr, told))} have in common; expected layout=, "
                "which says which axes are outputs (dstjax.program.layouts reads it)."
            )
        return found

    def _groups(self, leaf: int, axis: int) -> np.ndarray:
        ids = np.asarray(self.axes[leaf][axis])
        return np.unique(ids[ids >= 0])

    def sums(self, arrays: Sequence[jax.Array], owners: Sequence[int | None]) -> jax.Array:
        """Adds up the entries of each group along the axes of outputs, float32[groups]."""
        total = jnp.zeros(self.number + 1, jnp.float32)
        for x, axes, k in zip(arrays, self.axes, owners, strict=True):
            if k is not None:
                lines = jnp.sum(x, axis=tuple(a for a in range(x.ndim) if a != k), dtype=jnp.float32)
                # -1 is the last entry, which is left out.
                total = total.at[np.asarray(axes[k])].add(line_up(lines, (0,)))
        return total[:-1]

    def placed(self, values: jax.Array, owners: Sequence[int | None]) -> list[jax.Array]:
        """Writes a number of each group once, so that :meth:`sums` gives it back; float32, all other axes of length 1.

        A leaf without outputs that are groups gets a zero.
        """
        taken = np.zeros(self.number + 1, bool)
        taken[-1] = True
        found = []
        for axes, k in zip(self.axes, owners, strict=True):
            if k is None:
                found.append(jnp.zeros((1,) * len(axes), jnp.float32))
                continue
            ids = np.asarray(axes[k])
            first = np.zeros(len(ids), bool)
            first[np.unique(ids, return_index=True)[1]] = True
            first &= ~taken[ids]
            taken[ids] = True
            line = jnp.where(first, values[np.maximum(ids, 0)], 0.0)
            found.append(line.reshape([-1 if a == k else 1 for a in range(len(axes))]))
        return found

    def active(self, masks: Sequence[jax.Array]) -> jax.Array:
        """Returns which groups have an active weight, bool[groups]; read from the smallest leaf of each pool."""
        flags = jnp.zeros(self.number + 1, bool)
        for leaf, k in {self._smallest(pool) for pool in range(len(self.sizes))}:
            mask, ids = masks[leaf], np.asarray(self.axes[leaf][k])
            line = jnp.any(mask, axis=tuple(a for a in range(mask.ndim) if a != k))
            flags = flags.at[ids].max(line_up(line, (0,)))
        return flags[:-1]

    def _smallest(self, pool: int) -> tuple[int, int]:
        places = [(i, k) for i, axes in enumerate(self.counts) for k, n in enumerate(axes) if n[pool]]
        return min(places, key=lambda place: (int(np.prod(self.shape(place[0]))), place))

    def masks(self, active: jax.Array) -> list[jax.Array]:
        """Returns the mask of each leaf: a weight is active if all of its groups are."""
        known = jnp.append(active, True)
        found = []
        for axes in self.axes:
            mask = jnp.ones((1,) * len(axes), bool)
            for k, ids in enumerate(axes):
                mask = mask & known[np.asarray(ids)].reshape([-1 if a == k else 1 for a in range(len(axes))])
            found.append(mask)
        return found

    def widths(self, active: jax.Array) -> jax.Array:
        """Returns how many groups of each pool are active, int32[pools]."""
        return jnp.zeros(len(self.sizes), jnp.int32).at[self.pool_of].add(active.astype(jnp.int32))

    def ranks(self, scores: jax.Array, where: jax.Array) -> jax.Array:
        """Returns the rank of each group in its pool among some, the best 0; of equal ones the first; int32[groups]."""
        index = jnp.arange(self.number, dtype=jnp.int32)
        order = jnp.lexsort((index, -scores, ~where, self.pool_of))
        at = index - self.starts[self.pool_of]
        return jnp.zeros(self.number, jnp.int32).at[order].set(at)


def without(groups: Groups, whole: Sequence[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns groups without those of leaves whose paths contain one of some regular expressions.

    Raises:
      ValueError: an expression is in no path, or is none.
    """
    if isinstance(whole, str):  # whose letters would be expressions
        raise ValueError(f"whole={whole!r} is not accepted; expected a sequence of expressions, such as [{whole!r}].")
    gone: set[int] = set()
    for pattern in whole:
        try:
            paths = [path for path in groups if re.search(pattern, path)]
        except (re.error, TypeError) as error:
            raise ValueError(f"whole={pattern!r} is not accepted; as a regular expression it fails: {error}.") from None
        if not paths:
            known = ", ".join(map(repr, groups))
            raise ValueError(f"whole={pattern!r} is in no path of {known}; expected one that is.")
        gone |= {int(g) for path in paths for a in groups[path] for g in np.unique(np.asarray(a)) if g >= 0}
    taken = np.asarray(sorted(gone), np.int64)
    return {
        path: tuple(np.where(np.isin(np.asarray(a), taken), -1, np.asarray(a)) for a in axes)
        for path, axes in groups.items()
    }
