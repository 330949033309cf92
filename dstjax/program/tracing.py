"""Traces the program of a function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from dstjax._arrays.trees import Tree

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
      ValueError: it branches on values.
    """
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
