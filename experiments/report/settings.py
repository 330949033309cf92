"""What a method is made of, in words: read from the method itself, so that defaults are those in force."""

from typing import Any

import dstjax
from dstjax import budgets, criteria, schedules
from dstjax.rules import Value


def describe(method: dstjax.Method, coefficient: float | None = None) -> dict[str, str]:
    """Name and value of every setting of a method that matters to it."""
    masking, updates = method.masking, method.updates
    if masking is None:
        return {}
    given: dict[str, Any] = {"distribution": getattr(masking.distribution, "__name__", masking.distribution)}
    if method.start.pruner is not None:
        step = method.start.prune_step
        given["pruned by"] = method.start.pruner + (f", after {step} steps" if step else " before the first step")
    if updates is not None:
        given |= {
            "drops": _name(updates.drop_score, criteria.DROP),
            "grows": _name(updates.grow_score, criteria.GROW),
            "coefficient": coefficient,
            "mask updates": _schedule(updates.schedule),
            "scope": updates.scope,
            "order": updates.order,
        }
        if isinstance(updates.n_kept, budgets.Move):
            first, last = updates.n_kept.fractions.at(0), updates.n_kept.fractions.at((updates.schedule.count or 1) - 1)
            given["share that moves"] = f"{first:.3g}" + (" always" if first == last else f" falling to {last:.2g}")
            given["rounding"] = "ceil" if updates.n_kept.ceil else "floor"
    return {name: str(value) for name, value in given.items() if value is not None}


def _schedule(updates: schedules.Schedule) -> str:
    last = "" if updates.count is None else f", {updates.count} in all"
    if isinstance(updates, schedules.UpdateSchedule):
        return f"every {updates.update_period} steps from step {updates.first}{last}"
    return f"from step {updates.first}{last}"


def _name(criterion: criteria.Criterion, known: dict[str, Any]) -> str:
    """The name of a criterion in the catalogue, whatever its constants, or of a user's function."""
    for name, make in known.items():
        made: Any = make()
        if made == criterion or (isinstance(made, Value) and isinstance(criterion, type(made))):
            return name
    name = getattr(criterion, "__name__", "")
    return name if name.isidentifier() and name != "score" else "by its own score"
