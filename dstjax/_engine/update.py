"""One call of ``update``: what the optimiser sees, the mask update, and what the parameters become."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dstjax import masks
from dstjax._arrays.keys import leaf_keys
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import Tree
from dstjax._engine.counts import initial_counts
from dstjax._engine.leaves import Flat, flatten_like
from dstjax._engine.moments import map_both, map_moments, owners
from dstjax._engine.replay import Recorded
from dstjax._engine.rewire import Topology, rewire
from dstjax.masks import StoredMask
from dstjax.method import Method
from dstjax.rules import Leaf, Memory, Network
from dstjax.state import SparseState


class Signals(NamedTuple):
    """What a caller passes besides gradients, for the methods that read it."""

    value: Any = None
    metric: Any = None
    full_gradient: Any = None

    @staticmethod
    def of(method: Method, now: Any, value: Any, extra_args: dict[str, Any]) -> "Signals":
        """Takes what the method reads, and refuses its absence where it is needed.

        Raises:
          ValueError: something that the method needs is missing, or not a number.
        """
        given = {"value": value, "metric": extra_args.get("metric"), "full_gradient": None}
        if "full_gradient" in method.needs:
            given["full_gradient"] = extra_args.pop("full_gradient", None)
        for name in method.needs:
            found = given[name]
            if found is None and (now is not False or name == "full_gradient"):
                raise ValueError(f"method {method.name!r} needs {name}=; call tx.update(..., {name}=...).")
            if name != "full_gradient" and found is not None and not _is_finite(found):
                raise ValueError(f"{name}={found!r} is not accepted; expected a finite number.")
        return Signals(**given)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree_util.tree_leaves(tree))


def _is_finite(x: Any) -> bool:
    """Whether something is one finite number; of a traced one only that it is one number."""
    try:
        return not np.ndim(x) and (isinstance(x, jax.core.Tracer) or bool(np.isfinite(x)))
    except TypeError:
        return False


class _Call:
    """One call, with what its parts have in common."""

    def __init__(self, method: Method, flat: Flat, state: SparseState, now: Any, signals: Signals) -> None:
        self.method, self.flat, self.state, self.now, self.signals = method, flat, state, now, signals
        self.weights = flat.masked(flat.params)
        self.gradients = flat.masked(flat.updates)
        self.old = flat.topology
        self.memory = Memory(flat.memory, flat.topology.sets, flat.topology.shared)
        self.full: list[Any] = [None] * len(self.weights)
        self.dense_updates = flat.updates
        if signals.full_gradient is not None:
            found = signals.full_gradient
            full = flatten_like(flat.treedef, found, "full gradient", flat.treedef.unflatten(flat.params), found)
            flat.check_shapes("full gradient", full)
            self.full = flat.masked(full)
            self.dense_updates = [u + f for u, f in zip(flat.updates, full, strict=True)]
        if method.settle is not None:
            _ = self.keys  # made in the branch, they could not be read after it
        if method.observe is not None:
            self.memory = method.observe(self.network(self.weights))._replace(sets=self.old.sets)

    @functools.cached_property
    def keys(self) -> list[tuple[jax.Array, jax.Array]]:
        return leaf_keys(self.state.key, self.state.step, len(self.weights))

    def leaves(self, weights: list[jax.Array], stored: list[StoredMask], salt: int | None = None) -> list[Leaf]:
        counters: Sequence[Any] = self.old.counters or [None] * len(weights)
        zero = jnp.zeros((), jnp.int32)
        keys = [k if salt is None else jax.random.fold_in(k, salt) for k, _ in self.keys]
        sets: Sequence[Any] = self.memory.sets or [None] * len(weights)
        return [
            Leaf(w, g, masks.unpack(m), c, self.state.step, key, zero, x, None if b is None else masks.unpack(b), f)
            for w, g, m, c, key, x, b, f in zip(
                weights, self.gradients, stored, counters, keys, self.memory.leaves, sets, self.full, strict=True
            )
        ]

    def network(self, weights: list[jax.Array]) -> Network:
        method, leaves = self.method, self.leaves(weights, self.old.masks)
        target = self.state.targets
        initial = target
        if method.initial_sparsity is not None:
            shapes = dict(zip(self.flat.all_names, self.flat.params, strict=True))
            counts = initial_counts(method, {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in shapes.items()})
            initial = jnp.stack([jnp.asarray(counts[n], jnp.int32) for n in self.flat.names])
        sets = self.memory.sets
        step = self.state.step
        return Network(
            leaves,
            active=count_true(self.old.masks),
            initial=initial,
            target=target,
            sizes=jnp.array([w.size for w in weights], jnp.int32),
            step=step,
            update_index=jnp.zeros_like(step) if method.updates is None else method.updates.index(step),
            memory=self.memory._replace(sets=None if sets is None else [masks.unpack(s) for s in sets]),
            value=self.signals.value,
            metric=self.signals.metric,
        )

    def rewired(self, weights: list[jax.Array]) -> Topology:
        call = copy.copy(self)  # keys that are made in the branch must not be kept after it
        old = call.old._replace(sets=call.memory.sets, shared=call.memory.shared)
        return rewire(call.method, old, call.network(weights), [grow for _, grow in call.keys])

    def of_each(self, rule: Callable[[Leaf], jax.Array] | None, salt: int) -> list[jax.Array] | None:
        return None if rule is None else [rule(leaf) for leaf in self.leaves(self.weights, self.old.masks, salt)]


def take_step(
    method: Method, inner_update: Any, flat: Flat, state: SparseState, now: Any, signals: Signals
) -> tuple[Tree, SparseState]:
    """One call of update. ``now``: whether it is a mask update, a bool known at trace time or a traced scalar.

    The branch returns masks and counters alone and comes before the elementwise step; with weights or moments in it, or
    after the step, XLA would copy them.
    """
    call = _Call(method, flat, state, now, signals)
    take = _step_sparse if method.view is None else _step_dense
    updates, new, inner_state = take(call, inner_update)
    state = flat.stored(state, new, call.memory.leaves)._replace(inner_state=inner_state)
    if method.view is not None:
        memory = Memory(call.memory.leaves, None, new.shared)
        state = state._replace(view=method.view(state.step, memory))
    return updates, state


def _step_sparse(call: _Call, inner_update: Any) -> tuple[Tree, Topology, Any]:
    """The step of a method whose weights are sparse themselves."""
    method, flat, state, now, old = call.method, call.flat, call.state, call.now, call.old
    weights = call.weights
    gradients = call.of_each(method.gradient, 2) or call.gradients
    order = method.update_order

    def inner_step(active: list[StoredMask], weights: list[Any], inner_state: Any) -> tuple[list[Any], Any]:
        sparse = flat.tree(call.dense_updates, [_where(m, g, 0) for m, g in zip(active, gradients, strict=True)])
        updates, inner_state = inner_update(sparse, inner_state, flat.tree(flat.params, weights))
        return flat.treedef.flatten_up_to(updates), inner_state

    def rewired() -> Topology:
        at = weights
        if order == "step_then_update":  # computed here once more: passed in from outside it would have to be stored
            moved = flat.masked(inner_step(old.masks, weights, state.inner_state)[0])
            stepped = optax.apply_updates(weights, moved)
            at = [_where(m, w, 0) for m, w in zip(old.masks, stepped, strict=True)]
        return call.rewired(at)

    new = _branch(call, rewired)
    if order == "skip":
        updates, inner_state = _step_or_skip(call, new, inner_step)
    elif order == "update_then_step":
        keep = _lasting(now, old.masks, new.masks)
        kept = weights if keep is None else [_where(k, w, 0) for k, w in zip(keep, weights, strict=True)]
        updates, inner_state = inner_step(new.masks, kept, _moments_within(flat, keep, state.inner_state))
    else:
        updates, inner_state = inner_step(old.masks, weights, state.inner_state)
        inner_state = _moments_within(flat, _lasting(now, old.masks, new.masks), inner_state)

    moving = new.masks
    if order == "step_then_update":  # what was grown had no part in the step
        moving = [o & n for o, n in zip(old.masks, new.masks, strict=True)]
    sparse = [_where(m, u, -w) for m, u, w in zip(moving, flat.masked(updates), weights, strict=True)]
    return flat.tree(updates, _settled(call, new, sparse)), new, inner_state


def _step_or_skip(call: _Call, new: Topology, step: Any) -> tuple[list[Any], Any]:
    """The updates and the state of an inner optimiser that does not see a step that is spent on the masks.

    Where the moments are read entry by entry, those of inactive weights are zero after every call. So those of grown
    weights are zero already, those of dropped ones become so with the new masks, and the old masks are not read after
    the branch, for which XLA would copy them.
    """
    flat, old, now, inner_state = call.flat, call.old.masks, call.now, call.state.inner_state
    if now is True:
        keep = _lasting(now, old, new.masks)
        return [jnp.zeros_like(u) for u in flat.updates], _moments_within(flat, keep, inner_state)
    if now is False and not _is_traced((call.weights, call.gradients, inner_state)):
        updates, inner_state = step(old, call.weights, inner_state)
        return updates, _moments_within(flat, old, inner_state)
    # With the new masks also where they have just changed: what the step gives is not used then.
    recorded = Recorded.of(functools.partial(step, new.masks), call.weights, inner_state)
    # The norm of a moment may be read, and change with what is zeroed. Then it is only zeroed where nothing is used.
    weight_of = owners(flat.shapes, inner_state)
    is_entrywise = recorded.is_entrywise([name is not None for name in weight_of])
    keep = new.masks if is_entrywise else _lasting(now, old, new.masks)
    by_name: dict[Any, StoredMask] = {} if keep is None else dict(zip(flat.names, keep, strict=True))
    held = [
        functools.partial(_held, now, by_name.get(name), x)
        for name, x in zip(weight_of, jax.tree_util.tree_leaves(inner_state), strict=True)
    ]
    updates, inner_state = recorded.run(held)
    return updates if now is False else [jnp.where(now, jnp.zeros((), u.dtype), u) for u in updates], inner_state


def _lasting(now: Any, old: list[StoredMask], new: list[StoredMask]) -> list[StoredMask] | None:
    """What was active and stays so, in a mask update; all weights in a step without one, None if that is known."""
    if now is False:
        return None
    stays = [o & n for o, n in zip(old, new, strict=True)]
    return stays if now is True else [jnp.where(now, s, ~jnp.zeros_like(s)) for s in stays]


def _step_dense(call: _Call, inner_update: Any) -> tuple[Tree, Topology, Any]:
    """The step of a method that keeps dense weights behind the masks; masks change after the optimiser's step.

    Where the method says which weights may be trained, the others stay as they are. Their moments stay too if they are
    active, and become zero if not.
    """
    method, flat, state, old = call.method, call.flat, call.state, call.old
    gradients = call.of_each(method.gradient, 2) or call.gradients
    trainable = call.of_each(method.trainable, 2)

    def inner_step() -> tuple[list[Any], Any]:
        seen = gradients
        if trainable is not None:
            seen = [masks.zero_outside(g, t) for g, t in zip(gradients, trainable, strict=True)]
        updates, inner_state = inner_update(
            flat.tree(call.dense_updates, seen), state.inner_state, flat.tree(flat.params, call.weights)
        )
        updates = flat.treedef.flatten_up_to(updates)
        if trainable is not None:
            moved = [masks.zero_outside(u, t) for u, t in zip(flat.masked(updates), trainable, strict=True)]
            for i, u in zip(flat.at, moved, strict=True):
                updates[i] = u
        return updates, inner_state

    updates, inner_state = inner_step()
    if trainable is not None:
        may = dict(zip(flat.names, zip(trainable, old.masks, strict=True), strict=True))
        inner_state = map_both(
            lambda n, x, last: jnp.where(may[n][0], x, masks.zero_outside(last, masks.unpack(may[n][1]))),
            flat.shapes,
            inner_state,
            state.inner_state,
        )
    if method.trains_dense is not None:
        trains = method.trains_dense(state.step)
        dense = {n: None if i in flat.at else jnp.shape(flat.params[i]) for i, n in enumerate(flat.all_names)}
        updates = [u if i in flat.at else jnp.where(trains, u, jnp.zeros_like(u)) for i, u in enumerate(updates)]
        inner_state = map_both(lambda _, x, last: jnp.where(trains, x, last), dense, inner_state, state.inner_state)

    def rewired() -> Topology:
        return call.rewired(optax.apply_updates(call.weights, flat.masked(inner_step()[0])))

    new = _branch(call, rewired)
    return flat.tree(updates, _settled(call, new, flat.masked(updates))), new, inner_state


def _branch(call: _Call, rewired: Callable[[], Topology]) -> Topology:
    """The topology after the call."""
    old = call.old._replace(sets=call.memory.sets, shared=call.memory.shared)
    if isinstance(call.now, bool):
        return rewired() if call.now else old
    return lax.cond(call.now, rewired, lambda: old)


def _settled(call: _Call, new: Topology, updates: list[jax.Array]) -> list[jax.Array]:
    """The updates that bring the weights to where the method puts them after a mask update."""
    settle, now = call.method.settle, call.now
    if settle is None or now is False:
        return updates
    stepped = optax.apply_updates(call.weights, updates)
    leaves = call.leaves(stepped, new.masks, salt=3)
    grown = [masks.unpack(n & ~o) for n, o in zip(new.masks, call.old.masks, strict=True)]
    wanted = [settle(leaf, g) for leaf, g in zip(leaves, grown, strict=True)]
    moves = [v.astype(w.dtype) - w for v, w in zip(wanted, call.weights, strict=True)]
    return [jnp.where(now, m.astype(u.dtype), u) for m, u in zip(moves, updates, strict=True)]


def _held(now: Any, keep: StoredMask | None, old: Any, new: Any) -> Any:
    """The new leaf of a state, or the old one where ``now``; zero outside ``keep`` if there is such a mask."""
    chosen = new if now is False else jnp.where(now, old, new)
    # A select here: with bits XLA computes the moment twice again, and copies the old one.
    return chosen if keep is None else jnp.where(masks.unpack(keep), chosen, jnp.zeros((), chosen.dtype))


def _moments_within(flat: Flat, keep: list[StoredMask] | None, inner_state: Any) -> Any:
    """The state of an optimiser with the moments of weights outside ``keep`` zero."""
    if keep is None:
        return inner_state
    by_name = dict(zip(flat.names, keep, strict=True))
    return map_moments(lambda n, x: _where(by_name[n], x, 0), flat.shapes, inner_state)


def _where(mask: StoredMask, x: jax.Array, other: Any) -> jax.Array:
    """``x`` where the mask is set, else ``other``, in the dtype of ``x`` and ``other``."""
    flags = masks.unpack(mask)
    return masks.zero_outside(x, flags) if isinstance(other, int) else jnp.where(flags, x, other)
