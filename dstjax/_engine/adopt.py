"""The state of a method made from that of another one: masks as near to the old ones as the new promises allow."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dstjax._arrays.bits import pack_like, shape, unpack
from dstjax._arrays.keys import leaf_keys
from dstjax._arrays.lanes import layer_counts
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import MaskedLeaves, named
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import Tree, is_absent, is_traced, or_absent, or_none, places
from dstjax._engine.belonging import agrees, promise_of
from dstjax._engine.counts import Layouts, active_counts, initial_counts, masked_leaves, starts_dense
from dstjax._engine.draw import ordered_bits, sharding_of
from dstjax._engine.init import initial_state
from dstjax._engine.states import SparseState, refuse_several, remembered_of, topology_of, with_topology
from dstjax.method import Method
from dstjax.rules import Memory
from dstjax.structures import WEIGHT, Structure

_Flags = dict[str, jax.Array]  # a boolean mask for each masked leaf


def adopted(
    old: SparseState,
    method: Method,
    params: Tree,
    track: tuple[str, ...] | None = None,
    *,
    of_a_part: bool = False,
) -> SparseState:
    """The state of ``method`` that goes on from ``old``: its step, its key, its moments, and its masks where they fit.

    Raises:
      ValueError: the parameters are others than those of the state, or a value of either is known inside a trace alone.
    """
    if any(map(is_traced, jax.tree_util.tree_leaves((old, params)))):
        raise ValueError("dstjax.adopt counts active weights; call it outside of jit, vmap and scan.")
    refuse_several(old, "adopt")
    weights = named(params)
    before = MaskedLeaves.of(old.masks)
    stored = before.read(old.masks)
    before.find(params, "parameters", [shape(m) for m in stored])
    flags = {name: unpack(m) for name, m in zip(before.masked, stored, strict=True)}
    known: Layouts = {} if method.masking is None else masked_leaves(method.masking, weights)
    if of_a_part and (new := [n for n in known if n not in flags]):
        raise ValueError(
            "the state is that of a part of the parameters, as of optax.masked or optax.partition, and has no mask for "
            f"{', '.join(new[:5])}, which may be dense or of another part; expected the parameters with "
            "optax.MaskedNode() in the place of the other parts."
        )
    flags = {n: flags[n] if n in flags else jnp.ones_like(weights[n], bool) for n in known}
    goes_on = _goes_on(old, method, known)
    masks = flags if goes_on else _fitting(old, method, weights, known, flags) if known else {}
    state = initial_state(
        _passing(old.inner_state),
        method,
        old.key,
        _tracked(old) if track is None else track,
        params,
        _tree(params, masks),
        old.targets if goes_on else None,
    )
    return _continued(old, state._replace(step=old.step), method, flags, masks)


def _passing(inner_state: Tree) -> Any:
    """Stands for the inner optimiser, whose state is there already."""
    return optax.GradientTransformationExtraArgs(lambda _: inner_state, optax.set_to_zero().update)


def _tracked(old: SparseState) -> tuple[str, ...]:
    if is_absent(old.tracked):
        return ()
    seen = old.tracked.ever if is_absent(old.counters) else old.counters  # which tell it besides
    found = {"exploration": seen, "survival": old.tracked.grown, "error": old.tracked.error}
    return tuple(name for name, x in found.items() if not is_absent(x))


def _fitting(old: SparseState, method: Method, weights: Mapping[str, Any], known: Layouts, flags: _Flags) -> _Flags:
    """The old masks, with as many weights more or less as the method needs: the largest stay, random ones come."""
    assert method.masking is not None
    last = list(active_counts(method.masking, weights).values())
    first = list(initial_counts(method.masking, method.start, weights).values())
    if any(map(is_traced, (*last, *first))):
        raise ValueError("dstjax.adopt needs a sparsity that is known outside a trace.")
    layouts = tuple(known.values())
    now = np.asarray(count_true(list(flags.values()), layouts)).astype(np.int64)
    low, high = np.minimum(first, last).astype(np.int64), np.maximum(first, last).astype(np.int64)
    if method.promises in ("reached", "total") and _is_over(method, int(old.step)):
        low = high = np.asarray(last, np.int64)  # no update of its own will come
    counts = np.clip(now, low, high)
    moves_between_layers = method.start.sparsity is None or method.promises in ("total", "free")
    if moves_between_layers and low.sum() <= now.sum() <= high.sum():
        counts = now  # the same weights in all, dealt to the layers as training has dealt them
    structure = WEIGHT if starts_dense(method.start) else method.masking.structure
    is_same = structure == WEIGHT or agrees(method, old, "structure")
    if is_same and bool((counts == now).all()):
        return flags
    numbers = [jnp.asarray(n, jnp.int32) for n in counts.tolist()]
    sizes = [jnp.abs(weights[name]) for name in known]
    shardings = tuple(sharding_of(weights[name]) for name in known)
    chosen = _best(old.key, old.step, sizes, list(flags.values()), numbers, structure, layouts, shardings)
    return dict(zip(known, chosen, strict=True))


def _goes_on(old: SparseState, method: Method, known: Layouts) -> bool:
    """Whether the same method has brought the masks where they are, amid a cycle or by what it measured."""
    if not known or promise_of(method) != old.promise or [*known] != MaskedLeaves.of(old.masks).masked:
        return False
    if method.promises in ("reached", "total") and _is_over(method, int(old.step)):
        return False
    stored = MaskedLeaves.of(old.masks).read(old.masks)
    numbers = sum(layer_counts([shape(m) for m in stored], tuple(known.values())))
    return np.shape(old.targets) == (numbers,)  # with another layout a leaf may hold other layers


def _is_over(method: Method, step: int) -> bool:
    """Whether all mask updates of a method are those of earlier steps."""
    last = None if method.updates is None else getattr(method.updates.schedule, "last", None)
    return last is not None and last <= step


@functools.partial(jax.jit, static_argnames=("structure", "layouts", "shardings"))
def _best(
    key: jax.Array,
    step: jax.Array,
    sizes: list[jax.Array],
    flags: list[jax.Array],
    counts: list[jax.Array],
    structure: Structure,
    layouts: tuple[Layout | None, ...],
    shardings: tuple[Any, ...],
) -> list[jax.Array]:
    keys = [k for k, _ in leaf_keys(key, step, len(sizes))]
    bits = ordered_bits(keys, [size.shape for size in sizes], shardings, layouts)
    scores = [
        jnp.where(mask, size.astype(jnp.float32), -1 - b.astype(jnp.float32) * 2.0**-32)
        for size, mask, b in zip(sizes, flags, bits, strict=True)
    ]
    return structure.best(scores, counts, layouts)


def _tree(params: Tree, masks: _Flags) -> Tree:
    """The masks as a tree for ``initial_masks=``."""
    found, treedef = places(params)
    return treedef.unflatten([None if p.is_hole or p.name not in masks else masks[p.name] for p in found])


def _continued(old: SparseState, new: SparseState, method: Method, flags: _Flags, masks: _Flags) -> SparseState:
    """The new state with what the old one counted and remembered."""
    leaves = MaskedLeaves.of(new.masks)
    topology = topology_of(new)
    seen = _seen(old, flags)
    if topology.counters is not None:
        counted = {} if is_absent(old.counters) else named(old.counters)
        counters = [
            _counted(counted.get(n), seen[n], masks[n], c.dtype)
            for n, c in zip(leaves.masked, topology.counters, strict=True)
        ]
        topology = topology._replace(counters=counters)
    if topology.ever is not None:
        ever = [pack_like(seen[n] | masks[n], e.dtype) for n, e in zip(leaves.masked, topology.ever, strict=True)]
        topology = topology._replace(ever=ever)
    remembered = remembered_of(new, leaves)
    if agrees(method, old, "method") and _alike(old.memory, new.memory):
        remembered = remembered_of(old, leaves)
        topology = topology._replace(shared=or_none(old.memory.shared), measured=or_none(old.memory.measured))
        if masks is flags:  # a second mask belongs to the first
            topology = topology._replace(second_mask=topology_of(old).second_mask)
    state = with_topology(new, leaves, topology, remembered)
    if method.seen.view is None:
        return state
    memory = Memory(*map(or_absent, (remembered, None, topology.shared, topology.measured)))
    return state._replace(view=method.seen.view(state.step, memory))


def _seen(old: SparseState, flags: _Flags) -> _Flags:
    """The weights that have ever been active, as far as the old state knows."""
    if not is_absent(old.counters):
        counters = named(old.counters)
        return {n: counters[n] > 0 if n in counters else flag for n, flag in flags.items()}
    ever = {} if is_absent(old.tracked) or is_absent(old.tracked.ever) else named(old.tracked.ever)
    return {n: unpack(ever[n]) if n in ever else flag for n, flag in flags.items()}


def _counted(before: Any, seen: jax.Array, mask: jax.Array, dtype: Any) -> jax.Array:
    """Counters in their new dtype: the old ones, or one round for all that was active, and one for what is new."""
    most = np.iinfo(dtype).max
    rounds = seen.astype(jnp.uint32) if before is None else before.astype(jnp.uint32)
    return jnp.minimum(rounds + (mask & ~seen), most).astype(dtype)


def _alike(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same places, shapes and dtypes."""
    (left, of_a), (right, of_b) = map(jax.tree_util.tree_flatten, (a, b))
    same = bool(of_a == of_b and left)  # type: ignore[operator]
    return same and all(x.shape == y.shape and x.dtype == y.dtype for x, y in zip(left, right, strict=True))
