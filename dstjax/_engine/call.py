"""What the parts of one call of ``update`` have in common: lists of masked leaves, and what rules read."""

import copy
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.bits import StoredMask, unpack
from dstjax._arrays.bits import shape as mask_shape
from dstjax._arrays.keys import leaf_keys
from dstjax._arrays.lanes import layer_counts, layer_sizes
from dstjax._arrays.leaves import MaskedLeaves
from dstjax._arrays.selection import count_true
from dstjax._arrays.trees import Tree, is_array, is_traced, places
from dstjax._engine import measures, returned
from dstjax._engine.belonging import check_masked
from dstjax._engine.counts import initial_counts, known_layouts, prunes
from dstjax._engine.moments import Shapes, shapes_of
from dstjax._engine.rewire import rewire
from dstjax._engine.states import SparseState, Topology, remembered_of, topology_of
from dstjax.checks import check_number
from dstjax.method import Method
from dstjax.rules import Layers, Leaf


class Signals(NamedTuple):
    """What a caller passes besides gradients, for the methods that read it."""

    value: Any = None
    metric: Any = None
    full_gradient: Any = None

    @staticmethod
    def of(
        method: Method, now: Any, value: Any, extra_args: dict[str, Any], *, skip_nonfinite: bool = False
    ) -> "Signals":
        """Takes what the method reads, and refuses its absence where it is needed.

        Raises:
          ValueError: something that the method needs is missing, or not a number; or not finite, unless such calls are
            skipped.
        """
        given = {"value": value, "metric": extra_args.get("metric"), "full_gradient": None}
        if "full_gradient" in method.needs:
            given["full_gradient"] = extra_args.pop("full_gradient", None)
        for name in method.needs:
            found = given[name]
            if found is None and (now is not False or name == "full_gradient"):
                raise ValueError(f"method {method.name!r} needs {name}=; call tx.update(..., {name}=...).")
            if name != "full_gradient" and found is not None and not _is_finite(found):
                if skip_nonfinite and _is_number(found):
                    continue
                raise ValueError(f"{name}={found!r} is not accepted; expected a finite number.")
            if name == "metric" and method.metric == "accuracy" and found is not None and not is_traced(found):
                check_number("metric", found, "an accuracy in [0, 1]", lambda a: 0 <= a <= 1)
        return Signals(**given)


def _all_finite(arrays: Sequence[Any]) -> jax.Array:
    """Whether all numbers of some arrays are finite, bool[]; None and what is no array count as such."""
    inexact = [x for x in arrays if is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in inexact])) if inexact else jnp.ones((), bool)


def _is_finite(x: Any) -> bool:
    """Whether something is one finite number; of a traced one only that it is one number."""
    try:
        return not np.ndim(x) and (is_traced(x) or bool(np.isfinite(x)))
    except TypeError:
        return False


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.generic | np.ndarray | jax.Array) and not np.ndim(x)


class Call:
    """One call. Lists are those of the masked leaves, but for ``params``, ``updates`` and ``dense_updates``."""

    def __init__(
        self,
        method: Method,
        updates: Tree,
        state: SparseState,
        params: Tree,
        now: Any,
        signals: Signals,
        *,
        skip_nonfinite: bool = False,
    ) -> None:
        """Flattens the trees, and refuses those that are not the ones of init."""
        self.method, self.state, self.signals = method, state, signals
        self.stored = MaskedLeaves.of(state.masks)
        self.leaves = leaves = MaskedLeaves.like(params, state.masks, "parameters")
        self.moved = moved = MaskedLeaves.like(updates, state.masks, "updates")
        self.params, self.updates = jax.tree_util.tree_leaves(params), jax.tree_util.tree_leaves(updates)
        self.old = topology_of(state)
        check_masked(method, leaves.masked, self._at_init)
        self.layouts = tuple(known_layouts(method.masking, self._at_init, leaves.masked))
        self.weights, self.gradients = leaves.pick(self.params), moved.pick(self.updates)
        shapes = [mask_shape(m) for m in self.old.masks]
        self._check_layers(sum(layer_counts(shapes, self.layouts)))
        leaves.check_shapes(self.weights, "parameters", shapes)
        leaves.check_shapes(self.gradients, "updates", shapes)
        self.full: list[Any] = [None] * len(self.weights)
        self.dense_updates = self.updates
        if signals.full_gradient is not None:
            found = MaskedLeaves.like(signals.full_gradient, state.masks, "full gradient")
            full = jax.tree_util.tree_leaves(signals.full_gradient)
            self.full = found.pick(full)
            leaves.check_shapes(self.full, "full gradient", shapes)
            by_name = dict(zip(found.names, full, strict=True))
            names = zip(moved.names, self.updates, strict=True)
            self.dense_updates = [u + by_name[n] if n in by_name else u for n, u in names]
        # Whether the call is lost, whether the masks change, and whether the optimiser's step is none.
        self.guards = skip_nonfinite
        self.lost: Any = ~_all_finite([*self.updates, *self.full]) if skip_nonfinite else False
        if not is_traced(self.lost):  # outside of a trace nothing needs a branch
            self.lost = bool(self.lost)
        self.now: Any = now if self.lost is False or now is False else now & jnp.logical_not(self.lost)
        self.idle: Any = now if self.lost is False else now | self.lost
        if self.lost is True:
            self.now, self.idle = False, True
        if method.updates is not None and method.updates.new_weights is not None:
            _ = self.keys  # made in the branch, they could not be read after it
        kept = remembered_of(state, self.stored)
        self.remembers = kept is not None
        # What was remembered when the forward pass ran: rules for the gradient read it.
        self.before: Sequence[Any] = [None] * len(self.weights) if kept is None else kept
        self.remembered = self.before
        if method.remembered.before_step is not None:
            rule = method.remembered.before_step
            read, together = self.read(self.weights, self.old), getattr(rule, "of_all", None)
            new = [rule(leaf) for leaf in read] if together is None else together(read)
            self.remembered = [self.learnt(rule, "before_step", n, b) for n, b in zip(new, self.before, strict=True)]
        if method.remembered.measure == "value" and signals.value is not None:
            measured: Any = measures.added(self.old.measured, signals.value)
            if self.lost is not False:
                measured = jax.tree.map(lambda last, x: jnp.where(self.lost, last, x), self.old.measured, measured)
            self.old = self.old._replace(measured=measured)

    def learnt(self, rule: Any, what: str, found: Any, before: Any) -> Any:
        """What a rule makes of what is remembered; where it is no finite number, or the call is lost, it stays."""

        def one(new: jax.Array, last: jax.Array) -> jax.Array:
            known = jnp.isfinite(new) if jnp.issubdtype(new.dtype, jnp.inexact) else True
            known = known if self.lost is False else known & jnp.logical_not(self.lost)
            return new if known is True else jnp.where(known, new, last)

        return jax.tree.map(one, returned.like(rule, what, found, before), before)

    @functools.cached_property
    def all_shapes(self) -> Shapes:
        """The shapes of all arrays among the parameters by path."""
        leaves = zip(self.leaves.paths, self.params, strict=True)
        return {path: tuple(x.shape) for path, x in leaves if is_array(x)}

    @property
    def shapes(self) -> Shapes:
        """The shapes of the masked leaves by path, None for the others."""
        return shapes_of(self.state.masks)

    @functools.cached_property
    def keys(self) -> list[tuple[jax.Array, jax.Array]]:
        """For each leaf the keys of this call: for the drop, and for the growth."""
        return leaf_keys(self.state.key, self.state.step, len(self.weights))

    def read(
        self,
        weights: Sequence[jax.Array],
        topology: Topology,
        salt: int | None = None,
        remembered: Sequence[Any] | None = None,
    ) -> list[Leaf]:
        """What rules read of each leaf; ``salt`` makes other keys of those of the drop."""
        counters: Sequence[Any] = topology.counters or [None] * len(weights)
        second: Sequence[StoredMask | None] = topology.second_mask or [None] * len(weights)
        keys = [k if salt is None else jax.random.fold_in(k, salt) for k, _ in self.keys]
        memory = self.remembered if remembered is None else remembered
        zero = jnp.zeros((), jnp.int32)
        return [
            Leaf(w, g, unpack(m), c, self.state.step, key, zero, x, None if b is None else unpack(b), f, layout)
            for w, g, m, c, key, x, b, f, layout in zip(
                weights,
                self.gradients,
                topology.masks,
                counters,
                keys,
                memory,
                second,
                self.full,
                self.layouts,
                strict=True,
            )
        ]

    def _check_layers(self, number: int) -> None:
        """Refuses a state whose layers are others than those of the layout."""
        masking = self.method.masking
        if masking is None or not self.layouts:
            return
        known = np.shape(self.state.targets)[-1]
        if known != number:
            raise ValueError(
                f"the state has the targets of {known} layers, and with layout={masking.layout!r} the parameters have "
                f"{number}; expected the layout= of init."
            )

    @functools.cached_property
    def _at_init(self) -> dict[str, Any]:
        """The shapes of the arrays that the parameters had at init, by name."""
        known = {place.name for place in places(self.state.masks)[0] if place.node is not None}
        return {
            n: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for n, x in zip(self.leaves.names, self.params, strict=True)
            if n in known and is_array(x)
        }

    def layers(self, weights: list[jax.Array]) -> Layers:
        """What rules for the whole network read."""
        method, target, step = self.method, self.state.targets, self.state.step
        initial = target
        if method.start.sparsity is not None:
            counts = initial_counts(method.masking, method.start, self._at_init)
            initial = jnp.stack([jnp.asarray(n, jnp.int32) for n in counts.values()])
        metric = self.signals.metric
        measure, measured = method.remembered.measure, None
        if measure is not None:
            measured = measures.measured(self.old.measured, metric if measure == "metric" else None)
        return Layers(
            self.read(weights, self.old),
            active=count_true(self.old.masks, self.layouts),
            initial=initial,
            target=target,
            sizes=layer_sizes([w.shape for w in weights], self.layouts),
            step=step,
            update_index=jnp.zeros_like(step) if method.updates is None else method.updates.schedule.index(step),
            shared=self.old.shared,
            measured=measured,
            value=self.signals.value,
            metric=metric,
        )

    def rewired(self, weights: list[jax.Array], frozen: Sequence[bool]) -> Topology:
        """The topology after a mask update at some weights; the optimiser never moves ``frozen`` leaves."""
        method = self.method
        assert method.masking is not None and method.updates is not None  # noqa: PT018
        call = copy.copy(self)  # keys that are made in the branch must not be kept after it
        grow_keys = [grow for _, grow in call.keys]
        layers = call.layers(weights)
        masked = {*call.moved.at}
        dense = [u for i, u in enumerate(call.updates) if i not in masked and is_array(u)]
        pulls = call.of_each("gradient", method.seen.gradient) or call.gradients
        parts = method.masking, method.updates, method.remembered
        return rewire(*parts, call.old, layers, grow_keys, frozen, pulls, dense, prunes=prunes(method))

    def of_each(self, what: str, rule: Any, kind: Any = jnp.inexact) -> list[jax.Array] | None:
        """What a rule gives for each leaf, as the forward pass saw it; None if there is no rule."""
        if rule is None:
            return None
        leaves = self.read(self.weights, self.old, salt=2, remembered=self.before)
        return [returned.like_weight(rule, what, rule(leaf), leaf.weight, kind) for leaf in leaves]
