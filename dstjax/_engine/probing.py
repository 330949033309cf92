"""Tries the scores of a user's own before training: one that is no number anywhere would rank nothing."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.layout import lanes_of
from dstjax._arrays.trees import is_traced
from dstjax._engine.counts import Layouts
from dstjax.method import Method
from dstjax.rules import Bound, Leaf, described

_MOST = 2**20  # entries of a leaf on which a rule is tried


def check_scores(method: Method, known: Layouts, weights: Mapping[str, Any]) -> None:
    """Refuses a score that is not finite anywhere on the smallest masked leaf, with random numbers in it.

    Rules of the library are not tried, nor what cannot be computed outside of a trace.

    Raises:
      ValueError: names the rule.
    """
    updates = method.updates
    rules = [] if updates is None else [("drop", updates.drop_score), ("grow", updates.grow_score)]
    rules = [(what, rule) for what, rule in rules if not _is_known(rule)]
    if not rules or not known:
        return
    path = min(known, key=lambda p: math.prod(weights[p].shape))
    if math.prod(weights[path].shape) > _MOST:
        return
    for what, rule in rules:
        found = _tried(method, rule, weights[path], known[path])
        if found is not None and found.size and not np.isfinite(found).any():
            raise ValueError(
                f"the rule {what}={described(rule)} is not accepted: on random numbers it returned nothing finite for "
                f"leaf {path!r} of shape {tuple(weights[path].shape)}; expected a score that ranks the weights."
            )
        if what == "drop" and hasattr(rule, "choose"):
            _check_choice(rule, path, _tried(method, _Chosen(rule), weights[path], known[path]), known[path])


def check_budgets(method: Method, layers: int) -> None:
    """Lets the rules for numbers refuse a number of layers, where they have a ``check_layers(number)``.

    Raises:
      ValueError: one does.
    """
    rules = () if method.updates is None else (method.updates.n_kept, method.updates.n_grown)
    for rule in rules:
        if (check := getattr(rule, "check_layers", None)) is not None:
            check(layers)


class _Chosen(NamedTuple):
    """What a rule that chooses marks in one leaf; None where that is no mask, as the first update says."""

    rule: Any

    def __call__(self, leaf: Leaf) -> Any:
        found = self.rule.choose([leaf])[0]
        return found if found.dtype == jnp.bool_ and found.shape == leaf.mask.shape else None


def _check_choice(rule: Any, path: str, found: np.ndarray | None, layout: Any) -> None:
    """Refuses a choice that keeps what is not active, or another number than its budget leaves."""
    if found is None:
        return
    active, kept = _active(found.shape), found != 0
    axes = tuple(a for a in range(kept.ndim) if a not in lanes_of(layout))
    numbers, expected = kept.sum(axis=axes), active.sum(axis=axes) - 1
    if (expected < 1).any():  # at least one weight stays
        return
    if (kept & ~active).any() or (numbers != expected).any():
        raise ValueError(
            f"the rule drop={described(rule)} is not accepted: asked to drop one of {np.max(expected) + 1} active "
            f"weights of a layer of leaf {path!r}, it marked {np.max(numbers)}, {int((kept & ~active).sum())} of them "
            "not active; expected as many active weights of each layer as its budget leaves (dstjax.rules.choosing)."
        )


def _active(shape: tuple[int, ...]) -> np.ndarray:
    """A mask of half of the weights."""
    return np.arange(math.prod(shape)).reshape(shape) % 2 == 0


def _is_known(rule: Any) -> bool:
    function = rule.function if isinstance(rule, Bound) else rule
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.split(".")[0] == "dstjax"


def _tried(method: Method, rule: Any, weight: Any, layout: Any) -> np.ndarray | None:
    """The scores of a leaf half of which is active; None where they cannot be computed now."""
    rng = np.random.default_rng(0)
    shape, remembered, assumed = tuple(weight.shape), method.remembered, method.updates
    mask = _active(shape)
    numbers = rng.standard_normal((3, *shape))
    with jax.ensure_compile_time_eval():
        arrays = [jnp.asarray(x, weight.dtype) for x in (numbers[0] * mask, *numbers[1:])]
        active, step = jnp.asarray(mask), jnp.ones((), jnp.int32)
        layers = () if layout is None or not layout.stack else (layout.layers(shape),)
        counter = active.astype(jnp.uint8) if assumed is not None and assumed.counters else None
        full = arrays[2] if "full_gradient" in method.needs else None
        leaf = Leaf(arrays[0], arrays[1], active, counter, step, jax.random.key(0), jnp.ones(layers, jnp.int32))
        leaf = leaf._replace(full_gradient=full, layout=layout)
        try:
            if remembered.leaf is not None:
                leaf = leaf._replace(memory=remembered.leaf(leaf))
            if remembered.second_mask is not None:
                leaf = leaf._replace(second_mask=active)
            found = rule(leaf)
            return None if found is None or is_traced(found) else np.asarray(found, np.float64)
        except Exception:  # whatever it is, the first mask update will say it better
            return None
