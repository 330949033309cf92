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
) -> list[Any]:
    """Describes the results of a jaxpr, one equation after the other.

    Args:
      jaxpr: a jaxpr, not a closed one.
      inputs: a description of each input.
      constants: one of each constant of the jaxpr.
      equation: describes the results of an equation, from those of its operands.
      literal: describes a literal.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= zip(jaxpr.constvars, constants, strict=True)

    def read(atom: Any) -> Any:
        return literal(atom) if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, equation(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


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


def as_function(eqn: Any) -> Callable[..., list[Any]]:
    """Returns the function of the operands, literals included, that an equation is."""
    variables = list(dict.fromkeys(a for a in eqn.invars if not isinstance(a, core.Literal)))
    alone = core.Jaxpr((), variables, eqn.outvars, [eqn])
    function = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))

    def call(*operands: Any) -> list[Any]:
        given = dict(zip((id(a) for a in eqn.invars), operands, strict=True))
        return list(function(*(given[id(v)] for v in variables)))

    return call
