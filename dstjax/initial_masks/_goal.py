"""Turns scores into masks, and says what the rules share: which leaves are masked, how many weights stay active."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dstjax._arrays.keys import placed_like
from dstjax._arrays.lanes import layer_counts
from dstjax._arrays.layout import Layout, lanes_of, layer_names
from dstjax._arrays.leaves import MaskedLeaves, named
from dstjax._arrays.shares import floor_share
from dstjax._arrays.trees import Tree, is_traced
from dstjax._engine.counts import active_counts, layers_of, masked_leaves
from dstjax.checks import check_choice, suggest
from dstjax.distributions import Distribution
from dstjax.method import SCOPES, Maskable, Masking
from dstjax.selection import top_k_masks


class Told(NamedTuple):
    """Holds what scores say about each layer, of each masked leaf a vector."""

    tells: list[jax.Array]  # whether some candidate has a score that is finite and not zero, bool[layers]
    lost: list[jax.Array]  # candidates whose score is not finite, int32[layers]


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

    @property
    def sizes(self) -> list[int]:
        """Returns the number of weights of each masked layer."""
        numbers = layer_counts([w.shape for w in self.weights], self.layouts)
        return [w.size // n for w, n in zip(self.weights, numbers, strict=True) for _ in range(n)]

    def informed(self, scores: Sequence[jax.Array], where: Sequence[jax.Array] | None = None) -> Told:
        """Tells what the scores of the candidates say about each layer of each masked leaf.

        Where no score is finite and not zero a ranking would be one by place; where one is not finite it would rank a
        weight by a fault of the loss.
        """
        finite = [jnp.isfinite(s) for s in scores]
        candidates = [jnp.ones_like(f) for f in finite] if where is None else where
        tells = [f & (s != 0) & c for f, s, c in zip(finite, scores, candidates, strict=True)]
        lost = [~f & c for f, c in zip(finite, candidates, strict=True)]
        axes = [
            tuple(a for a in range(s.ndim) if a not in lanes_of(one))
            for s, one in zip(scores, self.layouts, strict=True)
        ]
        return Told(
            [jnp.any(t, axis=a).reshape(-1) for t, a in zip(tells, axes, strict=True)],
            [jnp.sum(x, axis=a, dtype=jnp.int32).reshape(-1) for x, a in zip(lost, axes, strict=True)],
        )

    def check_informed(self, rule: str, told: Told) -> None:
        """Refuses scores that say nothing about a layer that must lose some, or not of each weight there.

        Not under a trace.

        Raises:
          ValueError: names the layers.
        """
        if any(is_traced(x) for x in told.tells):
            return
        tells, lost = (np.concatenate([np.atleast_1d(x) for x in jax.device_get(xs)]) for xs in told)
        leaves = zip(self.masked.masked, self.weights, self.layouts, strict=True)
        names = [name for path, w, one in leaves for name in layer_names(path, one, w.shape)]
        sizes = self.sizes
        whole = np.array(self.counts) == np.array([sum(sizes)] if self.together else sizes)
        if silent := [name for name, is_told in zip(names, tells | whole, strict=True) if not is_told]:
            raise ValueError(
                f"{rule} finds no information in layers {silent}: every score there is zero or not finite, so that no "
                "weight can be told from another. Look for weights that are all zero, for a stop_gradient or a part "
                "that the loss does not use, and for gradients that overflow; or leave these leaves dense with "
                "maskable=lambda path, leaf: ..."
            )
        wrong = np.where(whole, 0, lost)
        if found := [f"{n} of {name!r}" for name, n in zip(names, wrong, strict=True) if n]:
            raise ValueError(
                f"{rule} finds scores that are not finite: {', '.join(found)}; expected a number for each weight that "
                "may stay, since these would rank last whatever they are worth. Look for such weights, for gradients "
                "that overflow, and for functions without a slope, such as jnp.sqrt at 0; or leave these leaves dense "
                "with maskable=lambda path, leaf: ..."
            )

    def schedule(self, rounds: int) -> list[list[int]]:
        """Returns the counts after each of several rounds; after round r the density is d ** (r / rounds)."""
        sizes = [sum(self.sizes)] if self.together else self.sizes

        def after(r: int, size: int, count: int) -> int:
            removed = floor_share(size, 1.0 - (count / size) ** (r / rounds))
            return count if r == rounds else max(count, size - removed)

        return [[after(r, n, k) for n, k in zip(sizes, self.counts, strict=True)] for r in range(1, rounds + 1)]

    def tree(self, masks: Sequence[jax.Array]) -> Tree:
        """Returns the tree of masks, None at dense leaves, each mask where its weight is."""
        return self.masked.masks([placed_like(m, w) for m, w in zip(masks, self.weights, strict=True)])


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
    **unknown: Any,
) -> Goal:
    """Returns the goal of a rule; ``name`` stands in error messages.

    Raises:
      TypeError: an argument that there is not.
      ValueError: a hyper-parameter is out of range, unknown or contradictory, a leaf cannot be masked or is too small.
    """
    if unknown:
        word = next(iter(unknown))
        accepted = ("sparsity", "scope", "distribution", "maskable", "layout")
        raise TypeError(f"{name}() has no argument {word!r}; {suggest(word, accepted)}")
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
