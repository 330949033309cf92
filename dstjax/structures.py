"""What is switched as one unit: single weights, N of every M, blocks, the inputs of a neuron.

A structure turns scores into masks. It counts in weights, so that a method says the same numbers whatever the
structure. Each one has these functions, on lists of leaves:

* ``counts(shapes, counts)``: the nearest numbers of active weights that it can have, at most as many as asked for;
* ``best(scores, counts)``: the mask of the highest scores;
* ``drop(scores, masks, keep, salient, target)``: the masks of what stays, and of where something may be grown;
* ``grow(scores, kept, room, n)``: the masks of what is grown.

And it says of itself what :class:`Structure` lists.

``keep`` and ``n`` are int32[leaves], or scalars that are shared by all leaves in one ranking. Among equal scores the
lower row-major index wins.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from dstjax._arrays.shards import join_axes, mesh_axes, split_axis
from dstjax._arrays.shares import share_limbs, share_of
from dstjax.checks import check_integer, check_number
from dstjax.selection import count_true, top_k_mask, top_k_masks

Array = jax.Array
Arrays = list[jax.Array]
Scores = Callable[[], Arrays]
Kept = tuple[Arrays, Arrays]  # what stays, and where something may be grown
Shapes = Mapping[str, tuple[int, ...]]


class Structure(Protocol):
    """Turns scores into masks; see the module."""

    exact: ClassVar[bool]  # dropping leaves as many as asked for in each leaf
    refills: ClassVar[bool]  # growth makes good what earlier updates could not place
    keeps_counts: ClassVar[bool]  # each leaf has the number of the method after every update
    ranks_together: ClassVar[bool]  # all leaves may share one ranking

    def counts(self, shapes: Shapes, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the numbers of active weights that the structure can have."""
        ...

    def best(self, scores: Sequence[jax.Array], counts: Sequence[Any]) -> Arrays:
        """Returns the masks of the highest scores."""
        ...

    def drop(self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array) -> Kept:
        """Returns the masks of what stays, and of where something may be grown."""
        ...

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array) -> Arrays:
        """Returns the masks of what is grown."""
        ...


@dataclasses.dataclass(frozen=True)
class Weight:
    """Switches every weight by itself."""

    exact: ClassVar[bool] = True
    refills: ClassVar[bool] = False
    keeps_counts: ClassVar[bool] = True
    ranks_together: ClassVar[bool] = True

    def counts(self, shapes: Shapes, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the counts: all numbers are possible."""
        del shapes
        return dict(counts)

    def best(self, scores: Sequence[jax.Array], counts: Sequence[Any]) -> Arrays:
        """Marks the ``counts[i]`` best of each leaf."""
        return top_k_masks(scores, counts)

    def drop(self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array) -> Kept:
        """Keeps the best of each leaf; a common ranking also keeps the best one of every leaf."""
        del salient, target
        if jnp.ndim(keep):
            kept = top_k_masks(scores, list(keep), where=masks)
        else:
            best = top_k_masks(scores, [1] * len(scores), where=masks)
            others = [m & ~b for m, b in zip(masks, best, strict=True)]
            left = keep - jnp.sum(count_true(best))
            kept = [b | k for b, k in zip(best, top_k_masks(scores, [left], where=others, together=True), strict=True)]
        return kept, [~k for k in kept]

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array) -> Arrays:
        """Grows the best of each leaf; a common ranking also grows the best one of every leaf that has none."""
        if jnp.ndim(n):
            return top_k_masks(scores, list(n), where=room)
        empty = ((count_true(kept) == 0) & (n > 0)).astype(jnp.int32)
        first = top_k_masks(scores, list(empty), where=room)
        others = [r & ~f for r, f in zip(room, first, strict=True)]
        left = n - jnp.sum(empty, dtype=jnp.int32)
        rest = top_k_masks(scores, [left], where=others, together=True)
        return [f | r for f, r in zip(first, rest, strict=True)]


@dataclasses.dataclass(frozen=True)
class NM(Weight):
    """Keeps exactly n active weights in every group of m consecutive inputs (the last axis but one).

    Dropping ranks single weights; growing then fills every group up to n again. So the number dropped decides the
    number grown. Kernels are laid out (..., inputs, outputs), so a group lies along the inputs of a dense layer, and
    along the input channels of a convolution (Mishra et al., "Accelerating sparse deep neural networks", 2021).
    """

    n: int
    m: int
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_integer("n", self.n, 1)
        check_integer("m", self.m, 2)
        if self.n > self.m:
            raise ValueError(f"n={self.n} of m={self.m} is not accepted; expected n <= m.")

    def counts(self, shapes: Shapes, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns n of m, whatever was asked for."""
        for path, shape in shapes.items():
            if len(shape) < 2 or shape[-2] % self.m:
                raise ValueError(
                    f"leaf {path!r} of shape {shape} cannot be cut into groups of m={self.m} inputs (its last axis but "
                    "one); expected a multiple, or leave the leaf dense with maskable=lambda path, leaf: ..."
                )
        return {path: math.prod(shapes[path]) // self.m * self.n for path in counts}

    def best(self, scores: Sequence[jax.Array], counts: Sequence[Any]) -> Arrays:
        """Marks the n best of every group."""
        del counts
        return [self._fill(s, jnp.zeros(s.shape, bool), jnp.ones(s.shape, bool)) for s in scores]

    def drop(self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array) -> Kept:
        """Keeps the best of each leaf, and at most n in a group, which matters after a dense start only."""
        kept, _ = super().drop(scores, masks, keep, salient, target)
        kept = [self._fill(s, jnp.zeros_like(k), k) for s, k in zip(scores, kept, strict=True)]
        return kept, [~k for k in kept]

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array) -> Arrays:
        """Grows the best of every group, as many as it lacks; nothing where nothing is to be grown."""
        wanted = jnp.broadcast_to(n > 0, (len(scores),))
        return [self._fill(s, k, r) & w for s, k, r, w in zip(scores, kept, room, wanted, strict=True)]

    def _fill(self, score: jax.Array, kept: jax.Array, room: jax.Array) -> jax.Array:
        """Ranks within groups by comparing all pairs, since m is small."""
        s, k, r = (split_axis(x, x.ndim - 2, self.m) for x in (score, kept, room))
        missing = self.n - jnp.sum(k, axis=-2, dtype=jnp.int32)
        if jnp.issubdtype(s.dtype, jnp.floating):  # NaN ranks below every number, but above what has no room
            s, number = jnp.where(jnp.isnan(s), -jnp.inf, s), ~jnp.isnan(s)
        else:
            number = jnp.ones(s.shape, bool)
        members = [(s[..., j, :], number[..., j, :], r[..., j, :]) for j in range(self.m)]

        def before(a: Any, b: Any, first: bool) -> jax.Array:
            """Whether candidate a goes before candidate b; ``first`` where a has the lower index."""
            better = (a[1] & ~b[1]) | ((a[1] == b[1]) & (a[0] > b[0]))
            equal = (a[1] == b[1]) & (a[0] == b[0])
            return a[2] & (~b[2] | better | (equal & first))

        marks = []
        for i, mine in enumerate(members):
            rank = sum(before(other, mine, j < i).astype(jnp.int32) for j, other in enumerate(members) if j != i)
            marks.append(mine[2] & (rank < missing))
        return join_axes(jnp.stack(marks, axis=-2), score.ndim - 2)


@dataclasses.dataclass(frozen=True)
class Block(Weight):
    """Switches blocks of h inputs by w outputs (the last two axes). A block scores the sum over its weights."""

    h: int
    w: int
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_integer("h", self.h, 1)
        check_integer("w", self.w, 1)

    def counts(self, shapes: Shapes, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns whole blocks, at least one."""
        area = self.h * self.w
        for path, shape in shapes.items():
            if len(shape) < 2 or shape[-2] % self.h or shape[-1] % self.w:
                raise ValueError(
                    f"leaf {path!r} of shape {shape} cannot be cut into blocks of {self.h} x {self.w} (its last two "
                    "axes); expected multiples, or leave the leaf dense with maskable=lambda path, leaf: ..."
                )
        return {path: jnp.maximum(n // area, 1) * area if isinstance(n, jax.Array) else max(n // area, 1) * area
                for path, n in counts.items()}  # fmt: skip

    def best(self, scores: Sequence[jax.Array], counts: Sequence[Any]) -> Arrays:
        """Marks the best blocks."""
        area = self.h * self.w
        return self._expand(top_k_masks([self._blocks(s) for s in scores], [n // area for n in counts]))

    def drop(self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array) -> Kept:
        """Keeps the best blocks; half a block to keep is a block."""
        coarse = [self._corner(m) for m in masks]
        area = self.h * self.w
        scores = [self._blocks(jnp.where(m, s, jnp.zeros((), s.dtype))) for m, s in zip(masks, scores, strict=True)]
        kept, room = super().drop(scores, coarse, -(-keep // area), salient, target)
        return self._expand(kept), self._expand(room)

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array) -> Arrays:
        """Grows the best blocks."""
        coarse = [self._corner(k) for k in kept]
        if jnp.ndim(n):  # no leaf is left without any block, where fewer weights than one has are to be grown
            n = jnp.where((n > 0) & (count_true(coarse) == 0), jnp.maximum(n, self.h * self.w), n)
        n = n // (self.h * self.w)
        grown = super().grow([self._blocks(s) for s in scores], coarse, [self._corner(r) for r in room], n)
        return self._expand(grown)

    def _cut(self, x: jax.Array) -> jax.Array:
        return split_axis(split_axis(x, x.ndim - 1, self.w), x.ndim - 2, self.h)

    def _blocks(self, score: jax.Array) -> jax.Array:
        # Wide, so that sums of integers do not wrap around, nor those in half precision collapse into ties.
        return jnp.sum(self._cut(score), axis=(-3, -1), dtype=jnp.promote_types(score.dtype, jnp.float32))

    def _corner(self, mask: jax.Array) -> jax.Array:
        return self._cut(mask)[..., 0, :, 0]

    def _expand(self, blocks: Arrays) -> Arrays:
        return [self._filled(b) for b in blocks]

    def _filled(self, blocks: jax.Array) -> jax.Array:
        *lead, rows, columns = blocks.shape
        spread = jnp.broadcast_to(blocks[..., :, None, :, None], (*lead, rows, self.h, columns, self.w))
        return join_axes(join_axes(spread, blocks.ndim), blocks.ndim - 2)


@dataclasses.dataclass(frozen=True)
class FanIn(Weight):
    """Gives every neuron (an output, the last axis) the same number of inputs, and ablated neurons none.

    A neuron with fewer salient weights than ``ablation`` of the fan-in is switched off, and the others share its
    inputs. A weight is salient if magnitude keeps it, or if it is among the best by the growth score, as many as are
    dropped, in the whole layer (Lasby et al., "Dynamic sparse training with structured sparsity", ICLR 2024). Every
    update decides anew, so a neuron may return. Where a neuron would keep more than the fan-in, the drop score decides
    what goes; the authors' code cuts in no particular order.
    """

    ablation: float = 0.3
    exact: ClassVar[bool] = False
    refills: ClassVar[bool] = (
        True  # as many neurons as divide the budget with a rest leave the rest out until the next update
    )
    keeps_counts: ClassVar[bool] = False
    ranks_together: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("ablation", self.ablation, "a number in [0, 1)", lambda a: 0 <= a < 1)

    def counts(self, shapes: Shapes, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns whole fan-ins."""
        for path, n in counts.items():
            if isinstance(n, int) and n < shapes[path][-1]:
                raise ValueError(
                    f"leaf {path!r} of shape {shapes[path]} would have {n} active weights for {shapes[path][-1]} "
                    "neurons, a fan-in below one; expected a lower sparsity, or leave the leaf dense with maskable."
                )
        return {path: n // shapes[path][-1] * shapes[path][-1] for path, n in counts.items()}

    def best(self, scores: Sequence[jax.Array], counts: Sequence[Any]) -> Arrays:
        """Marks the best inputs of every neuron."""
        return [_best_of_columns(s, n // s.shape[-1], None) for s, n in zip(scores, counts, strict=True)]

    def drop(self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array) -> Kept:
        """Keeps the best of the layer, without ablated neurons, at most the fan-in of each neuron."""
        dropped = count_true(masks) - keep
        best = top_k_masks(scores, list(keep), where=masks)
        other = top_k_masks(salient(), list(dropped))
        kept, room = [], []
        for i, (score, b, o) in enumerate(zip(scores, best, other, strict=True)):
            neurons, inputs = score.shape[-1], score.size // score.shape[-1]
            leading = tuple(range(score.ndim - 1))
            found = jnp.sum(b | o, axis=leading, dtype=jnp.int32)
            fan_in = target[i] // neurons
            fewest = target[i] // inputs  # so many neurons at least must be left to hold the budget
            threshold = jnp.maximum(1, share_of(jnp.asarray(fan_in, jnp.int32), share_limbs(self.ablation)))
            threshold = jnp.minimum(threshold, jnp.sort(found)[::-1][jnp.clip(fewest, 0, neurons - 1)])
            alive = found >= threshold
            fan_in = target[i] // jnp.maximum(jnp.sum(alive, dtype=jnp.int32), 1)
            stays = b & jnp.broadcast_to(alive, b.shape)
            kept.append(_best_of_columns(score, jnp.broadcast_to(fan_in, (neurons,)), stays))
            room.append(jnp.broadcast_to(alive, b.shape) & ~kept[-1])
        return kept, room

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array) -> Arrays:
        """Grows the best inputs of every neuron that is not ablated, up to the fan-in."""
        grown = []
        total = count_true(kept) + n
        for score, k, r, budget in zip(scores, kept, room, total, strict=True):
            leading = tuple(range(score.ndim - 1))
            alive = jnp.any(k | r, axis=leading)
            has = jnp.sum(k, axis=leading, dtype=jnp.int32)
            # Where fewer are to be grown than would make the neurons equal, they become equal all the same.
            fan_in = jnp.maximum(budget // jnp.maximum(jnp.sum(alive, dtype=jnp.int32), 1), jnp.max(has))
            missing = jnp.where(alive, fan_in - has, 0)
            grown.append(_best_of_columns(score, missing, r))
        return grown


def _best_of_columns(score: jax.Array, k: Any, where: jax.Array | None) -> jax.Array:
    """Marks the best of every column (all axes but the last), as many as ``k``, an integer or int32[columns]."""
    if any(mesh_axes(score) or ()):
        raise ValueError(
            f"structure=fan_in(...) is not accepted for a leaf of shape {score.shape} that is sharded over Explicit "
            "axes of a mesh; expected a replicated leaf, or Auto axes."
        )
    where = jnp.ones(score.shape, bool) if where is None else where
    k = jnp.broadcast_to(jnp.asarray(k, jnp.int32), (score.shape[-1],))
    choose = jax.vmap(lambda s, n, w: top_k_mask(s, n, where=w), in_axes=(-1, 0, -1), out_axes=-1)
    return choose(score, k, where)


WEIGHT = Weight()


def n_m(n: int, m: int) -> NM:
    """Returns N:M sparsity: exactly n active weights in every group of m consecutive inputs.

    >>> n_m(1, 2).best([jnp.array([[3.0], [1.0], [2.0], [2.0]])], [2])[0].astype(int).T
    Array([[1, 0, 1, 0]], dtype=int32)
    """
    return NM(n, m)


def block(h: int, w: int) -> Block:
    """Returns blocks of h inputs by w outputs."""
    return Block(h, w)


def fan_in(ablation: float = 0.3) -> FanIn:
    """Returns a constant fan-in with neuron ablation; 0 ablates only neurons without any salient weight."""
    return FanIn(ablation)
