"""Which leaves a method masks, what their axes mean, and how many weights of each layer are active."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dstjax import budgets, distributions, layouts
from dstjax._arrays.layout import Layout, kernel_of, layer_names
from dstjax._arrays.trees import is_array, is_traced, is_weight
from dstjax.method import Masking, Method, Start
from dstjax.rules import described

_log = logging.getLogger(__name__)
_views_log = logging.getLogger("dstjax.views")  # of its own, so that a loop that does what it says can silence it

Layouts = dict[str, Layout | None]  # by path; None where nothing is known


def masked_leaves(masking: Masking, leaves: Mapping[str, Any]) -> Layouts:
    """The leaves that a method masks, in the order of the tree, and what their axes mean.

    The rule is asked about arrays of real floating numbers; about others only where it chooses none of those, to say
    what is wrong. A map of densities may name others by mistake too.

    Raises:
      ValueError: no leaf is maskable, or one that should be masked is no real tensor, or empty, or of a layout that the
        method would have to guess.
    """
    arrays = {n: x for n, x in leaves.items() if is_array(x)}
    known = layouts.read(masking.layout, arrays)
    covers = getattr(masking.structure, "covers", None)  # a structure over several leaves says which
    rule = masking.maskable or covers or (lambda path, leaf: _is_default(leaf, known[path]))
    chosen = [name for name, leaf in arrays.items() if is_weight(leaf) and _answer(rule, name, leaf)]
    if not chosen and masking.maskable is not None:
        chosen = [name for name, leaf in arrays.items() if not is_weight(leaf) and _answer(rule, name, leaf)]
    if isinstance(masking.distribution, Mapping):
        chosen = distributions.masked_by_map(masking.distribution, chosen, list(arrays))
    for name in chosen:
        _check_leaf(name, leaves[name])
        if not leaves[name].shape and masking.distribution in ("er", "erk"):
            raise ValueError(
                f"leaf {name!r} is a single number, for which distribution={masking.distribution!r} has no density; "
                "leave it dense with maskable=, or take 'uniform'."
            )
    if not leaves:
        raise ValueError(
            "dstjax finds nothing to mask, since the parameters hold no arrays; expected a tree of arrays. Where "
            "optax.tree.map_params asks for a state of no parameters, map over that of the inner optimiser: "
            "opt_state._replace(inner_state=optax.tree.map_params(inner, f, opt_state.inner_state))."
        )
    if not chosen:
        raise ValueError(
            "dstjax finds nothing to mask among "
            + ", ".join(f"{name!r} ({layouts.reason(name, leaf)})" for name, leaf in leaves.items())
            + "; by default weights of two or more axes are masked, maskable=lambda path, leaf: ... chooses others."
        )
    found = {name: one if isinstance(one := known[name], Layout) else None for name in chosen}
    for name, layout in found.items():
        if layout is None:
            _check_guess(masking, name, tuple(leaves[name].shape))
    return found


def known_layouts(masking: Masking | None, leaves: Mapping[str, Any], masked: list[str]) -> list[Layout | None]:
    """What the axes of the masked leaves mean, without asking again which are masked."""
    if masking is None:  # a state of another method
        return [None] * len(masked)
    known = layouts.read(masking.layout, leaves)
    return [one if isinstance(one := known.get(name), Layout) else None for name in masked]


def _answer(rule: Callable[[str, Any], Any], path: str, leaf: Any) -> bool:
    """What ``maskable=`` says of a leaf."""
    found = rule(path, leaf)
    if is_traced(found) or np.ndim(found):
        raise ValueError(
            f"maskable={described(rule)} returned {described(found)} for leaf {path!r}; expected True or False, known "
            "at trace time."
        )
    return bool(found)


def _is_default(leaf: Any, known: Layout | str | None) -> bool:
    """Whether a leaf is masked by default, given what is known of it (:func:`dstjax.layouts.read`)."""
    if known is None:
        return False
    return not known.is_table if isinstance(known, Layout) else len(leaf.shape) >= 2


def layers_of(masked: Layouts, leaves: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The dimensions (window..., in, out) of each layer of the masked leaves, by name and in their order."""
    found: dict[str, tuple[int, ...]] = {}
    for path, layout in masked.items():
        found |= dict.fromkeys(_names(path, layout, leaves), kernel_of(layout, tuple(leaves[path].shape)))
    return found


def _names(path: str, layout: Layout | None, leaves: Mapping[str, Any]) -> list[str]:
    return layer_names(path, layout, tuple(leaves[path].shape))


def active_counts(masking: Masking | None, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """How many active weights each masked layer has, by its name.

    Args:
      masking: what is masked; None: nothing.
      leaves: path -> array, or its shape and dtype.

    Raises:
      ValueError: no leaf is maskable, one that should be masked is no real tensor, or one is too small.
    """
    if masking is None:
        return {}
    masked = masked_leaves(masking, leaves)
    shapes = layers_of(masked, leaves)
    across = getattr(masking.structure, "across_leaves", False)  # a channel is in leaves of all sizes
    counts = distributions.active_counts(masking.distribution, shapes, masking.sparsity, raise_to_one=across)
    stored = {n: (one, tuple(leaves[p].shape)) for p, one in masked.items() for n in _names(p, one, leaves)}
    return masking.structure.counts(shapes, counts, stored)


def initial_counts(masking: Masking | None, start: Start, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Active weights of each masked layer before the first step."""
    if masking is None or start.sparsity is None:
        return active_counts(masking, leaves)
    if starts_dense(start):
        shapes = layers_of(masked_leaves(masking, leaves), leaves)
        counts = {name: math.prod(shape) for name, shape in shapes.items()}
        distributions.check_countable(counts)
        return counts
    return active_counts(dataclasses.replace(masking, sparsity=start.sparsity), leaves)


def starts_dense(start: Start) -> bool:
    """Whether all weights are active at first."""
    return isinstance(start.sparsity, int | float) and start.sparsity == 0


def prunes(method: Method) -> bool:
    """Whether a method goes on from masks that are denser than its end, and brings each layer, or all, down to it."""
    return method.start.sparsity is not None or (method.updates is not None and method.updates.n_kept == budgets.target)


def announce(method: Method, masked: Layouts, leaves: Mapping[str, Any]) -> None:
    """Logs in one line what is masked and what is not, and warns of what is masked in doubt, and of dense weights."""
    masking = method.masking
    assert masking is not None  # or nothing is masked
    if method.seen.view is not None:
        _views_log.warning(
            "method %r keeps dense weights behind its masks: take the gradient at "
            "dstjax.forward_params(params, opt_state), or a dense network is trained; evaluate and deploy "
            "forward_params(..., training=False)",
            method.name,
        )
    density, asked = getattr(masking.structure, "density", None), masking.sparsity
    if density is not None and isinstance(asked, int | float) and abs(1 - asked - density) > 1e-6:
        _log.warning(
            "structure=%s alone says how many weights are active: the sparsity is %.4g, not %.4g as asked for",
            masking.structure,
            1 - density,
            asked,
        )
    dense: dict[str, int] = {}
    for name, leaf in leaves.items():
        if name not in masked:
            why = layouts.reason(name, leaf)
            dense[why] = dense.get(why, 0) + 1
    left = ", ".join(f"{n} {why}" for why, n in dense.items()) or "none"
    _log.info("masks %d of %d leaves; dense: %s", len(masked), len(leaves), left)
    doubtful = [name for name, layout in masked.items() if layout is None]
    if doubtful and masking.maskable is None and not hasattr(masking.structure, "covers"):
        _log.warning(
            "masks %s, of which neither name nor layout says that %s; give layout= (dstjax.layouts), or leave out what "
            "is no weight with maskable=",
            ", ".join(f"{n} {tuple(leaves[n].shape)}" for n in doubtful),
            "it is a weight" if len(doubtful) == 1 else "they are weights",
        )


def _check_leaf(name: str, leaf: Any) -> None:
    if not is_weight(leaf):
        raise ValueError(
            f"leaf {name!r} has dtype {leaf.dtype}; only real floating leaves can be masked. "
            "Exclude it with maskable=lambda path, leaf: ..."
        )
    if 0 in leaf.shape:
        raise ValueError(
            f"leaf {name!r} of shape {leaf.shape} has no weights to mask. "
            "Exclude it with maskable=lambda path, leaf: ..."
        )


def _check_guess(masking: Masking, name: str, shape: tuple[int, ...]) -> None:
    """Refuses what would have to guess which axes are inputs, outputs and layers."""
    needs = None
    if len(shape) < 2:
        return
    if getattr(masking.structure, "reads_layout", True):
        needs = f"structure={masking.structure}"
    elif masking.distribution in ("er", "erk") and len(shape) > 2 and not layouts.looks_like_convolution(shape):
        needs = f"distribution={masking.distribution!r}"
    if needs is not None:
        such = "stack " * (len(shape) - 2) + "in out"
        raise ValueError(
            f"{needs} needs the meaning of the axes of leaf {name!r} of shape {shape}, which its name does not tell; "
            f"expected one such as layout={{{name!r}: {such!r}}} (see dstjax.layouts), what "
            "dstjax.program.layouts reads from the model, or to leave the leaf dense with maskable=."
        )
