"""Runs an inner optimiser so that its new state can be held back without a second copy of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from dstjax._trees import Tree


def update_filtered(
    update: Callable[..., tuple[Tree, Tree]], choose: Sequence[Callable[[Any], Any]], *args: Any
) -> Any:
    """``update(*args)``, with each leaf of the new state replaced the moment that it is computed.

    What ``update`` computes after that, its updates among it, reads the replaced leaf. So this is for replacements that
    change nothing where the updates are used, such as ``where(skipped, old, new)`` when a skipped update is discarded.
    A plain ``where`` around the result means the same, but then XLA needs the new state twice, once held back and once
    as it was for the updates, computes it twice, and copies the donated old state because both read it.

    Args:
      update: a function that returns updates and a state.
      choose: for each leaf of the state, new leaf -> leaf.
      *args: arguments of ``update``.

    Returns:
      What ``update`` returns, the state replaced.
    """
    closed, shapes = jax.make_jaxpr(update, return_shape=True)(*args)
    treedef = jax.tree_util.tree_structure(shapes)
    jaxpr = closed.jaxpr
    outputs = jaxpr.outvars
    first = len(outputs) - len(choose)
    shared = Counter(v for v in outputs if isinstance(v, core.Var))
    computed = {v for eqn in jaxpr.eqns for v in eqn.outvars}
    early = {
        v: of
        for v, of in zip(outputs[first:], choose, strict=True)
        if isinstance(v, core.Var) and v in computed and shared[v] == 1
    }

    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, jax.tree_util.tree_leaves(args), strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else values[v]

    for eqn in jaxpr.eqns:
        bound = eqn.primitive.get_bind_params(eqn.params)
        subfuns, keywords = bound if isinstance(bound, tuple) else ((), bound)  # jax < 0.10 gives a pair
        result = eqn.primitive.bind(*subfuns, *map(read, eqn.invars), **keywords)
        for v, x in zip(eqn.outvars, result if eqn.primitive.multiple_results else [result], strict=True):
            values[v] = early[v](x) if v in early else x

    def chosen_early(v: Any) -> bool:
        return isinstance(v, core.Var) and v in early

    leaves = [read(v) for v in outputs]
    late = [x if chosen_early(v) else of(x) for v, x, of in zip(outputs[first:], leaves[first:], choose, strict=True)]
    return jax.tree_util.tree_unflatten(treedef, leaves[:first] + late)
