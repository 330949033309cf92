"""The state before the first step: which weights are active, and what the method remembers."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dstjax._arrays.bits import StoredMask, pack, zero_outside
from dstjax._arrays.keys import leaf_keys, near
from dstjax._arrays.lanes import layer_sizes
from dstjax._arrays.layout import Layout, lanes_of
from dstjax._arrays.leaves import MaskedLeaves, holds_masks, hollow, named, named_masks
from dstjax._arrays.selection import count_true
from dstjax._arrays.shards import mesh_of, on_host
from dstjax._arrays.shares import floor_share
from dstjax._arrays.trees import Tree, is_absent, is_traced, or_absent, or_none
from dstjax._arrays.varying import varying_as
from dstjax._engine import measures, returned
from dstjax._engine.belonging import promise_of
from dstjax._engine.counts import Layouts, active_counts, announce, initial_counts, masked_leaves, prunes, starts_dense
from dstjax._engine.draw import random_masks
from dstjax._engine.moments import map_moments, shapes_of
from dstjax._engine.probing import check_budgets, check_scores
from dstjax._engine.rewire import counter_dtype
from dstjax._engine.states import SparseState, Topology, Tracked, with_topology
from dstjax.method import Method
from dstjax.rules import Layers, Leaf, Memory
from dstjax.structures import WEIGHT

InitialMasks = Tree | Callable[[Tree], Tree] | None


def initial_state(
    inner: optax.GradientTransformationExtraArgs,
    method: Method,
    key: jax.Array,
    track: tuple[str, ...],
    params: Tree,
    given: InitialMasks,
    asked: jax.Array | None = None,
) -> SparseState:
    """The state of ``sparsify`` at step 0; its arguments are those of ``sparsify``, ``given`` its initial masks.

    Where the method itself has brought the masks where they are, ``asked`` are the numbers of active weights that it
    ends with, and those of the masks are not held against them.
    """
    if isinstance(params, optax.LookaheadParams):
        raise ValueError(
            "optax.lookahead moves two sets of parameters by turns, which sparsify cannot keep sparse alike, inside it "
            "or around; expected the parameters of one network, and another optimiser."
        )
    weights = named(params)
    key = near(key, weights.values())
    with mesh_of(weights.values()):
        return _initial_state(inner, method, key, track, params, given, asked, weights)


def _initial_state(
    inner: optax.GradientTransformation,
    method: Method,
    key: jax.Array,
    track: tuple[str, ...],
    params: Tree,
    given: InitialMasks,
    asked: jax.Array | None,
    weights: dict[str, Any],
) -> SparseState:
    known: Layouts = {} if method.masking is None else masked_leaves(method.masking, weights)
    if method.masking is not None:
        announce(method, known, weights)
        check_scores(method, known, weights)
    targets = active_counts(method.masking, weights)
    check_budgets(method, len(targets))
    leaves, layouts = MaskedLeaves.chosen(params, known), tuple(known.values())
    if given is not None and asked is not None:
        drawn = [jnp.array(mask) for mask in leaves.read(given)]
        if np.array_equal(count_true(drawn, layouts), asked):  # amid a cycle a group may lack some
            _check_structure(method, leaves, layouts, drawn)
    elif given is not None:
        found = given(params) if callable(given) and not holds_masks(given) else given
        drawn, targets = _given(method, leaves, layouts, weights, found)
    elif method.start.pruner is not None and not method.start.prune_step:
        raise ValueError(
            f"method {method.name!r} needs initial masks: give dstjax.sparsify(..., initial_masks=masks) what "
            f"dstjax.initial_masks.{method.start.pruner}(...) returns."
        )
    else:
        drawn = _drawn(method, key, weights, known)
    masks: list[jax.Array] = varying_as(drawn, *weights.values())
    masked = [weights[name] for name in leaves.masked]
    target = [jnp.asarray(n, jnp.int32) for n in targets.values()]
    counts_at_end = jnp.stack(target) if target else jnp.zeros(0, jnp.int32)
    counts_at_end = counts_at_end if asked is None else asked

    def stored(flags: list[jax.Array]) -> list[StoredMask]:
        return [pack(f, w) for f, w in zip(flags, masked, strict=True)]

    named_weights = dict(zip(leaves.masked, masked, strict=True))
    memory = _remembered(method, key, named_weights, layouts, masks, counts_at_end)
    counters = None
    if method.updates is not None and method.updates.counters:
        counters = [m.astype(counter_dtype(method.updates.schedule.count)) for m in masks]
    survival = "survival" in track
    counted = survival and bool(masks)  # arrays of no numbers could not be saved
    topology = Topology(
        masks=stored(masks),
        counters=counters,
        ever=stored([jnp.array(m) for m in masks]) if "exploration" in track and counters is None else None,
        grown=stored([jnp.zeros_like(m) for m in masks]) if survival else None,
        n_grown=jnp.zeros(len(masks), jnp.int32) if counted else None,
        n_survived=jnp.zeros(len(masks), jnp.int32) if counted else None,
        error=jnp.zeros((), jnp.float32) if "error" in track else None,
        second_mask=None if is_absent(memory.second_mask) else stored(memory.second_mask),
        shared=or_none(memory.shared),
        measured=or_none(memory.measured),
    )
    step = jnp.zeros((), jnp.int32)
    view = None if method.seen.view is None else method.seen.view(step, memory._replace(second_mask=()))
    begin = params
    if view is None:  # optimisers that keep a copy of the weights (schedule_free, sam) start sparse too
        sparse = [_masked(w, m) for w, m in zip(masked, masks, strict=True)]
        begin = leaves.tree(sparse, list(weights.values()))
    inner_state = inner.init(begin)
    places = MaskedLeaves.of(hollow(params, leaves.masked))
    state = SparseState(
        step=step,
        masks=places.tree(topology.masks),
        counters=(),
        targets=counts_at_end if target else (),
        key=key,
        tracked=Tracked() if track else (),
        memory=memory if any(not is_absent(x) for x in memory) else (),
        promise=promise_of(method),
        view=or_absent(view),
        inner_state=inner_state,
    )
    if view is None:  # not all moments start at zero (adagrad's do not); those of inactive weights do
        flags = places.by_path(masks)
        inner_state = map_moments(lambda p, x: _masked(x, flags[p]), shapes_of(state.masks), inner_state)
        state = state._replace(inner_state=inner_state)
    return with_topology(state, places, varying_as(topology, *weights.values()), or_none(memory.leaves))


def _drawn(method: Method, key: jax.Array, weights: Mapping[str, Any], known: Layouts) -> list[jax.Array]:
    """The masks that the method begins with."""
    counts = list(initial_counts(method.masking, method.start, weights).values())
    if method.masking is None:
        return []
    structure, layouts = method.masking.structure, tuple(known.values())
    if method.start.by == "magnitude":
        return structure.best([jnp.abs(_valued(weights[n], n, method)) for n in known], counts, layouts)
    if starts_dense(method.start):
        structure = WEIGHT  # n of m would be n of m at once
    return random_masks(key, [weights[n] for n in known], counts, structure, layouts)


def _given(
    method: Method, leaves: MaskedLeaves, layouts: tuple[Layout | None, ...], weights: Mapping[str, Any], tree: Tree
) -> tuple[list[jax.Array], dict[str, Any]]:
    """The masks of the caller in order, checked, and the active weights of each layer that the method ends with.

    These are those of the masks, but where the method prunes masks that are denser.
    """
    shapes = [tuple(weights[n].shape) for n in leaves.masked]
    found = leaves.check_masks(named_masks(tree), "initial masks", shapes)
    masks = [jnp.array(mask) for mask in found]
    begins = initial_counts(method.masking, method.start, weights)
    ends = active_counts(method.masking, weights)
    starts_at_end = method.start.sparsity is None
    numbers = (*begins.values(), *ends.values())
    if any(is_traced(x) for x in (*found, *numbers)):  # made under the trace: nobody can count yet
        counted = dict(zip(begins, count_true(masks, layouts), strict=True))
        return masks, counted if starts_at_end else ends
    counts = dict(zip(begins, _counted(found, layouts), strict=True))
    if empty := [name for name, n in counts.items() if not n]:
        raise ValueError(f"layers {empty} of the initial masks have no active weight; expected at least one.")
    if method.masking is None:
        return masks, counts
    _check_structure(method, leaves, layouts, found)
    if getattr(method.masking.structure, "across_leaves", False):  # it has its own budget
        return masks, counts if starts_at_end else ends
    size, sparsity, wanted = sum(math.prod(shape) for shape in shapes), method.masking.sparsity, {sum(begins.values())}
    if isinstance(sparsity, int | float) and starts_at_end:
        wanted.add(size - floor_share(size, sparsity))
    total = sum(counts.values())
    if counts == begins or total in wanted:
        return masks, counts if starts_at_end else ends
    if prunes(method):
        _check_between(method, counts, ends, None if starts_at_end else sum(begins.values()))
        return masks, ends
    raise ValueError(
        f"the initial masks have {total} active weights of {size}; method {method.name!r} with sparsity={sparsity} "
        f"expects {' or '.join(map(str, sorted(wanted)))}. dstjax.masks.sparsity(masks) is the sparsity of the masks."
    )


def _check_between(method: Method, counts: dict[str, int], ends: Mapping[str, int], first: int | None) -> None:
    """Refuses masks from which a method that prunes cannot go on: with less than its end, or more than its start.

    Args:
      method: says by its promises whether each layer must have the number of its end, or all together.
      counts: active weights of each layer.
      ends: those that the method ends with.
      first: those that it starts with, together; None: any number.
    """
    total, last = sum(counts.values()), 0 if method.promises == "free" else sum(ends.values())
    fewer = {n: (counts[n], end) for n, end in ends.items() if counts[n] < end}
    if method.promises in ("kept", "reached") and fewer and total >= last:
        told = ", ".join(f"{name!r} has {have} of at least {end}" for name, (have, end) in fewer.items())
        raise ValueError(
            f"the initial masks have fewer active weights than method {method.name!r} ends with: {told}. Expected "
            "another distribution= or a higher sparsity=, masks with more, or scope='global' where the method has it."
        )
    if total < last or (first is not None and total > first):
        most = "." if first is None else f", and at most {first}, those of its start."
        raise ValueError(
            f"the initial masks have {total} active weights; method {method.name!r}, which prunes, expects at least "
            f"{last}, those of its end{most}"
        )


def _check_structure(
    method: Method,
    leaves: MaskedLeaves,
    layouts: tuple[Layout | None, ...],
    masks: list[Any],
) -> None:
    """Refuses masks, known outside a trace, that are not of the structure of the method."""
    assert method.masking is not None
    structure = method.masking.structure
    held = getattr(structure, "holds", None)  # a structure of a user's own need not tell
    if held is None or structure == WEIGHT:
        return
    with jax.ensure_compile_time_eval():  # also under the trace of a jit(tx.init); not in pieces, which it cannot do
        flags = jax.device_get(held([jnp.asarray(on_host(mask)) for mask in masks], prunes(method), layouts))
    if wrong := [name for name, flag in zip(leaves.masked, flags, strict=True) if not flag]:
        raise ValueError(
            f"the initial masks of {wrong} are not of structure={structure}, which method {method.name!r} has; "
            "expected masks that are, as those of dstjax.masks.from_params(params, method=method) or of the same "
            "method's state."
        )


def _counted(masks: list[Any], layouts: tuple[Layout | None, ...]) -> list[int]:
    """Counts masks that are known outside a trace, by layer."""
    numbers: list[int] = []
    for mask, layout in zip(masks, layouts, strict=True):
        flags, stack = on_host(mask), lanes_of(layout)
        turned = flags.transpose((*stack, *(a for a in range(flags.ndim) if a not in stack)))
        layers = math.prod(flags.shape[a] for a in stack)
        numbers += np.count_nonzero(turned.reshape(layers, -1), axis=1).tolist()
    return numbers


def _remembered(
    method: Method,
    key: jax.Array,
    weights: Mapping[str, Any],
    layouts: tuple[Layout | None, ...],
    masks: list[jax.Array],
    target: jax.Array,
) -> Memory:
    """What the method remembers at first: lists of masked leaves, masks not packed yet."""
    rules = method.remembered
    memory = Memory(
        shared=() if rules.shared is None else jax.tree.map(_small, rules.shared),
        measured=() if rules.measure is None else measures.begun(rules.lag),
    )
    if rules.leaf is not None or rules.second_mask is not None:
        step = jnp.zeros((), jnp.int32)
        arrays = [jnp.asarray(_valued(x, n, method)) for n, x in weights.items()]
        keys = [grow for _, grow in leaf_keys(key, 0, len(arrays))]
        read = [
            Leaf(w, None, m, None, step, k, jnp.zeros((), jnp.int32), layout=layout)  # type: ignore[arg-type]  # no gradient yet
            for w, m, k, layout in zip(arrays, masks, keys, layouts, strict=True)
        ]
        if rules.leaf is not None:
            together = getattr(rules.leaf, "of_all", None)
            found = [rules.leaf(leaf) for leaf in read] if together is None else together(read)
            memory = memory._replace(leaves=[returned.remembered(rules.leaf, x) for x in found])
            read = [leaf._replace(memory=m) for leaf, m in zip(read, memory.leaves, strict=True)]
        if rules.second_mask is not None:
            sizes, active = layer_sizes([w.shape for w in arrays], layouts), count_true(masks, layouts)
            layers = Layers(read, active, active, target, sizes, step, step, or_none(memory.shared))
            second = returned.masks(rules.second_mask, "second_mask", rules.second_mask(layers, masks), masks)
            memory = memory._replace(second_mask=second)
    return varying_as(memory, *weights.values())


def _small(x: Any) -> jax.Array:
    """A fresh array of a number that all leaves have in common: int32 or float32."""
    array = jnp.array(x)
    kind = jnp.int32 if jnp.issubdtype(array.dtype, jnp.integer) else jnp.float32
    return array if array.dtype == jnp.bool_ else array.astype(kind)


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
    return zero_outside(leaf, mask)
