"""One call of ``update``: what the optimiser sees, the mask update, and what the parameters become."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dstjax._arrays.bits import StoredMask, unpack, zero_outside
from dstjax._arrays.trees import Tree, is_array, is_weight, or_absent
from dstjax._engine import returned
from dstjax._engine.call import Call, Signals
from dstjax._engine.frozen import zero_outputs
from dstjax._engine.moments import aligned, chosen_of, held, map_both, map_moments, owners, standing
from dstjax._engine.replay import Replay
from dstjax._engine.states import SparseState, Topology, with_topology
from dstjax.method import Method
from dstjax.rules import Memory

InnerUpdate = Callable[..., tuple[Tree, Any]]


def take_step(
    method: Method,
    inner_update: InnerUpdate,
    updates: Tree,
    state: SparseState,
    params: Tree,
    now: Any,
    signals: Signals,
    *,
    skip_nonfinite: bool = False,
) -> tuple[Tree, SparseState]:
    """One call of update. ``now``: whether it is a mask update, a bool known at trace time or a traced scalar.

    With ``skip_nonfinite`` a call whose gradients are not all finite is lost: it counts, and changes nothing else.

    The branch returns masks and counters alone and comes before the elementwise step; with weights or moments in it, or
    after the step, XLA would copy them.
    """
    call = Call(method, updates, state, params, now, signals, skip_nonfinite=skip_nonfinite)
    take = _step_sparse if method.seen.view is None else _step_dense
    new_updates, new, inner_state = take(call, inner_update)
    new_updates = _harmless(call, new_updates)
    remembered = _after_step(call, new, new_updates) if call.remembers else None
    state = with_topology(state, call.stored, new, remembered)._replace(inner_state=inner_state)
    if method.seen.view is not None:
        memory = Memory(*map(or_absent, (remembered, None, new.shared, new.measured)))
        state = state._replace(view=method.seen.view(state.step, memory))
    return call.moved.treedef.unflatten(new_updates), state


def _step_sparse(call: Call, inner_update: InnerUpdate) -> tuple[list[Any], Topology, Any]:
    """The step of a method whose weights are sparse themselves."""
    moved, state, now, old, weights = call.moved, call.state, call.now, call.old, call.weights
    gradients = call.of_each("gradient", call.method.seen.gradient) or call.gradients
    order = "skip" if call.method.updates is None else call.method.updates.order

    def inner_step(active: list[StoredMask], weights: list[Any], inner_state: Any) -> tuple[list[Any], Any]:
        sparse = moved.tree([_within(m, g) for m, g in zip(active, gradients, strict=True)], call.dense_updates)
        return returned.step(inner_update(sparse, inner_state, call.leaves.tree(weights, call.params)), sparse)

    frozen = _frozen(call, lambda: inner_step(old.masks, weights, state.inner_state))

    def rewired() -> Topology:
        at = weights
        if order == "step_then_update":  # computed here once more: passed in from outside it would have to be stored
            stepped = _stepped(call, moved.pick(inner_step(old.masks, weights, state.inner_state)[0]))
            at = [_within(m, w) for m, w in zip(old.masks, stepped, strict=True)]
        return call.rewired(at, frozen)

    new = _branch(call, rewired)
    if order == "skip":
        updates, inner_state = _step_or_skip(call, new, inner_step)
    elif order == "update_then_step":
        keep = _lasting(now, old.masks, new.masks)
        kept = weights if keep is None else [_within(k, w) for k, w in zip(keep, weights, strict=True)]
        before = _moments_within(call, keep, state.inner_state)
        updates, inner_state = inner_step(new.masks, kept, before)
        inner_state = _held_if_lost(call, before, inner_state)
    else:
        updates, inner_state = inner_step(old.masks, weights, state.inner_state)
        inner_state = _held_if_lost(call, state.inner_state, inner_state)
        inner_state = _moments_within(call, _lasting(now, old.masks, new.masks), inner_state)

    moving = new.masks
    if order == "step_then_update":  # what was grown had no part in the step
        moving = [o & n for o, n in zip(old.masks, new.masks, strict=True)]
    # The update of an inactive weight is -w, whatever the optimiser says: adding it gives exactly 0.0.
    sparse = [jnp.where(unpack(m), u, -w) for m, u, w in zip(moving, moved.pick(updates), weights, strict=True)]
    return moved.put(_settled(call, new, sparse, frozen), updates), new, inner_state


def _step_or_skip(call: Call, new: Topology, step: Any) -> tuple[list[Any], Any]:
    """The updates and the state of an inner optimiser in a call that may be spent on the masks, or lost.

    It sees that call too: its counts, rates and keys go on, so that whoever reads the step from them reads the right
    one. Its moments stay, and nothing moves.

    Where the moments are read entry by entry, those of inactive weights are zero after every call. So those of grown
    weights are zero already, those of dropped ones become so with the new masks, and the old masks are not read after
    the branch, for which XLA would copy them.
    """
    old, now, inner_state = call.old.masks, call.idle, call.state.inner_state
    if isinstance(now, bool) and not _is_traced((call.weights, call.gradients, inner_state)):
        updates, after = step(new.masks, call.weights, inner_state)
        if now is False:
            return updates, _moments_within(call, old, held(call.all_shapes, call.guards, False, inner_state, after))
        after = held(call.all_shapes, False, True, inner_state, after)
        after = _moments_within(call, _lasting(True, old, new.masks), after)
        return [_unless(True, u) for u in call.updates], after
    # With the new masks also where they have just changed: what the step gives is not used then.
    others: list[Any] = []  # updates that no program returns, such as text, which some optimisers pass on

    def traced(weights: list[Any], inner_state: Any) -> tuple[list[Any], Any]:
        updates, inner_state = step(new.masks, weights, inner_state)
        others[:] = [() if is_array(u) or isinstance(u, int | float | complex) else (u,) for u in updates]
        return [() if other else u for u, other in zip(updates, others, strict=True)], inner_state

    replay = Replay.of(traced, call.weights, inner_state)
    # The norm of a moment may be read, and change with what is zeroed. Then it is only zeroed where nothing is used.
    weight_of = owners(call.shapes, inner_state)
    is_entrywise = replay.is_entrywise(aligned([p is not None for p in weight_of], inner_state, replay.state, False))
    keep = new.masks if is_entrywise else _lasting(now, old, new.masks)
    by_path: dict[Any, StoredMask] = {} if keep is None else call.stored.by_path(keep)
    stands = standing(call.all_shapes, inner_state)
    leaves = zip(weight_of, stands, jax.tree_util.tree_leaves(inner_state), strict=True)
    changes = [
        functools.partial(_held, call.guards, now, by_path.get(path), x) if stay else None for path, stay, x in leaves
    ]
    updates, inner_state = replay.run(aligned(changes, inner_state, replay.state, None))
    updates = [other[0] if other else u for u, other in zip(updates, others, strict=True)]
    return [_unless(now, u) for u in updates], inner_state


def _lasting(now: Any, old: list[StoredMask], new: list[StoredMask]) -> list[StoredMask] | None:
    """What was active and stays so, in a mask update; all weights in a step without one, None if that is known."""
    if now is False:
        return None
    stays = [o & n for o, n in zip(old, new, strict=True)]
    return stays if now is True else [jnp.where(now, s, ~jnp.zeros_like(s)) for s in stays]


def _step_dense(call: Call, inner_update: InnerUpdate) -> tuple[list[Any], Topology, Any]:
    """The step of a method that keeps dense weights behind the masks; masks change after the optimiser's step.

    Where the method says which weights may be trained, the others stay as they are. Their moments stay too if they are
    active, and become zero if not.
    """
    moved, state, seen = call.moved, call.state, call.method.seen
    gradients = call.of_each("gradient", seen.gradient) or call.gradients
    trainable = call.of_each("trainable", seen.trainable, jnp.bool_)

    def inner_step() -> tuple[list[Any], Any]:
        masked = gradients
        if trainable is not None:
            masked = [zero_outside(g, t) for g, t in zip(gradients, trainable, strict=True)]
        tree = moved.tree(masked, call.dense_updates)
        found = inner_update(tree, state.inner_state, call.leaves.tree(call.weights, call.params))
        updates, inner_state = returned.step(found, tree)
        if trainable is not None:
            moves = [zero_outside(u, t) for u, t in zip(moved.pick(updates), trainable, strict=True)]
            updates = moved.put(moves, updates)
        return updates, inner_state

    updates, inner_state = inner_step()
    if trainable is not None:
        may = call.stored.by_path(list(zip(trainable, call.old.masks, strict=True)))
        inner_state = map_both(
            lambda p, x, last: jnp.where(may[p][0], x, zero_outside(last, unpack(may[p][1]))),
            call.shapes,
            inner_state,
            state.inner_state,
        )
    if seen.trains_dense is not None:
        trains, masked = seen.trains_dense(state.step), {*call.stored.paths}
        updates = [u if p in masked else _unless(~trains, u) for p, u in zip(moved.paths, updates, strict=True)]
        dense = {
            p: jnp.shape(x) if p not in masked and is_array(x) else None
            for p, x in zip(call.leaves.paths, call.params, strict=True)
        }
        inner_state = map_both(lambda _, x, last: jnp.where(trains, x, last), dense, inner_state, state.inner_state)

    frozen = _frozen(call, inner_step)

    inner_state = _held_if_lost(call, state.inner_state, inner_state)

    def rewired() -> Topology:
        # The step is computed once more, so that its result need not be stored for the branch.
        return call.rewired(_stepped(call, moved.pick(inner_step()[0])), frozen)

    new = _branch(call, rewired)
    return moved.put(_settled(call, new, moved.pick(updates), frozen), updates), new, inner_state


def _frozen(call: Call, step: Callable[[], tuple[list[Any], Any]]) -> list[bool]:
    """The masked leaves that the inner optimiser never moves, as its program tells."""
    if call.now is False:
        return [False] * len(call.weights)
    moves: Callable[[], list[Any]] = lambda: call.moved.pick(step()[0])  # noqa: E731
    try:
        return zero_outputs(jax.make_jaxpr(moves)())
    except jax.errors.ConcretizationTypeError:  # an optimiser that runs outside of a trace alone
        return [False] * len(call.weights)


def _branch(call: Call, rewired: Callable[[], Topology]) -> Topology:
    """The topology after the call."""
    if isinstance(call.now, bool):
        return rewired() if call.now else call.old
    return lax.cond(call.now, rewired, lambda: call.old)


def _settled(call: Call, new: Topology, updates: list[jax.Array], frozen: Sequence[bool]) -> list[jax.Array]:
    """The updates that bring the weights to where the method puts them after a mask update; a frozen leaf stays."""
    rule = None if call.method.updates is None else call.method.updates.new_weights
    if rule is None or call.now is False:
        return updates
    stepped = _stepped(call, updates)
    grown = [unpack(n & ~o) for n, o in zip(new.masks, call.old.masks, strict=True)]
    wanted = [
        returned.like_weight(rule, "new_weights", rule(leaf, g), leaf.weight, jnp.inexact)
        for leaf, g in zip(call.read(stepped, new, salt=3), grown, strict=True)
    ]
    moves = [v.astype(w.dtype) - w for v, w in zip(wanted, call.weights, strict=True)]
    # In the wider of two dtypes: an update of fewer digits than the weight would not bring it there.
    return [u if still else jnp.where(call.now, m, u) for m, u, still in zip(moves, updates, frozen, strict=True)]


def _after_step(call: Call, new: Topology, updates: list[Any]) -> Sequence[Any]:
    """What the method remembers of each leaf after the step."""
    rule = call.method.remembered.after_step
    if rule is None:
        return call.remembered
    stepped = optax.apply_updates(call.weights, call.moved.pick(updates))
    found = [rule(leaf, call.now) for leaf in call.read(stepped, new)]
    return [call.learnt(rule, "after_step", x, m) for x, m in zip(found, call.remembered, strict=True)]


def _unless(now: Any, update: Any) -> Any:
    """An update, zero where ``now``; what is no number stays as it is."""
    if now is False or not (is_array(update) or isinstance(update, int | float | complex)):
        return update
    return jnp.zeros_like(update) if now is True else jnp.where(now, jnp.zeros((), jnp.result_type(update)), update)


def _held(guards: bool, now: Any, keep: StoredMask | None, old: Any, new: Any) -> Any:
    """The new leaf of a state, or the old one where ``now``; zero outside ``keep`` if there is such a mask."""
    chosen = chosen_of(guards, now, old, new)
    # A select here: with bits XLA computes the moment twice again, and copies the old one.
    return chosen if keep is None else jnp.where(unpack(keep), chosen, jnp.zeros((), chosen.dtype))


def _held_if_lost(call: Call, old: Any, new: Any) -> Any:
    """The new state of an optimiser, but its moments are the old ones if the call is lost."""
    if not call.guards:
        return new
    return held(call.all_shapes, True, call.lost, old, new)


def _stepped(call: Call, moves: list[jax.Array]) -> list[jax.Array]:
    """The masked weights after a step, as :func:`_harmless` will leave it."""
    after = optax.apply_updates(call.weights, moves)
    return [
        jnp.where(jnp.isfinite(x), x, w) if call.guards or w.dtype.itemsize == 1 else x
        for x, w in zip(after, call.weights, strict=True)
    ]


def _harmless(call: Call, updates: list[Any]) -> list[Any]:
    """The updates, none if the call is lost; of single weights none that would make them infinite or NaN.

    This last holds where the caller asks for it, and for weights of one byte: their numbers end so early that an
    optimiser's ordinary steps leave them.
    """
    weights: dict[Any, Any] = dict(zip(call.leaves.paths, call.params, strict=True))

    def one(path: Any, update: Any) -> Any:
        weight: Any = weights.get(path)
        if not (is_array(update) and is_weight(weight)) or not (call.guards or weight.dtype.itemsize == 1):
            return update
        moved = optax.apply_updates(weight, update)
        fine = jnp.isfinite(moved) if call.lost is False else jnp.isfinite(moved) & jnp.logical_not(call.lost)
        return jnp.where(fine, update, jnp.zeros((), update.dtype))

    return [one(path, u) for path, u in zip(call.moved.paths, updates, strict=True)]


def _moments_within(call: Call, keep: list[StoredMask] | None, inner_state: Any) -> Any:
    """The state of an optimiser with the moments of weights outside ``keep`` zero."""
    if keep is None:
        return inner_state
    by_path = call.stored.by_path(keep)
    return map_moments(lambda p, x: _within(by_path[p], x), call.shapes, inner_state)


def _within(mask: StoredMask, x: jax.Array) -> jax.Array:
    """``x`` where the mask is set, else 0, in the dtype of ``x``."""
    return zero_outside(x, unpack(mask))


def _is_traced(tree: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree_util.tree_leaves(tree))
