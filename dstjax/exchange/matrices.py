"""Sparse matrices of ``scipy.sparse`` for each layer."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dstjax import layouts
from dstjax._arrays.layout import Layout, layer_names
from dstjax._arrays.leaves import named
from dstjax._arrays.trees import Tree, is_array
from dstjax._engine.states import refuse_several
from dstjax.exchange.host import Weight, check_like, imported, trees_of, weights_of


def to_scipy(params: Tree, opt_state_or_masks: Tree, *, layout: Any = None) -> dict[str, Any]:
    """Returns a ``scipy.sparse.csr_array`` of (outputs, inputs) for each masked layer.

    ``y = matrix @ x`` is what a dense layer computes of one sample. Several axes of outputs count as one, row-major in
    the order of the leaf. The columns of a convolution are numbered by (window..., in...), row-major: the column of a
    3 x 3 window at row i and column j and of input c of C is (3 i + j) C + c. An active weight that is 0 is stored.

    Args:
      params: tree of arrays, zero outside their masks.
      opt_state_or_masks: an optimiser state, or a tree of masks; leaves without a mask are left out.
      layout: what the axes mean, as in :func:`dstjax.sparsify`.

    Returns:
      The matrices by path; of a leaf that stacks layers ``path[0]``, ``path[1]``, ...

    Raises:
      ValueError: scipy is not installed, or has no sparse matrices of the dtype; the layout of a leaf is not known; or
        as :func:`dstjax.exchange.save_npz`.
    """
    sparse = imported("scipy.sparse", "dstjax.exchange.to_scipy")
    refuse_several(opt_state_or_masks, "write")
    matrices = {}
    weights = weights_of(params, opt_state_or_masks)
    known = layouts.read(layout, {n: w.values for n, w in weights.items()})
    for path, (values, mask) in weights.items():
        if mask is None:
            continue
        one = _known(path, known[path], values.shape)
        if values.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"leaf {path!r} has dtype {values.dtype}, of which scipy.sparse has no matrices; cast the parameters "
                "to float32 or float64 before."
            )
        layers = zip(_rows(values, one), _rows(mask, one), strict=True)
        for name, (layer, flags) in zip(layer_names(path, one, values.shape), layers, strict=True):
            at = np.nonzero(flags)
            matrices[name] = sparse.csr_array((layer[at], at), shape=layer.shape)
    return matrices


def from_scipy(matrices: Mapping[str, Any], like: Tree, *, layout: Any = None) -> tuple[Tree, Tree]:
    """Returns parameters and masks from matrices as :func:`to_scipy` makes them; what is stored is active.

    Args:
      matrices: sparse matrices by path, of any format of scipy.
      like: parameters, of which those without a matrix are taken as they are.
      layout: what the axes mean, as in :func:`dstjax.sparsify`.

    Returns:
      Trees of NumPy arrays like ``like``; the masks are boolean, None where there was no matrix.

    Raises:
      ValueError: a matrix belongs to no leaf, or has another shape or dtype; a layer of a stack has none; or the layout
        of a leaf is not known.
    """
    leaves = {n: x for n, x in named(like).items() if is_array(x)}
    known = layouts.read(layout, leaves)
    rest, found = {**matrices}, {}
    for path, leaf in leaves.items():
        shape, one = tuple(leaf.shape), known[path]
        names = layer_names(path, one if isinstance(one, Layout) else None, shape)
        if not any(name in rest for name in names):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"leaf {path!r} has no matrix, and like= has only its shape; expected the parameters themselves "
                    "there, or a matrix for each leaf."
                )
            found[path] = Weight(np.asarray(leaf), None)
            continue
        if missing := [name for name in names if name not in rest]:
            raise ValueError(f"the matrices lack {missing}; expected one for each layer of leaf {path!r}.")
        one = _known(path, one, shape)
        rows = _rows(np.zeros(shape, leaf.dtype), one)
        flags = np.zeros(rows.shape, bool)
        for i, name in enumerate(names):
            matrix = rest.pop(name)
            if not hasattr(matrix, "tocoo"):
                raise ValueError(f"{name!r} is a {type(matrix).__name__}; expected a sparse matrix of scipy.")
            triplets = matrix.tocoo(copy=True)  # not the caller's
            triplets.sum_duplicates()
            check_like(name, triplets, rows[i], "the matrices")
            at = (triplets.row, triplets.col)
            rows[i][at], flags[i][at] = triplets.data, True
        found[path] = Weight(_undone(rows, one, shape), _undone(flags, one, shape))
    if rest:
        raise ValueError(f"the matrices {sorted(rest)} belong to no leaf; expected some of {sorted(leaves)}.")
    return trees_of(found, like, "the matrices")


def _known(path: str, layout: Layout | str | None, shape: tuple[int, ...]) -> Layout:
    if isinstance(layout, Layout):
        return layout
    raise ValueError(
        f"the meaning of the axes of leaf {path!r} of shape {shape} is not known; expected one such as "
        f"layout={{{path!r}: 'in out'}} (see dstjax.layouts)."
    )


def _order(layout: Layout) -> tuple[int, ...]:
    return layout.stack + layout.outputs + layout.windows + layout.inputs


def _rows(x: np.ndarray, layout: Layout) -> np.ndarray:
    """Returns an array of (layers, outputs, window and inputs)."""
    outputs = math.prod(x.shape[a] for a in layout.outputs)
    return x.transpose(_order(layout)).reshape(layout.layers(x.shape), outputs, -1)


def _undone(rows: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    order = _order(layout)
    return np.ascontiguousarray(rows.reshape([shape[a] for a in order]).transpose(np.argsort(order)))
