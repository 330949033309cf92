"""Which leaves an optimiser never moves, read from its program."""

from typing import Any

import jax
import numpy as np
from jax.extend import core

# Zero where all of their operands are.
# fmt: off
_LINEAR = frozenset({
    "abs", "add", "add_any", "bitcast_convert_type", "broadcast_in_dim", "cbrt", "concatenate", "convert_element_type",
    "copy", "copy_p", "dynamic_slice", "expand_dims", "expm1", "gather", "log1p", "max", "min", "neg",
    "optimization_barrier", "pad", "reduce_sum", "reshape", "rev", "sharding_constraint", "sign", "sin", "slice",
    "split", "sqrt", "square", "squeeze", "stack", "sub", "tan", "tanh", "transpose", "unstack",
})
# fmt: on
_CALLS = dict.fromkeys(("jit", "pjit", "remat", "checkpoint"), "jaxpr")
_CALLS |= dict.fromkeys(("closed_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr")


def zero_outputs(closed: Any) -> list[bool]:
    """Whether each output of a closed jaxpr is zero whatever the inputs are, as far as its operations tell.

    A product with a zero counts as zero, as if all numbers were finite.
    """
    return _zeros(closed.jaxpr, [_is_zero(c) for c in closed.consts], [False] * len(closed.jaxpr.invars))


def _zeros(jaxpr: Any, consts: list[bool], inputs: list[bool]) -> list[bool]:
    zero = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def is_zero(v: Any) -> bool:
        return _is_zero(v.val) if isinstance(v, core.Literal) else zero.get(v, False)

    for eqn in jaxpr.eqns:
        operands = [is_zero(v) for v in eqn.invars]
        zero.update(zip(eqn.outvars, _of_equation(eqn, operands), strict=True))
    return [is_zero(v) for v in jaxpr.outvars]


def _of_equation(eqn: Any, operands: list[bool]) -> list[bool]:
    name = eqn.primitive.name
    if name in _CALLS and _CALLS[name] in eqn.params:
        return _called(eqn.params[_CALLS[name]], operands)
    if name == "cond":
        branches = [_called(branch, operands[1:]) for branch in eqn.params["branches"]]
        return [all(found) for found in zip(*branches, strict=True)]
    if name == "mul":
        # A rate of zero freezes nothing: it is a number, which may be another one at the next step.
        found = any(
            zero and v.aval.shape == eqn.outvars[0].aval.shape for v, zero in zip(eqn.invars, operands, strict=True)
        )
    elif name == "and":
        found = any(operands)
    elif name == "div":
        found = operands[0]
    elif name == "select_n":
        found = all(operands[1:])
    else:
        found = name in _LINEAR and all(operands)
    return [found] * len(eqn.outvars)


def _called(inner: Any, operands: list[bool]) -> list[bool]:
    if hasattr(inner, "jaxpr"):
        return _zeros(inner.jaxpr, [_is_zero(c) for c in inner.consts], operands)
    return _zeros(inner, [], operands)


def _is_zero(x: Any) -> bool:
    """Whether a number that the program holds is zero; larger arrays are not looked through."""
    if isinstance(x, jax.core.Tracer) or not hasattr(x, "dtype"):
        return isinstance(x, int | float) and x == 0
    return np.size(x) <= 1 and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) and not np.any(np.asarray(x))
