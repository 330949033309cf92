"""Counts the multiply-adds of each primitive that contracts."""

import math
from collections.abc import Callable
from typing import Any


def _dot(eqn: Any) -> int:
    ((contracted, _), _) = eqn.params["dimension_numbers"]
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)


def _ragged_dot(eqn: Any) -> int:
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    ((contracted, _), _) = numbers.dot_dimension_numbers
    lhs, group_sizes = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    products = math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)
    # Groups of the contracted axis: each of them makes one slice of the result out of its own part.
    return products // group_sizes[-1] if numbers.lhs_ragged_dimensions[0] in contracted else products


def _convolution(eqn: Any) -> int:
    numbers = eqn.params["dimension_numbers"]
    lhs, rhs = (a.aval.shape for a in eqn.invars)
    out = eqn.outvars[0].aval.shape
    products = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
    for axis, dilation in enumerate(eqn.params["lhs_dilation"], 2):
        inputs, outputs = lhs[numbers.lhs_spec[axis]], out[numbers.out_spec[axis]]
        taps = rhs[numbers.rhs_spec[axis]]
        # Between the elements of a dilated input there are zeros, which are no work: an input meets each tap once. In
        # the gradient of the weight an image is the window, and an input meets each output once.
        products *= outputs * taps if dilation == 1 else inputs * min(outputs, taps)
    return products


CONTRACTIONS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
}
