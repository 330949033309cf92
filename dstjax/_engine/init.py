"""The state before the first step: which weights are active, and what the method remembers."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dstjax import masks
from dstjax._arrays.shares import floor_share
from dstjax._arrays.trees import Tree, is_hole, path_name
from dstjax._arrays.varying import varying_as
from dstjax._engine.counts import counts_of, initial_counts, starts_dense
from dstjax._engine.draw import random_masks
from dstjax._engine.moments import map_moments
from dstjax._engine.rewire import counter_dtype
from dstjax.method import Method
from dstjax.rules import Memory
from dstjax.state import SparseState, Tracked
from dstjax.structures import WEIGHT

InitialMasks = Tree | Callable[[Tree], Tree] | None


def start(
    inner: optax.GradientTransformationExtraArgs,
    method: Method,
    key: jax.Array,
    track: tuple[str, ...],
    params: Tree,
    given: InitialMasks,
) -> SparseState:
    """The state of ``sparsify`` at step 0; its arguments are those of ``sparsify``, ``given`` its initial masks."""
    treedef: Any
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in flat]
    leaves = dict(zip(names, (leaf for _, leaf in flat), strict=True))
    targets = counts_of(method, leaves, method.sparsity)
    if given is not None:
        found = given(params) if callable(given) else given
        drawn, counts = _given(method, leaves, initial_counts(method, leaves), found)
        if method.initial_sparsity is None:
            targets = counts
    elif method.pruner is not None and not method.prune_step:
        raise ValueError(
            f"method {method.name!r} needs initial masks: give dstjax.sparsify(..., initial_masks=masks) what "
            f"dstjax.initial_masks.{method.pruner}(...) returns."
        )
    else:
        drawn = _drawn(method, key, leaves)

    drawn = varying_as(drawn, *leaves.values())

    def tree(of: Callable[[str], Any]) -> Tree:
        return treedef.unflatten([of(n) if n in drawn else None for n in names])

    def stored(of: Callable[[str], jax.Array]) -> Tree:
        return tree(lambda n: masks.pack(of(n), leaves[n]))

    counters = None
    if method.counters:
        assert method.updates is not None
        dtype = counter_dtype(method.updates.count)
        counters = tree(lambda n: drawn[n].astype(dtype))
    tracked = None
    if track:
        survival = "survival" in track
        tracked = Tracked(
            ever=stored(lambda n: jnp.array(drawn[n])) if "exploration" in track and counters is None else None,
            grown=stored(lambda n: jnp.zeros_like(drawn[n])) if survival else None,
            n_grown=jnp.zeros(len(drawn), jnp.int32) if survival else None,
            n_survived=jnp.zeros(len(drawn), jnp.int32) if survival else None,
            error=jnp.zeros((), jnp.float32) if "error" in track else None,
        )
        tracked = varying_as(tracked, *leaves.values())
    memory, made = None, Memory()
    if method.memory is not None:
        weights = [jnp.asarray(_valued(leaves[n], n, method)) for n in drawn]
        made = varying_as(method.memory(weights, list(drawn.values()), key), *weights)
        of = dict(zip(drawn, made.leaves or [None] * len(drawn), strict=True))
        memory = Memory(
            None if made.leaves is None else tree(lambda n: of[n]),
            None if made.sets is None else stored(dict(zip(drawn, made.sets, strict=True)).__getitem__),
            made.shared,
        )
    step = jnp.zeros((), jnp.int32)
    view = None if method.view is None else method.view(step, made)
    # Optimisers that keep a copy of the weights (schedule_free, lookahead) start sparse too.
    begin = [_masked(leaf, drawn.get(name) if view is None else None) for name, leaf in leaves.items()]
    inner_state = inner.init(treedef.unflatten(begin))
    if view is None:  # not all moments start at zero (adagrad's do not); those of inactive weights do
        shapes = {n: tuple(leaves[n].shape) if n in drawn else None for n in names}
        inner_state = map_moments(lambda n, x: _masked(x, drawn[n]), shapes, inner_state)
    return SparseState(
        step=step,
        masks=stored(lambda n: drawn[n]),
        counters=counters,
        targets=jnp.stack([jnp.asarray(targets[n], jnp.int32) for n in drawn]) if drawn else jnp.zeros(0, jnp.int32),
        key=key,
        tracked=tracked,
        memory=memory,
        view=view,
        inner_state=inner_state,
    )


def _drawn(method: Method, key: jax.Array, leaves: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The masks that the method begins with."""
    counts = initial_counts(method, leaves)
    if method.initial == "magnitude":
        sizes = [jnp.abs(_valued(leaves[n], n, method)) for n in counts]
        chosen = method.structure.best(sizes, list(counts.values())) if counts else []
    else:
        structure = WEIGHT if starts_dense(method) else method.structure  # n of m would be n of m at once
        chosen = random_masks(key, [leaves[n] for n in counts], list(counts.values()), structure)
    return dict(zip(counts, chosen, strict=True))


def _given(
    method: Method, leaves: Mapping[str, Any], targets: Mapping[str, Any], tree: Tree
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """The masks of the caller, by path in the order of the tree, checked, and their counts."""
    found = {
        path_name(path): mask
        for path, mask in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_hole)[0]
        if not is_hole(mask)
    }
    if found.keys() != targets.keys():
        raise ValueError(
            f"initial_masks are missing for {sorted(targets.keys() - found.keys())} and unexpected for "
            f"{sorted(found.keys() - targets.keys())}; expected a boolean array for each leaf that method "
            f"{method.name!r} masks, None elsewhere."
        )
    for name, mask in found.items():
        shape = tuple(leaves[name].shape)
        if jnp.result_type(mask) != jnp.bool_ or jnp.shape(mask) != shape:
            raise ValueError(
                f"the initial mask of {name!r} has shape {jnp.shape(mask)} and dtype {jnp.result_type(mask)}; expected "
                f"{shape} and bool."
            )
    given = {name: jnp.array(found[name]) for name in leaves if name in found}
    if any(isinstance(mask, jax.core.Tracer) for mask in found.values()):  # made under the trace: nobody can count yet
        return given, {name: jnp.sum(m, dtype=jnp.int32) for name, m in given.items()}
    counts = {name: int(np.sum(np.asarray(found[name]))) for name in targets}
    if empty := [name for name, n in counts.items() if not n]:
        raise ValueError(f"the initial masks of {empty} have no active weight; expected at least one.")
    size = sum(int(np.prod(leaves[n].shape)) for n in targets)
    total, wanted = sum(counts.values()), {int(sum(targets.values()))}
    if isinstance(method.sparsity, int | float) and method.initial_sparsity is None:
        wanted.add(size - floor_share(size, method.sparsity))
    if counts != dict(targets) and total not in wanted:
        raise ValueError(
            f"the initial masks have {total} active weights of {size}; method {method.name!r} with "
            f"sparsity={method.sparsity} expects {' or '.join(map(str, sorted(wanted)))}."
        )
    return given, counts


def _valued(leaf: Any, name: str, method: Method) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"leaf {name!r} is a shape without values; method {method.name!r} reads the weights at the start, so call "
            "init with the parameters, or under jax.eval_shape for shapes alone."
        )
    return leaf


def _masked(leaf: Any, mask: jax.Array | None) -> Any:
    """A leaf with its inactive weights zero; shapes without values stay as they are."""
    if mask is None or isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))
