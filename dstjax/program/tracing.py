"""Traces the program of a function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from dstjax._arrays.trees import Tree


def trace(function: Callable[..., Any], params: Tree, args: Sequence[Any]) -> tuple[Any, Any]:
    """Returns the closed jaxpr of a function and the structure of its results.

    Raises:
      ValueError: it branches on values.
    """
    try:
        closed, results = jax.make_jaxpr(function, return_shape=True)(params, *args)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            "the program branches on values, or takes them to NumPy, so that there is no one program to make smaller: "
            f"{str(error).splitlines()[0]} Expected jax.lax.cond, jnp.where or jnp in their place, and what is no "
            "array, such as train=False, bound with functools.partial."
        ) from error
    return closed, jax.tree_util.tree_structure(results)
