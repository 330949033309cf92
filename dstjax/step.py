"""One call of ``update``: what the optimiser sees, the mask update, and what the parameters become."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dstjax import masks
from dstjax._trees import Tree
from dstjax.criteria import Leaf
from dstjax.flat import Flat, flatten_like
from dstjax.held import update_filtered
from dstjax.initial_masks.random import leaf_keys
from dstjax.masks import StoredMask
from dstjax.method import Method
from dstjax.network import Memory, Network
from dstjax.rewire import Topology, rewire
from dstjax.selection import count_true
from dstjax.start import initial_counts
from dstjax.state import Shapes, SparseState, map_moments


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
            active=count_true([leaf.mask for leaf in leaves]),
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
        old = self.old._replace(sets=self.memory.sets, shared=self.memory.shared)
        return rewire(self.method, old, self.network(weights), [grow for _, grow in self.keys])

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
    # What was active and stays so keeps its moments, and the rest only loses them when the masks change.
    stays = [o & n for o, n in zip(old.masks, new.masks, strict=True)]
    keep = [jnp.where(now, s, ~jnp.zeros_like(s)) for s in stays]
    by_name = dict(zip(flat.names, keep, strict=True))

    def reset(inner_state: Any) -> Any:
        """Zeroes the moments of weights that were dropped or newly grown."""
        return inner_state if now is False else map_moments(lambda n, x: _where(by_name[n], x, 0), shapes, inner_state)

    shapes = {n: masks.shape(by_name[n]) if n in by_name else None for n in flat.all_names}
    if order == "skip" and now is True:
        updates, inner_state = [jnp.zeros_like(u) for u in flat.updates], reset(state.inner_state)
    elif order == "skip" and now is not False:  # the inner optimiser does not see a step that is spent on the masks
        names = jax.tree_util.tree_leaves(map_moments(lambda n, _: _Name(n), shapes, state.inner_state))
        held = [
            functools.partial(_hold, now, by_name.get(str(name)) if isinstance(name, _Name) else None, x)
            for name, x in zip(names, jax.tree_util.tree_leaves(state.inner_state), strict=True)
        ]
        step = functools.partial(inner_step, old.masks)
        updates, inner_state = update_filtered(step, held, weights, state.inner_state)
        updates = [jnp.where(now, jnp.zeros((), u.dtype), u) for u in updates]
    elif order == "update_then_step":
        kept = [_where(k, w, 0) for k, w in zip(keep, weights, strict=True)] if now is not False else weights
        updates, inner_state = inner_step(new.masks, kept, reset(state.inner_state))
    else:
        updates, inner_state = inner_step(old.masks, weights, state.inner_state)
        inner_state = reset(inner_state)

    moving = stays if order == "step_then_update" else new.masks
    sparse = [_where(m, u, -w) for m, u, w in zip(moving, flat.masked(updates), weights, strict=True)]
    return flat.tree(updates, _settled(call, new, sparse)), new, inner_state


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
        shapes = {n: may[n][0].shape if n in may else None for n in flat.all_names}
        inner_state = _merged(inner_state, state.inner_state, shapes, may)
    if method.trains_dense is not None:
        trains = method.trains_dense(state.step)
        dense = {n: None if i in flat.at else jnp.shape(flat.params[i]) for i, n in enumerate(flat.all_names)}
        updates = [u if i in flat.at else jnp.where(trains, u, jnp.zeros_like(u)) for i, u in enumerate(updates)]
        inner_state = _held_moments(inner_state, state.inner_state, dense, trains)

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


def _merged(new: Any, old: Any, shapes: Shapes, may: dict[str, tuple[jax.Array, StoredMask]]) -> Any:
    """The new moments of weights that may be trained; of others the old ones if they are active, else zero."""
    olds = iter(_moments(old, shapes))

    def one(name: str, x: jax.Array) -> jax.Array:
        trained, active = may[name]
        return jnp.where(trained, x, masks.zero_outside(next(olds), masks.unpack(active)))

    return map_moments(one, shapes, new)


def _held_moments(new: Any, old: Any, shapes: Shapes, trains: jax.Array) -> Any:
    olds = iter(_moments(old, shapes))
    return map_moments(lambda _, x: jnp.where(trains, x, next(olds)), shapes, new)


def _moments(state: Any, shapes: Shapes) -> list[jax.Array]:
    """The moments that ``map_moments`` finds, in its order."""
    found: list[jax.Array] = []

    def note(_: str, x: jax.Array) -> jax.Array:
        found.append(x)
        return x

    map_moments(note, shapes, state)
    return found


class _Name(str):
    """The path of the weight that a moment belongs to, in place of the moment."""


def _hold(now: jax.Array, keep: StoredMask | None, old: Any, new: Any) -> Any:
    """The new leaf of a state, or the old one where ``now``; zero outside ``keep`` if it is a moment."""
    chosen = jnp.where(now, old, new)
    # A select here: with bits XLA computes the moment twice again, and copies the old one.
    return chosen if keep is None else jnp.where(masks.unpack(keep), chosen, jnp.zeros((), chosen.dtype))


def _where(mask: StoredMask, x: jax.Array, other: Any) -> jax.Array:
    """``x`` where the mask is set, else ``other``, in the dtype of ``x`` and ``other``."""
    flags = masks.unpack(mask)
    return masks.zero_outside(x, flags) if isinstance(other, int) else jnp.where(flags, x, other)
