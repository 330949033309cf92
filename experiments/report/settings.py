"""What a method is made of, in words: read from the method itself, so that defaults are those in force."""

from typing import Any

import dstjax
from dstjax import criteria


def describe(method: dstjax.Method, coefficient: float | None = None) -> dict[str, str]:
    """Name and value of every setting of a method that matters to it."""
    if not method.masked:
        return {}
    given: dict[str, Any] = {"distribution": getattr(method.distribution, "__name__", method.distribution)}
    if method.updates is not None and method.drop_fraction is not None:
        last = method.updates.end_step
        values = method.drop_fraction.values
        constant = len(values) == 1
        given |= {
            "drops": _name(method.drop, criteria.DROP),
            "grows": _name(method.grow, criteria.GROW),
            "coefficient": coefficient,
            "a mask update every": f"{method.updates.update_period} steps from step {method.updates.first}"
            + ("" if last is None else f", before step {last}"),
            "share that moves": f"{values[0]:.3g}" + (" always" if constant else f" falling to {values[-1]:.2g}"),
            "scope": method.scope,
            "order": method.update_order,
            "rounding": "ceil" if method.ceil else "floor",
        }
    return {name: str(value) for name, value in given.items() if value is not None}


def _name(criterion: criteria.Criterion, known: dict[str, Any]) -> str:
    """The name of a criterion in the catalogue, or of a user's function; those made on demand go by their method."""
    for name, make in known.items():
        if make() is criterion:
            return name
    name = getattr(criterion, "__name__", "")
    return name if name.isidentifier() and name != "score" else "by its own score"
