"""Traces the program of a function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.trees import Tree
from dstjax.program.walking import programs

# All that jax raises where a program needs a value that is not there yet.
_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def trace(function: Callable[..., Any], params: Tree, args: Sequence[Any]) -> tuple[Any, Any]:
    """Returns the closed jaxpr of a function and the structure of its results.

    Raises:
      ValueError: it branches on values, or an argument is no array or has a shape without numbers.
    """
    for place, argument in enumerate(args, 1):
        for leaf in jax.tree_util.tree_leaves(argument):
            is_number = isinstance(leaf, bool | int | float | complex)
            if not is_number and not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
                raise ValueError(
                    f"argument {place} after the parameters has {leaf!r:.80}, which is no array; expected what is none "
                    "bound to the function, as with functools.partial."
                )
    shapes = [tuple(getattr(x, "shape", ())) for x in jax.tree_util.tree_leaves((params, args))]
    if symbolic := [shape for shape in shapes if not all(isinstance(n, int | np.integer) for n in shape)]:
        raise ValueError(
            f"an argument has the shape {symbolic[0]}, which is none of numbers alone; expected numbers, since the "
            "program is read for them: export one program for each size."
        )
    try:
        closed, results = jax.make_jaxpr(function, return_shape=True)(params, *args)
    except (*_NEEDS_VALUES, TypeError) as error:
        if not isinstance(error, _NEEDS_VALUES) and "concrete values" not in str(error):
            raise
        raise ValueError(
            "the program branches on values, has shapes that depend on them, or takes them to NumPy, so that there is "
            f"no one program to read: {str(error).splitlines()[0]} Expected jax.lax.cond, jnp.where or jnp in their "
            "place, and what is no array, such as train=False, bound with functools.partial."
        ) from error
    return closed, jax.tree_util.tree_structure(results)


def coarsest(jaxpr: Any) -> float:
    """Returns the largest distance from 1.0 to the next number among the dtypes that a jaxpr computes in."""
    found = [0.0]
    for eqn in jaxpr.eqns:
        dtypes = (getattr(v.aval, "dtype", None) for v in eqn.outvars)
        found += [float(jnp.finfo(d).eps) for d in dtypes if d is not None and jnp.issubdtype(d, jnp.inexact)]
        found += [coarsest(inner) for inner, _ in programs(eqn)]
    return max(found)
