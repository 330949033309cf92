"""The ``state_dict`` of PyTorch, from the variables of Flax and back, by names and axes; without PyTorch."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dstjax import layouts
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import named
from dstjax._arrays.trees import Tree, is_array
from dstjax._engine.states import masks_of, refuse_several
from dstjax.exchange.host import Weight, check_like, trees_of, weights_of

_COLLECTIONS = ("params", "batch_stats")
_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "weight": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_ORIGINAL, _MASK = "_orig", "_mask"  # as torch.nn.utils.prune names them
_COUNTERS = re.compile(r"(^|\.)num_batches_tracked$")


class _Axes(NamedTuple):
    """How an array of Flax lies in PyTorch."""

    order: tuple[int, ...]  # axes of the leaf in the order of PyTorch
    shape: tuple[int, ...]  # there
    flipped: tuple[int, ...]  # axes there that run the other way

    def there(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.flip(x.transpose(self.order).reshape(self.shape), self.flipped))

    def back(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        turned = np.flip(x, self.flipped).reshape([shape[a] for a in self.order])
        return np.ascontiguousarray(turned.transpose(np.argsort(self.order)))


def to_torch(
    variables: Tree,
    opt_state_or_masks: Tree | None = None,
    *,
    layout: Any = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    r"""Returns the parameters of a Flax model, Linen or NNX, as a ``state_dict`` of PyTorch.

    ==================================  ============================  ==========================================
    Flax                                PyTorch                       axes
    ==================================  ============================  ==========================================
    Dense ``kernel``                    Linear ``weight``             (in, out) to (out, in)
    Conv ``kernel``                     Conv ``weight``               (window..., in, out) to (out, in, window...)
    ConvTranspose ``kernel``            ConvTranspose ``weight``      (window..., in, out) to (in, out, window...),
                                                                      windows turned round
    Embed ``embedding``                 Embedding ``weight``          as they are
    ``scale`` of a norm                 ``weight``                    as they are
    ``bias``                            ``bias``                      as they are
    BatchNorm ``mean``, ``var``         ``running_mean`` and ``_var``  as they are
    ==================================  ============================  ==========================================

    The path of a module is joined by dots, without the collections ``params`` and ``batch_stats``. Several axes of
    inputs or of outputs, as of attention heads, become one. A masked leaf becomes ``weight_orig`` and ``weight_mask``,
    as a model that ``torch.nn.utils.prune`` has pruned has them. A transposed convolution is known by the name of its
    module (ConvTranspose, deconv, ...); one that was made with ``transpose_kernel=True`` has (window..., out, in),
    which ``layout`` must say, and is not turned round. PyTorch packs recurrent cells and attention differently: these
    come as the plain layers that Flax has.

    Args:
      variables: ``{"params": ..., "batch_stats": ...}``, the parameters alone, or a state of NNX.
      opt_state_or_masks: an optimiser state, or a tree of masks, like ``variables`` or like its ``params``; None writes
        no masks.
      layout: what the axes mean, as in :func:`dstjax.sparsify`.
      names: ``{regex: replacement}``, applied in order to each name of PyTorch: ``{r"^Dense_0\.": "fc1."}``.

    Returns:
      NumPy arrays by name; ``{n: torch.from_numpy(x) for n, x in ...}`` is what ``load_state_dict`` takes. PyTorch does
      not take bfloat16 from NumPy: cast the parameters to float32 before.

    Raises:
      ValueError: a leaf has no counterpart, two have the same name, a leaf stacks layers, or the layout of one is not
        known; or as :func:`dstjax.exchange.save_npz`.
    """
    refuse_several(opt_state_or_masks, "write")
    of_params = isinstance(variables, Mapping) and "params" in variables and opt_state_or_masks is not None
    weights = weights_of(variables, _within(opt_state_or_masks) if of_params else opt_state_or_masks)
    placed = _placed({n: w.values for n, w in weights.items()}, layout, names)
    state: dict[str, np.ndarray] = {}
    for path, (values, mask) in weights.items():
        name, axes = placed[path]
        if mask is None:
            state[name] = axes.there(values)
        else:
            state[name + _ORIGINAL] = axes.there(values)
            state[name + _MASK] = axes.there(mask).astype(values.dtype)
    return state


def from_torch(
    state_dict: Mapping[str, Any],
    like: Tree,
    *,
    layout: Any = None,
    names: Mapping[str, str] | None = None,
) -> tuple[Tree, Tree]:
    """Returns the variables of a Flax model, and masks, from a ``state_dict``: undoes :func:`to_torch`.

    Args:
      state_dict: arrays or tensors by name. ``weight_orig`` and ``weight_mask`` are multiplied, as PyTorch does.
      like: variables of the model, or their shapes, such as ``jax.eval_shape(model.init, key, x)`` returns them.
      layout: as in :func:`to_torch`.
      names: as in :func:`to_torch`, of Flax's names to those of ``state_dict``.

    Returns:
      Trees like ``like`` of NumPy arrays; the masks are boolean, None where ``state_dict`` has none.

    Raises:
      ValueError: ``state_dict`` lacks an array or has others, one has another shape or dtype, or a mask is not of zeros
        and ones; or as :func:`to_torch`.
    """
    leaves = {n: x for n, x in named(like).items() if is_array(x)}
    rest = {n: x for n, x in state_dict.items() if not _COUNTERS.search(n)}
    found, missing = {}, []
    for path, (name, axes) in _placed(leaves, layout, names).items():
        leaf = leaves[path]
        shape, mask = tuple(leaf.shape), None
        if name + _ORIGINAL in rest and name + _MASK in rest:
            values, flags = _array(rest.pop(name + _ORIGINAL)), _array(rest.pop(name + _MASK))
            if flags.shape != values.shape or not np.isin(flags, (0, 1)).all():
                raise ValueError(
                    f"{name + _MASK!r} of shape {flags.shape} is no mask of {name + _ORIGINAL!r} of shape "
                    f"{values.shape}; expected zeros and ones of its shape."
                )
            values, mask = np.where(flags != 0, values, np.zeros((), values.dtype)), flags != 0
        elif name in rest:
            values = _array(rest.pop(name))
        else:
            missing.append(name)
            continue
        check_like(name, values, jax.ShapeDtypeStruct(axes.shape, leaf.dtype), "the state_dict")
        found[path] = Weight(axes.back(values, shape), None if mask is None else axes.back(mask, shape))
    if missing or rest:
        raise ValueError(
            f"the state_dict lacks {missing} and has {sorted(rest)} besides; names= maps Flax's names to those of "
            "PyTorch, such as {r'^Dense_0\\.': 'fc1.'}."
        )
    return trees_of(found, like, "the state_dict")


def _within(opt_state_or_masks: Tree) -> Tree:
    """Masks of ``params`` as masks of all variables, which they may be already."""
    masks = masks_of(opt_state_or_masks)
    return masks if isinstance(masks, Mapping) and "params" in masks else {"params": masks}


def _placed(leaves: Mapping[str, Any], layout: Any, names: Mapping[str, str] | None) -> dict[str, tuple[str, _Axes]]:
    """The name of each leaf in PyTorch, and how it lies there."""
    known = layouts.read(layout, leaves)
    placed: dict[str, tuple[str, _Axes]] = {}
    taken: dict[str, str] = {}
    for path, leaf in leaves.items():
        folders = path.split("/")
        module, last = [f for i, f in enumerate(folders[:-1]) if i or f not in _COLLECTIONS], folders[-1]
        if last not in _NAMES:
            raise ValueError(
                f"leaf {path!r} has no counterpart in PyTorch by its name; expected one of {', '.join(_NAMES)}."
            )
        name = ".".join([*module, _NAMES[last]])
        for pattern, replacement in (names or {}).items():
            try:
                name = re.sub(pattern, replacement, name)
            except (re.error, TypeError) as error:
                raise ValueError(f"names={{{pattern!r}: {replacement!r}}} is no regular expression: {error}.") from None
        if name in taken:
            raise ValueError(
                f"leaves {taken[name]!r} and {path!r} would both be {name!r}; tell them apart with names=."
            )
        taken[name] = path
        placed[path] = (name, _axes(path, last, tuple(leaf.shape), known[path], "/".join([*module, "weight"])))
    return placed


def _axes(path: str, last: str, shape: tuple[int, ...], layout: Layout | str | None, in_torch: str) -> _Axes:
    if not isinstance(layout, Layout):
        if len(shape) > 1 and _NAMES[last] == "weight":
            raise ValueError(
                f"the meaning of the axes of leaf {path!r} of shape {shape} is not known; expected one such as "
                f"layout={{{path!r}: 'in out'}} (see dstjax.layouts)."
            )
        return _Axes((*range(len(shape)),), (math.prod(shape),) if shape else (), ())
    if layout.stack:
        raise ValueError(
            f"leaf {path!r} of shape {shape} stacks {layout.layers(shape)} layers, which no layer of PyTorch does; "
            "take it apart before."
        )
    inputs, outputs, windows = layout.inputs, layout.outputs, layout.windows
    lead = tuple(math.prod(shape[a] for a in axes) for axes in (outputs, inputs))
    if layout.is_table:
        return _Axes(inputs + outputs, lead[::-1], ())
    sizes = tuple(shape[a] for a in windows)
    torchs = layouts.torch(in_torch, jax.ShapeDtypeStruct((*lead, *sizes), np.float32))
    if windows and isinstance(torchs, str) and torchs.startswith("in "):  # a transposed convolution
        # That of Flax slides its kernel over the output as a convolution does, that of PyTorch spreads it out.
        turned = max(inputs) < min(outputs)
        return _Axes(
            inputs + outputs + windows, (*lead[::-1], *sizes), tuple(range(2, 2 + len(sizes))) if turned else ()
        )
    return _Axes(outputs + inputs + windows, (*lead, *sizes), ())


def _array(x: Any) -> np.ndarray:
    """A NumPy array of an array or of a tensor of PyTorch, wherever it lies."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
