"""Runs an inner optimiser so that its new state can be replaced without a second copy of it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from dstjax._arrays.trees import Tree

Change = Callable[[Any], Any]

# What these compute at one entry depends on no other entry.
# fmt: off
ENTRYWISE = frozenset({
    "abs", "add", "add_any", "and", "cbrt", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos", "div",
    "eq", "erf", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p",
    "log2", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "one_minus_square", "or",
    "polynomial", "pow", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square",
    "sub", "tan", "tanh", "xor",
})
# fmt: on
CALLS = frozenset(("jit", "pjit", "closed_call"))  # of a jaxpr that the parameter of that name holds


@dataclasses.dataclass(frozen=True)
class Replay:
    """``update(*args)``, a function that returns updates and a state, recorded to be run with its state replaced.

    Each leaf is replaced the moment that it is computed, and what is computed after that, the updates among it, reads
    the replaced leaf. A plain ``where`` around the result would do, but then XLA needs the new state twice, once
    replaced and once as it was for the updates, computes it twice, and copies the donated old state because both read
    it.
    """

    closed: Any  # the jaxpr
    treedef: Any  # of what it returns
    args: list[Any]  # leaves of the arguments
    first: int  # the first output that is a leaf of the state

    @staticmethod
    def of(update: Callable[..., tuple[Tree, Tree]], *args: Any) -> "Replay":
        """Records ``update(*args)``."""
        closed, shapes = jax.make_jaxpr(update, return_shape=True)(*args)
        first = len(jax.tree_util.tree_leaves(shapes[0]))
        return Replay(closed, jax.tree_util.tree_structure(shapes), jax.tree_util.tree_leaves(args), first)

    @property
    def state(self) -> Tree:
        """A tree like the state that it returns, of the types of its leaves."""
        return jax.tree_util.tree_unflatten(self.treedef, self.closed.out_avals)[1]

    @property
    def early(self) -> set[Any]:
        """The variables that are leaves of the state, and can be replaced when they are computed."""
        outputs = self.closed.jaxpr.outvars
        computed = {v for eqn in self.closed.jaxpr.eqns for v in eqn.outvars}
        shared = Counter(v for v in outputs if isinstance(v, core.Var))
        return {v for v in outputs[self.first :] if isinstance(v, core.Var) and v in computed and shared[v] == 1}

    def is_entrywise(self, leaves: Sequence[bool]) -> bool:
        """Whether what reads some of the new leaves reads them entry by entry: a replaced entry reaches no other.

        The norm of a moment, as in LAMB or Adafactor, reads them all.
        """
        outputs = self.closed.jaxpr.outvars[self.first :]
        chosen = {v for v, is_chosen in zip(outputs, leaves, strict=True) if is_chosen and isinstance(v, core.Var)}
        return _reached(self.closed.jaxpr, chosen & self.early) is not None

    def run(self, choose: Sequence[Change | None]) -> Any:
        """What ``update`` returns, with ``choose`` applied to the leaves of the state, None where one stays."""
        jaxpr = self.closed.jaxpr
        outputs, early = jaxpr.outvars, self.early
        changes = {
            v: of
            for v, of in zip(outputs[self.first :], choose, strict=True)
            if of is not None and isinstance(v, core.Var) and v in early
        }
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, self.closed.consts, strict=True))
        values.update(zip(jaxpr.invars, self.args, strict=True))

        def read(v: Any) -> Any:
            return v.val if isinstance(v, core.Literal) else values[v]

        for eqn in jaxpr.eqns:
            bound = eqn.primitive.get_bind_params(eqn.params)
            subfuns, keywords = bound if isinstance(bound, tuple) else ((), bound)  # jax < 0.10 gives a pair
            result = eqn.primitive.bind(*subfuns, *map(read, eqn.invars), **keywords)
            for v, x in zip(eqn.outvars, result if eqn.primitive.multiple_results else [result], strict=True):
                values[v] = changes[v](x) if v in changes else x

        def finished(v: Any, of: Change | None) -> Any:
            is_done = of is None or (isinstance(v, core.Var) and v in changes)
            return read(v) if is_done or of is None else of(read(v))

        late = [finished(v, of) for v, of in zip(outputs[self.first :], choose, strict=True)]
        return jax.tree_util.tree_unflatten(self.treedef, [read(v) for v in outputs[: self.first]] + late)


def _reached(jaxpr: Any, start: set[Any]) -> set[Any] | None:
    """All variables that depend on some of a jaxpr entry by entry; None if one depends on them in another way."""
    reached = set(start)
    for eqn in jaxpr.eqns:
        read = [isinstance(v, core.Var) and v in reached for v in eqn.invars]
        if not any(read):
            continue
        if eqn.primitive.name in CALLS:
            inner = eqn.params["jaxpr"].jaxpr
            within = _reached(inner, {v for v, r in zip(inner.invars, read, strict=True) if r})
            if within is None:
                return None
            reached |= {v for v, w in zip(eqn.outvars, inner.outvars, strict=True) if _is_in(w, within)}
            continue
        shapes = {v.aval.shape for v, r in zip(eqn.invars, read, strict=True) if r} | {
            v.aval.shape for v in eqn.outvars
        }
        if eqn.primitive.name not in ENTRYWISE or len(shapes) > 1:
            return None
        reached |= set(eqn.outvars)
    return reached


def _is_in(v: Any, variables: set[Any]) -> bool:
    return isinstance(v, core.Var) and v in variables
