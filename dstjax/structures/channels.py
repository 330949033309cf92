"""Whole channels of a network, over all leaves that have them, under one budget."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.leaves import named_masks
from dstjax._arrays.trees import is_traced
from dstjax.checks import check_bool, check_integer, check_number
from dstjax.structures.pools import Pools, without
from dstjax.structures.weights import Array, Arrays, Kept, Layouts, Scores, Shapes, Stored, Weight, cut_like
from dstjax.structures.widths import best, even, fewest
from dstjax.structures.work import Work, weights


@dataclasses.dataclass(frozen=True)
class Channels(Weight):
    """Switches channels: all weights of all leaves that belong to one; made by :func:`channels`."""

    pools: Pools
    work: Work
    budget: float | None = None  # share of the dense cost that growth fills; None: what the method counts
    round_to: int = 1
    together: bool = True
    at_least: float = 0.0
    exact: ClassVar[bool] = False
    refills: ClassVar[bool] = True
    keeps_counts: ClassVar[bool] = False
    across_leaves: ClassVar[bool] = True

    def __repr__(self) -> str:
        share = "" if self.budget is None else f", budget={self.budget}"
        return f"channels({self.pools.number} in {len(self.pools.sizes)} pools, {self.work.unit}{share})"

    def covers(self, path: str, leaf: Any) -> bool:
        """Whether a leaf has channels, and so is masked; biases and norms too."""
        del leaf
        return path in self.pools.paths

    # --- Costs ---

    def widths(self, masks: Sequence[jax.Array]) -> jax.Array:
        """Returns how many channels of each pool are active, int32[pools]."""
        return self.pools.widths(self.pools.active(masks))

    def widths_of(self, masks: Any) -> tuple[int, ...]:
        """Returns the same of a tree of masks, as :func:`dstjax.get_masks` returns it.

        Raises:
          ValueError: masks of another network, or of a channel in part.
        """
        known = named_masks(masks)
        if missing := [path for path in self.pools.paths if known.get(path) is None]:
            raise ValueError(
                f"there is no mask of {', '.join(map(repr, missing))}; expected the masks of this network."
            )
        found = [jnp.asarray(known[path]) for path in self.pools.paths]
        if not all(bool(whole) for whole in self.holds(found)):
            raise ValueError(
                "the masks have channels that are active in part; expected whole ones, in all their leaves."
            )
        return tuple(np.asarray(self.widths(found)).tolist())

    def cost(self, masks: Sequence[jax.Array]) -> jax.Array:
        """Returns what the network costs with some masks of its leaves, float32[], in the unit of its table."""
        return self.work.total(self.widths(masks), jnp)

    # --- Masks ---

    def counts(self, shapes: Shapes, counts: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Returns the numbers asked for: what a layer gets is decided for all together.

        Raises:
          ValueError: other leaves than those of the channels; or fewer weights than those that stay in any case.
        """
        wrong = [path for path in self.pools.paths if path not in shapes]
        if wrong or len(shapes) != len(self.pools.paths):
            told = wrong or [path for path in shapes if path not in self.pools.paths]
            raise ValueError(
                f"structure={self} is of another network, or masks other leaves: {', '.join(map(repr, told))}; "
                "expected all leaves that have channels, which it masks by default."
            )
        if self.budget is None and not any(is_traced(n) for n in counts.values()):
            share = sum(float(np.sum(n)) for n in counts.values()) / sum(math.prod(s) for s in shapes.values())
            self._check_share("a density of ", share)
        return dict(counts)

    def best(self, scores: Sequence[jax.Array], counts: Any, layouts: Layouts = None) -> Arrays:
        """Marks the best channels, the same share of each pool, as many as the budget has."""
        values = self._values(scores, layouts)
        everywhere = jnp.ones(self.pools.number, bool)
        if self.budget is None:
            asked = jnp.sum(jnp.stack([_total(n) for n in counts]))
            goal = asked * (self.work.dense / sum(float(np.prod(s.shape)) for s in scores))
        else:
            goal = jnp.float32(self.budget * self.work.dense)
        widths = self._even(np.zeros(len(self.pools.sizes), np.int32), np.asarray(self.work.full, np.int32), goal)
        return self._masks(self._chosen(values, everywhere, widths), scores)

    def holds(self, masks: Arrays, prunes: bool = False, layouts: Layouts = None) -> Arrays:
        """Returns whether all channels are whole."""
        del prunes, layouts
        self._check(masks)
        whole = self._masks(self.pools.active(masks), masks)
        return [jnp.all(m == w) for m, w in zip(masks, whole, strict=True)]

    def drop(
        self, scores: Arrays, masks: Arrays, keep: Array, salient: Scores, target: Array, layouts: Layouts = None
    ) -> Kept:
        """Keeps the channels worth most under a budget: the share of the cost that the method keeps of the weights."""
        del salient, target
        values, active = self._values(scores, layouts), self.pools.active(masks)
        widths = self.pools.widths(active)
        share = _total(keep) / jnp.maximum(jnp.sum(jnp.stack([_total(m) for m in masks])), 1.0)
        goal = self.work.total(widths, jnp) * share
        least = jnp.minimum(widths, self._fewest())
        if self.together:
            kept = self._best(values, active, jnp.zeros_like(widths), widths, widths, least, goal)
        else:
            kept = self._even(least, widths, goal)
        stays = self._chosen(values, active, jnp.where(share >= 1, widths, kept))
        found = self._masks(stays, masks)
        return found, [~m for m in found]

    def grow(self, scores: Arrays, kept: Arrays, room: Arrays, n: jax.Array, layouts: Layouts = None) -> Arrays:
        """Grows the channels worth most, until the cost is that of the budget."""
        values, active = self._values(scores, layouts), self.pools.active(kept)
        free = self.pools.active(room) & ~active
        now, more = self.pools.widths(active), self.pools.widths(free)
        cost = self.work.total(now, jnp)
        if self.budget is None:
            before = jnp.maximum(jnp.sum(jnp.stack([_total(m) for m in kept])), 1.0)
            goal = cost * (1 + _total(n) / before)
        else:
            goal = jnp.float32(self.budget * self.work.dense)
        if self.together:
            added = self._best(values, free, now, more, now, jnp.zeros_like(more), goal)
        else:
            added = jnp.maximum(self._even(now, now + more, goal) - now, 0)
        grows = (_total(n) > 0) & (cost <= goal)
        new = self._chosen(values, free, jnp.where(grows, added, 0)) | active
        return [m & ~k for m, k in zip(self._masks(new, kept), kept, strict=True)]

    # --- Scores of channels, for rules that pool them -----------------------------------------------------------------

    def pooled(self, arrays: Sequence[jax.Array], layouts: Sequence[Any]) -> jax.Array:
        """Adds up an array of each leaf over each channel, along the axes of outputs; float32[channels]."""
        return self.pools.sums(arrays, self.pools.owners(layouts))

    def placed(self, values: jax.Array, layouts: Sequence[Any]) -> list[jax.Array]:
        """Writes a number of each channel into an array of each leaf, so that :meth:`pooled` gives it back."""
        return self.pools.placed(values, self.pools.owners(layouts))

    # --- Inside ---

    def _check(self, arrays: Sequence[jax.Array]) -> None:
        shapes = [tuple(x.shape) for x in arrays]
        known = [self.pools.shape(i) for i in range(len(self.pools.paths))]
        if shapes != known:
            raise ValueError(
                f"structure={self} is of leaves of shapes {known}, not {shapes}; expected its own network."
            )

    def _check_share(self, what: str, share: float) -> None:
        least = float(self.work.total(self._fewest())) / self.work.dense
        if share < least * (1 - 1e-6):
            n = self.round_to
            of = f"at_least={self.at_least}" if self.at_least else f"{n} channel{'s' * (n > 1)}"
            raise ValueError(
                f"{what}{share:.3g} is below {least:.3g} of the dense cost, that of {of} of each pool; expected more."
            )

    def _values(self, scores: Sequence[jax.Array], layouts: Layouts) -> jax.Array:
        """Returns the scores of the channels; all alike where none has any."""
        self._check(scores)
        given = (None,) * len(scores) if layouts is None else layouts
        found = self.pooled([s.astype(jnp.float32) for s in scores], given)
        found = jnp.nan_to_num(found, nan=0.0, posinf=3e38, neginf=-3e38)
        return jnp.where(jnp.any(found != 0), found, 1.0)

    def _chosen(self, values: jax.Array, where: jax.Array, number: jax.Array) -> jax.Array:
        """Returns the best of each pool among some, bool[channels]."""
        return where & (self.pools.ranks(values, where) < number[self.pools.pool_of])

    def _masks(self, active: jax.Array, like: Sequence[jax.Array]) -> Arrays:
        """Returns the masks of active channels, cut over devices as some arrays of the leaves are."""
        return [cut_like(m, x) for m, x in zip(self.pools.masks(active), like, strict=True)]

    def _fewest(self) -> np.ndarray:
        return fewest(self.work, self.at_least, self.round_to)

    def _even(self, least: Any, most: Any, goal: jax.Array) -> jax.Array:
        return even(self.work, self.at_least, self.round_to, least, most, goal)

    def _best(self, values: jax.Array, where: jax.Array, *given: Any) -> jax.Array:
        return best(self.pools, self.work, self.round_to, values, where, *given)


def _total(x: Any) -> jax.Array:
    """Returns a sum as float32[], which no number of weights overflows."""
    return jnp.sum(x, dtype=jnp.float32)


def channels(
    found: Any,
    *,
    costs: Work | None = None,
    budget: float | None = None,
    whole: Sequence[str] = (),
    round_to: int = 1,
    together: bool = True,
    at_least: float = 0.0,
) -> Channels:
    """Returns the channels of a network as a structure: a unit, head or channel is switched in all leaves that have it.

    All leaves that have channels are masked, biases and norms too, so that the output of a channel is zero and
    :func:`dstjax.compact` removes it. Scores are added up over the leaves that make a channel. Which channels stay is
    decided for all layers together, by the exact knapsack over what each layer costs at each width: the most score
    within the budget. Each pool of channels that stand in the same leaves keeps one at least, or ``at_least`` of them.

    A channel that was zeroed everywhere has no gradient and never learns: for growth take a method that keeps values
    behind its masks (``iee``, ``iee_structured``). Pruning (``gmp``, ``one_shot``, ``halp``) and masks that stay
    (``static``) go with any. While a leaf stands still because the optimiser never moves it, all channels stay as
    they are.

    Args:
      found: what :func:`dstjax.program.channels` returns for the same parameters.
      costs: a table of :mod:`dstjax.latency`, made of the same channels; by default the number of weights.
      budget: the share of the dense cost, in (0, 1], that the masks begin with and that growth fills. By default the
        counts of the method decide: its sparsity is one of the cost.
      whole: regular expressions; channels of a leaf whose path contains one of them all stay, as those of a first
        layer.
      round_to: widths are multiples of this, or full.
      together: False keeps the same share of each pool in place of the knapsack.
      at_least: share of the channels of each pool that stays whatever it costs, in [0, 1]. Under a small budget the
        knapsack may leave single channels of a layer, through which all that follows must pass.

    Raises:
      ValueError: a budget out of range or below the channels that each pool keeps; a table of other channels.
    """
    check_integer("round_to", round_to, 1)
    check_bool("together", together)
    for name, share in (("at_least", at_least), ("budget", budget)):
        if is_traced(share):
            raise ValueError(f"{name} is traced; a structure is made before a program is: expected a number.")
    check_number("at_least", at_least, "a share in [0, 1]", lambda x: 0 <= x <= 1)
    if not isinstance(getattr(found, "of", None), Mapping):
        raise ValueError(f"channels of {found!r} are not accepted; expected what dstjax.program.channels returns.")
    pools = Pools.of(without(found.of, whole))
    if not pools.sizes:
        raise ValueError("the network has no channels that could be removed; expected some (dstjax.program.channels).")
    work = weights(pools) if costs is None else getattr(costs, "work", costs)
    if not isinstance(work, Work):
        raise ValueError(f"costs={costs!r} is not accepted; expected a table of dstjax.latency.")
    if costs is not None:
        work.check(pools, found.of, found.multiplied() if hasattr(found, "multiplied") else ())
    if budget is not None:
        check_number("budget", budget, "a share of the dense cost in (0, 1]", lambda b: 0 < b <= 1)
    structure = Channels(pools, work, None if budget is None else float(budget), round_to, together, float(at_least))
    if budget is not None:
        structure._check_share("budget=", budget)
    return structure
