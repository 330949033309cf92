"""What a method is made of, in words: read from the method itself, so that defaults are those in force."""

from typing import Any

import dstjax
from dstjax import budgets, criteria, schedules


def describe(method: dstjax.Method, coefficient: float | None = None) -> dict[str, str]:
    """Name and value of every setting of a method that matters to it."""
    if not method.masked:
        return {}
    given: dict[str, Any] = {"distribution": getattr(method.distribution, "__name__", method.distribution)}
    if method.pruner is not None:
        when = f", after {method.prune_step} steps" if method.prune_step else " before the first step"
        given["pruned by"] = method.pruner + when
    if method.updates is not None:
        given |= {
            "drops": _name(method.drop, criteria.DROP),
            "grows": _name(method.grow, criteria.GROW),
            "coefficient": coefficient,
            "mask updates": _schedule(method.updates),
            "scope": method.scope,
            "order": method.update_order,
        }
        if isinstance(method.keep, budgets.Move):
            values = method.keep.fractions.values
            given["share that moves"] = f"{values[0]:.3g}" + (
                " always" if len(values) == 1 else f" falling to {values[-1]:.2g}"
            )
            given["rounding"] = "ceil" if method.keep.ceil else "floor"
    return {name: str(value) for name, value in given.items() if value is not None}


def _schedule(updates: schedules.Updates) -> str:
    last = "" if updates.count is None else f", {updates.count} in all"
    if isinstance(updates, schedules.UpdateSchedule):
        return f"every {updates.update_period} steps from step {updates.first}{last}"
    return f"from step {updates.first}{last}"


def _name(criterion: criteria.Criterion, known: dict[str, Any]) -> str:
    """The name of a criterion in the catalogue, or of a user's function; those made on demand go by their method."""
    for name, make in known.items():
        if make() is criterion:
            return name
    name = getattr(criterion, "__name__", "")
    return name if name.isidentifier() and name != "score" else "by its own score"
