"""Turns scores into masks, and says what the rules share: which leaves are masked, how many weights stay active."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dstjax._arrays.keys import placed_like
from dstjax._arrays.lanes import layer_counts
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import MaskedLeaves, hollow, named, shown
from dstjax._arrays.shares import floor_share
from dstjax._arrays.trees import Tree, is_traced
from dstjax._engine.counts import active_counts, layers_of, masked_leaves
from dstjax.checks import check_choice
from dstjax.distributions import Distribution
from dstjax.method import SCOPES, Maskable, Masking
from dstjax.selection import top_k_masks


@dataclasses.dataclass(frozen=True)
class Goal:
    """Holds the leaves of a tree of parameters that get masks, and the number of weights to keep."""

    masked: MaskedLeaves
    leaves: list[Any]  # all leaves
    layouts: tuple[Layout | None, ...]  # what the axes of the masked leaves mean
    counts: list[int]  # active weights of each masked layer; with ``together`` of all in common, one number
    together: bool

    @property
    def weights(self) -> list[jax.Array]:
        """Returns the masked leaves."""
        return self.masked.pick(self.leaves)

    def params(self, leaves: Sequence[Any], weights: Sequence[Any]) -> Tree:
        """Returns the tree of parameters from all leaves, with ``weights`` at the masked ones."""
        return self.masked.tree(weights, leaves)

    def choose(
        self,
        scores: Sequence[jax.Array],
        counts: Sequence[ArrayLike] | None = None,
        where: Sequence[jax.Array] | None = None,
    ) -> list[jax.Array]:
        """Returns the masks of the highest scores.

        Args:
          scores: real scores of each masked leaf, of its shape.
          counts: other numbers to keep than those of the goal; may be traced.
          where: boolean candidates of each masked leaf; all weights if omitted.
        """
        counts = self.counts if counts is None else counts
        if not self.together:
            return top_k_masks(scores, jnp.stack([jnp.asarray(k) for k in counts]), where=where, layouts=self.layouts)
        # A layer without any active weight would cut the network in two, so the best one of each goes in first.
        first = top_k_masks(scores, [1] * len(scores), where=where, layouts=self.layouts)
        layers = sum(layer_counts([w.shape for w in self.weights], self.layouts))
        free = [~f for f in first] if where is None else [w & ~f for w, f in zip(where, first, strict=True)]
        others = top_k_masks(scores, [counts[0] - layers], where=free, together=True, layouts=self.layouts)
        return [f | o for f, o in zip(first, others, strict=True)]

    def schedule(self, rounds: int) -> list[list[int]]:
        """Returns the counts after each of several rounds; after round r the density is d ** (r / rounds)."""
        numbers = layer_counts([w.shape for w in self.weights], self.layouts)
        sizes = [w.size // n for w, n in zip(self.weights, numbers, strict=True) for _ in range(n)]
        sizes = [sum(sizes)] if self.together else sizes

        def after(r: int, size: int, count: int) -> int:
            removed = floor_share(size, 1.0 - (count / size) ** (r / rounds))
            return count if r == rounds else max(count, size - removed)

        return [[after(r, n, k) for n, k in zip(sizes, self.counts, strict=True)] for r in range(1, rounds + 1)]

    def tree(self, masks: Sequence[jax.Array]) -> Tree:
        """Returns the tree of masks, None at dense leaves, each mask where its weight is."""
        placed = [placed_like(m, w) for m, w in zip(masks, self.weights, strict=True)]
        index = {name: i for i, name in enumerate(self.masked.masked)}
        every = self.masked.treedef.unflatten(self.masked.names)
        return shown(hollow(every, index), lambda name: placed[index[name]])


class Where(TypedDict, total=False):
    """What every rule takes besides; see :mod:`dstjax.initial_masks`."""

    distribution: Distribution | None
    scope: str
    maskable: Maskable | None
    layout: Any


def goal_of(
    name: str,
    params: Tree,
    sparsity: float | None,
    *,
    scope: str = "global",
    distribution: Distribution | None = None,
    maskable: Maskable | None = None,
    layout: Any = None,
) -> Goal:
    """Returns the goal of a rule; ``name`` stands in error messages.

    Raises:
      ValueError: a hyper-parameter is out of range, unknown or contradictory, a leaf cannot be masked or is too small.
    """
    check_choice("scope", scope, SCOPES)
    if is_traced(sparsity):
        raise ValueError(f"sparsity={sparsity!r} is traced; {name} needs a number that is known outside the trace.")
    if scope == "global" and distribution is not None:
        raise ValueError(
            f"distribution={distribution!r} is not accepted with scope='global', which ranks all leaves together; "
            "leave it out, or choose scope='layer'."
        )
    if distribution is None:
        distribution = "uniform" if scope == "global" else "erk"
    masking = Masking(sparsity, distribution, maskable, layout=layout)
    leaves = named(params)
    counts = _global_count(masking, leaves) if scope == "global" else active_counts(masking, leaves)
    known = masked_leaves(masking, leaves)
    masked = MaskedLeaves.chosen(params, known)
    for path in masked.masked:
        if isinstance(leaves[path], jax.ShapeDtypeStruct):
            raise ValueError(f"leaf {path!r} is a shape without values; {name} needs the parameters themselves.")
        leaves[path] = jnp.asarray(leaves[path])
    return Goal(masked, list(leaves.values()), tuple(known.values()), list(counts.values()), scope == "global")


def _global_count(masking: Masking, leaves: dict[str, Any]) -> dict[str, int]:
    """Returns the number of active weights that all masked leaves have in common, under one name."""
    assert masking.sparsity is not None
    chosen = masked_leaves(masking, leaves)
    total = sum(math.prod(leaves[path].shape) for path in chosen)
    active = total - floor_share(total, masking.sparsity)
    if total >= 2**32 or active >= 2**31:
        raise ValueError(
            f"scope='global' would rank {total} weights and keep {active}; at most 2**32 - 1 can be ranked together "
            "and 2**31 - 1 kept. Choose scope='layer'."
        )
    layers = len(layers_of(chosen, leaves))
    if active < layers:
        raise ValueError(
            f"sparsity={masking.sparsity!r} leaves {active} active weights for {layers} masked leaves, and each "
            "needs one; choose a lower sparsity, or exclude leaves with maskable=."
        )
    return {"": active}
