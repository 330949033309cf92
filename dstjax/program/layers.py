"""Finds the products of a program with a leaf of the parameters: its layers, and how their sizes depend on channels."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dstjax._arrays.leaves import named
from dstjax._arrays.trees import Tree
from dstjax.program.channel_reader import LOOK_INTO, read
from dstjax.program.flops import literal, moves, of_leaves
from dstjax.program.origins import Origin, strongest
from dstjax.program.primitives import scan_sizes
from dstjax.program.tracing import trace
from dstjax.program.walking import programs, walk


class Product(NamedTuple):
    """One product of the program; groups are those of :func:`dstjax.program.channels`, -1 for what stays."""

    leaf: str
    eqn: Any  # its equation, dot_general or conv_general_dilated
    weight: int  # which operand the leaf is
    inputs: tuple[np.ndarray, ...]  # of each axis of the weight that is contracted, the group of each index
    outputs: tuple[np.ndarray, ...]  # of each axis that is kept
    times: int  # how often a loop runs it


def layers(function: Callable[..., Any], params: Tree, *args: Any) -> list[Product]:
    """Returns the products of a program with a leaf, in the order of the program.

    Those inside branches, and inside loops whose number of rounds does not show, are left out.

    Raises:
      ValueError: the program branches on values.
    """
    shapes = {path: tuple(np.shape(x)) for path, x in named(params).items()}
    closed, _ = trace(function, params, args)
    record = read(closed, shapes, free_inputs=False)
    roots = record.labels.roots(np.arange(len(record.labels)))
    ends = {path: [roots[a.labels] for a in axes] for path, axes in record.leaves.items()}
    every = np.unique(np.concatenate([np.zeros(1, np.int64), *(r for axes in ends.values() for r in axes)]))
    number = np.full(len(record.labels), -1)
    number[every] = np.arange(-1, len(every) - 1)
    found: list[Product] = []

    def run(jaxpr: Any, inputs: Sequence[Origin], path: tuple[Any, ...], times: int) -> list[Any]:
        count = itertools.count()

        def equation(eqn: Any, operands: list[Origin]) -> list[Origin]:
            place, name, inner = (*path, next(count)), eqn.primitive.name.replace("-", "_"), programs(eqn)
            if name == "scan":
                consts, carried = scan_sizes(eqn.params)
                carry = [Origin(data=True)] * carried
                given = [*operands[:consts], *carry, *operands[consts + carried :]]
                run(inner[0][0], given, place, times * eqn.params["length"])
            elif name in LOOK_INTO and len(inner) == 1 and len(inner[0][0].invars) == len(operands):
                return run(inner[0][0], operands, place, times)
            elif name in _ENDS and place in record.operands:
                fed = strongest(operands[:2])
                weights = [i for i, v in enumerate(operands[:2]) if v.parts == fed.parts]
                if len(fed.parts) == len(weights) == 1:
                    w = weights[0]
                    axes = [number[roots[labels]] for labels in record.operands[place][w]]
                    contracted, kept = _ENDS[name](eqn, w)
                    inward, outward = (tuple(axes[a] for a in side) for side in (contracted, kept))
                    found.append(Product(fed.parts[0][0], eqn, w, inward, outward, times))
            moved = moves(eqn, operands)
            return moved or [Origin(data=any(v.data for v in operands))] * len(eqn.outvars)

        return walk(jaxpr, inputs, [Origin()] * len(jaxpr.constvars), equation, literal, every=False)

    leaves = of_leaves(shapes, len(closed.jaxpr.invars))
    run(closed.jaxpr, leaves, (), 1)
    return found


def resized(product: Product, inputs: int, outputs: int) -> tuple[list[tuple[int, ...]], dict[str, Any]]:
    """Returns the shapes of the operands with other numbers of inputs and outputs, and the parameters of the primitive.

    Only the axes with channels change; of several on a side the first.
    """
    eqn, w = product.eqn, product.weight
    shapes = [list(v.aval.shape) for v in eqn.invars]
    params = dict(eqn.params)
    if eqn.primitive.name == "dot_general":
        (contracted, _), kept = eqn.params["dimension_numbers"], _ENDS["dot_general"](eqn, w)[1]
        mine, other = contracted[w], contracted[1 - w]
        k = _changed(product.inputs)
        size = _divided(inputs, [shapes[w][a] for i, a in enumerate(mine) if i != k])
        if mine:
            shapes[w][mine[k]] = shapes[1 - w][other[k]] = size
        k = _changed(product.outputs)
        if kept:
            shapes[w][kept[k]] = _divided(outputs, [shapes[w][a] for i, a in enumerate(kept) if i != k])
    else:
        numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
        if groups > 1:  # a group goes with its outputs
            groups = max(1, groups * outputs // shapes[1][numbers.rhs_spec[0]])
        shapes[1][numbers.rhs_spec[0]], shapes[1][numbers.rhs_spec[1]] = outputs, inputs
        shapes[0][numbers.lhs_spec[1]] = inputs * groups
        params["feature_group_count"] = groups
    return [tuple(s) for s in shapes], params


def _changed(axes: Sequence[np.ndarray]) -> int:
    return next((i for i, groups in enumerate(axes) if (groups >= 0).any()), 0)


def _divided(size: int, others: Sequence[int]) -> int:
    return max(1, size // int(np.prod(others, dtype=np.int64)))


def _of_dot(eqn: Any, w: int) -> tuple[Sequence[int], Sequence[int]]:
    contracted, batch = (sides[w] for sides in eqn.params["dimension_numbers"])
    kept = [a for a in range(len(eqn.invars[w].aval.shape)) if a not in (*contracted, *batch)]
    return contracted, kept


def _of_convolution(eqn: Any, w: int) -> tuple[Sequence[int], Sequence[int]]:
    spec = eqn.params["dimension_numbers"].rhs_spec
    return [spec[1]], [spec[0]]


_ENDS: dict[str, Callable[[Any, int], tuple[Sequence[int], Sequence[int]]]] = {
    "conv_general_dilated": _of_convolution,
    "dot_general": _of_dot,
}
