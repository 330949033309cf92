"""Walks through a jaxpr: one way for all who read programs."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core


def walk(
    jaxpr: Any,
    inputs: Sequence[Any],
    constants: Sequence[Any],
    equation: Callable[[Any, list[Any]], Sequence[Any]],
    literal: Callable[[Any], Any],
    *,
    every: bool = True,
) -> list[Any]:
    """Describes the results of a jaxpr, one equation after the other.

    Args:
      jaxpr: a jaxpr, not a closed one.
      inputs: a description of each input.
      constants: one of each constant of the jaxpr.
      equation: describes the results of an equation, from those of its operands.
      literal: describes a literal.
      every: whether to describe equations too whose results nobody uses, as what is only asked for its shape.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= zip(jaxpr.constvars, constants, strict=True)

    def read(atom: Any) -> Any:
        return literal(atom) if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns if every else _used(jaxpr):
        known.update(zip(eqn.outvars, equation(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _used(jaxpr: Any) -> list[Any]:
    """Returns the equations whose results are used, or that do something besides."""
    needed = {id(atom) for atom in jaxpr.outvars}
    found = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(v) in needed for v in eqn.outvars):
            needed |= {id(atom) for atom in eqn.invars}
            found.append(eqn)
    return found[::-1]


def programs(eqn: Any) -> list[tuple[Any, Sequence[Any]]]:
    """Returns the programs inside an equation, with their constants."""
    found: list[tuple[Any, Sequence[Any]]] = []
    for param in eqn.params.values():
        for x in param if isinstance(param, tuple | list) else (param,):
            if isinstance(x, core.ClosedJaxpr):
                found.append((x.jaxpr, x.consts))
            elif isinstance(x, core.Jaxpr):
                found.append((x, ()))
    return found


def apply(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of an equation for other operands of the same shapes, as jax evaluates it."""
    found = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(found) if eqn.primitive.multiple_results else [found]
