"""Runs the program of a network with other products in the place of those with some leaves."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program.kernels.forms import Table
from dstjax.program.kernels.products import Product
from dstjax.program.primitives import CALLS, scan_sizes
from dstjax.program.walking import apply, programs, walk

Groups = tuple[tuple[int, ...], ...]
_COPIES = {"copy", "copy_p", "name"}
_WITHOUT_DERIVATIVE = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"}
_LOOKED_INTO = CALLS - _WITHOUT_DERIVATIVE - {"shard_map", "composite"}


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """Stands for a leaf in the program: its values, and which axes of the leaf each of its axes is."""

    path: str
    product: Product
    values: jax.Array  # of all layers, or of the one that a scan is at
    table: Table
    groups: Groups
    stacked: bool  # whether the first axis of values and table numbers layers

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape that the program sees."""
        return tuple(math.prod(self.product.form.shape[a] for a in group) for group in self.groups)

    @property
    def axes(self) -> tuple[int, ...]:
        """Returns the axes of the leaf in the order of the program."""
        return tuple(a for group in self.groups for a in group)


jax.tree_util.register_dataclass(
    Held, data_fields=["values", "table"], meta_fields=["path", "product", "groups", "stacked"]
)


class RefusedError(Exception):
    """Says why a leaf cannot be held sparse in this program."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path, self.why = path, why


@dataclasses.dataclass
class Rewriter:
    """Runs a program; ``used`` gets the path of a leaf and the rows of each product with it."""

    used: Callable[[str, int], None]

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Returns the results of a jaxpr.

        Raises:
          RefusedError: a leaf that is held meets something else than a product over its inputs.
        """
        found = walk(jaxpr, inputs, consts, self._equation, lambda atom: atom.val, every=False)
        for x in found:
            _refuse([x], "is a result of the program, or of a part of it")
        return found

    def _equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        held = [x for x in operands if isinstance(x, Held)]
        if not held:
            return apply(eqn, operands)
        name, first = eqn.primitive.name.replace("-", "_"), held[0]
        if name == "dot_general":
            return [self._dot(eqn, operands)]
        if name in _MOVES:
            return [_MOVES[name](eqn, first)]
        if name in _COPIES:
            return [first]
        if name in _LOOPS:
            return _LOOPS[name](self, eqn, operands)
        if name in _LOOKED_INTO:
            return self._call(eqn, operands)
        raise RefusedError(first.path, f"goes into {name!r}, which is no product with it")

    def _call(self, eqn: Any, operands: list[Any]) -> list[Any]:
        (inner,) = programs(eqn)

        def run(*given: Any) -> list[Any]:
            return self.run(*inner, given)

        if eqn.primitive.name in ("checkpoint", "remat", "remat2"):
            options = {n: eqn.params[n] for n in ("prevent_cse", "policy") if n in eqn.params}
            return jax.checkpoint(run, **options)(*operands)
        return run(*operands)

    def _dot(self, eqn: Any, operands: list[Any]) -> Any:
        (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
        left, right = operands
        if isinstance(left, Held) and isinstance(right, Held):
            raise RefusedError(left.path, f"is multiplied with another leaf, {right.path!r}")
        if isinstance(left, Held):
            leaf, x, mine, others = left, right, (lc, lb), (rc, rb)
        else:
            leaf, x, mine, others = right, left, (rc, rb), (lc, lb)
        product, x = leaf.product, jnp.asarray(x)
        form = product.form
        layout, shape = form.layout, form.shape

        def of(axes: Sequence[int]) -> tuple[int, ...]:
            return tuple(a for k in axes for a in leaf.groups[k])

        free = [k for k in range(len(leaf.groups)) if k not in (*mine[0], *mine[1])]
        inputs, outputs = of(mine[0]), of(free)
        if sorted(inputs) != sorted(layout.inputs) or not {*layout.outputs} <= {*outputs}:
            raise RefusedError(leaf.path, "is multiplied along other axes than its inputs, as in a backward pass")
        if len(outputs) > len(layout.outputs) or of(mine[1]) != (layout.stack if leaf.stacked else ()):
            raise RefusedError(leaf.path, "has layers that the product does not go through one by one")
        rest = [k for k in range(x.ndim) if k not in (*others[0], *others[1])]
        sizes = [x.shape[k] for k in rest]
        x = x.transpose([*others[1], *rest, *others[0]])
        x = x.reshape([*(shape[a] for a in of(mine[1])), *sizes, *(shape[a] for a in inputs)])
        before = x.ndim - len(inputs)  # the inputs in the order of the leaf
        x = x.transpose([*range(before), *(before + inputs.index(a) for a in layout.inputs)])
        rows = math.prod(sizes)
        _, width, height = form.size
        x, values = self._as_fine_as(eqn.outvars[0].aval.dtype, leaf, x)
        precision = eqn.params["precision"]
        if leaf.stacked:
            layers = math.prod(shape[a] for a in layout.stack)
            many = jax.vmap(lambda x, v, t: product(x, v, t, precision))
            found = many(x.reshape(layers, rows, width), values, leaf.table)
        else:
            found = product(x.reshape(rows, width), values, leaf.table, precision)
        self.used(leaf.path, rows)
        batch = [shape[a] for a in of(mine[1])]
        found = found.reshape([*batch, *sizes, *(shape[a] for a in layout.outputs)]).astype(eqn.outvars[0].aval.dtype)
        assert math.prod(shape[a] for a in layout.outputs) == height
        n, m = len(batch), len(batch) + len(sizes)
        mine_last = [m + layout.outputs.index(a) for a in outputs]
        order = [*range(n), *mine_last, *range(n, m)] if leaf is left else [*range(m), *mine_last]
        return found.transpose(order).reshape(eqn.outvars[0].aval.shape)

    def _as_fine_as(self, result: Any, leaf: Held, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the data and values of a product in the dtype in which it is added up."""
        wide = jnp.promote_types(jnp.promote_types(x.dtype, leaf.values.dtype), result)
        if leaf.product.name == "csr":  # scipy has nothing narrower
            wide = jnp.promote_types(wide, jnp.float32)
        return x.astype(wide), leaf.values.astype(wide)

    def _scan(self, eqn: Any, operands: list[Any]) -> list[Any]:
        consts, carried = scan_sizes(eqn.params)
        split, body = consts + carried, eqn.params["jaxpr"]
        _refuse(operands[consts:split], "is carried by a loop")

        def round_of(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
            at = [_layer(x) if isinstance(x, Held) else x for x in slices]
            found = self.run(body.jaxpr, body.consts, [*operands[:consts], *carry, *at])
            return found[:carried], found[carried:]

        for x in operands[split:]:
            if isinstance(x, Held) and x.groups[0] != x.product.form.layout.stack:
                raise RefusedError(x.path, "is gone through along another axis than its layers")
        options = {n: eqn.params[n] for n in ("length", "reverse", "unroll")}
        carry, stacked = jax.lax.scan(round_of, operands[consts:split], operands[split:], **options)
        return [*carry, *stacked]

    def _while(self, eqn: Any, operands: list[Any]) -> list[Any]:
        test, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        asked, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        _refuse(operands[test + consts :], "is carried by a loop")

        def goes_on(carry: Any) -> Any:
            return self.run(asked.jaxpr, asked.consts, [*operands[:test], *carry])[0]

        def round_of(carry: Any) -> Any:
            return self.run(body.jaxpr, body.consts, [*operands[test : test + consts], *carry])

        return list(jax.lax.while_loop(goes_on, round_of, operands[test + consts :]))

    def _cond(self, eqn: Any, operands: list[Any]) -> list[Any]:
        def branch(closed: Any) -> Callable[..., list[Any]]:
            return lambda *given: self.run(closed.jaxpr, closed.consts, given)

        return list(jax.lax.switch(operands[0], [branch(c) for c in eqn.params["branches"]], *operands[1:]))


_LOOPS = {"scan": Rewriter._scan, "while": Rewriter._while, "cond": Rewriter._cond}


def _refuse(values: Sequence[Any], why: str) -> None:
    for x in values:
        if isinstance(x, Held):
            raise RefusedError(x.path, why)


def _layer(x: Held) -> Held:
    """Returns the layer that a scan is at, of which values and table have been sliced."""
    return dataclasses.replace(x, groups=x.groups[1:], stacked=False)


def _transpose(eqn: Any, x: Held) -> Held:
    return dataclasses.replace(x, groups=tuple(x.groups[k] for k in eqn.params["permutation"]))


def _reshape(eqn: Any, x: Held) -> Held:
    return _regrouped(x, eqn.params["new_sizes"])


def _broadcast(eqn: Any, x: Held) -> Held:
    shape = eqn.params["shape"]
    if math.prod(shape) != math.prod(x.shape):
        raise RefusedError(x.path, "is repeated")
    return _regrouped(x, shape)


def _squeeze(eqn: Any, x: Held) -> Held:
    return _regrouped(x, eqn.outvars[0].aval.shape)


def _convert(eqn: Any, x: Held) -> Held:
    dtype = eqn.params["new_dtype"]
    if not jnp.issubdtype(dtype, np.floating):
        raise RefusedError(x.path, f"is converted to {dtype}")
    return dataclasses.replace(x, values=x.values.astype(dtype))


_MOVES = {
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _convert,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
}


def _regrouped(x: Held, shape: Sequence[int]) -> Held:
    """Returns the leaf in another shape, each of whose axes is made of whole axes of the leaf."""
    sizes, left, groups = x.product.form.shape, [*x.axes], []
    for n in shape:
        group: list[int] = []
        while left and math.prod(sizes[a] for a in group) < n:
            group.append(left.pop(0))
        if math.prod(sizes[a] for a in group) != n:
            raise RefusedError(x.path, "is reshaped so that an axis is taken apart")
        groups.append(tuple(group))
    groups[-1:] = [(*(groups[-1] if groups else ()), *left)]  # axes of length one
    return dataclasses.replace(x, groups=tuple(groups))
