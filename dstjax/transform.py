"""``sparsify``: any optax optimiser, made to train with a sparse topology that changes while it trains."""

import functools
import numbers
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dstjax import masks
from dstjax._checks import check_choice
from dstjax._trees import Tree, is_hole, path_difference, path_name
from dstjax.held import update_filtered
from dstjax.initial_masks import active_counts, random_masks
from dstjax.masks import StoredMask
from dstjax.method import Method
from dstjax.rewire import Topology, counter_dtype
from dstjax.rewire import rewire as rewire_topology
from dstjax.state import SparseState, Tracked, map_moments

TRACKABLE = ("exploration", "survival", "error")


def sparsify(
    inner: optax.GradientTransformation,
    method: Method,
    *,
    seed: Any = 0,
    track: Iterable[str] = (),
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimiser so that it trains a sparse network by a method of dynamic sparse training.

    The returned updates take every inactive weight to exactly 0.0, so ``optax.apply_updates`` keeps the network sparse.
    ``sparsify`` goes outermost, or inside what passes or zeroes whole updates: ``optax.chain(clip, sparsify(...))``,
    ``MultiSteps``, ``apply_if_finite``, ``partition``, ``masked``, ``inject_hyperparams``, ``conditionally_mask``. All
    of them pass ``rewire=`` on; ``MultiSteps(...).gradient_transformation()`` does not. What rescales, adds to or
    bypasses its updates breaks the exact zeros: in a chain after it ``scale``, ``clip``, ``add_decayed_weights`` or
    ``add_noise``; around it ``schedule_free`` and ``conditionally_transform``. Put those
    inside instead. :func:`dstjax.check_sparse` finds out.

    The t-th call of ``update`` (t = 1, 2, ...) is a mask update when the schedule of the method says so. Which weights
    move is decided by the gradient of that call; gradients must be dense, that is taken at the masked parameters.
    Moments of dropped and of newly grown weights become zero; a weight that is dropped and grown again in one update
    keeps its value and its moments.

    Args:
      inner: any optimiser. Its moments are found by path and shape, never by class.
      method: from :mod:`dstjax.methods`.
      seed: integer, traced integer or PRNG key of all random choices.
      track: what to keep for :mod:`dstjax.metrics`: 'exploration' (one bit per weight; free where there are counters),
        'survival' (one bit per weight), 'error' (a scalar).

    Returns:
      A transformation with ``update(updates, state, params, *, rewire=None, value=None, **extra_args)``. By default the
      step in the state decides whether the masks change; ``rewire=True`` and ``False`` decide at trace time, for a host
      that asks ``method.is_update_step(t)``: the plain step then has no branch. Other arguments go to ``inner``.

    Raises:
      ValueError: of init, where nothing can be masked or a leaf cannot be; of update, where ``params`` is missing or
        its tree is not the one of init.

    >>> import dstjax, optax
    >>> tx = dstjax.sparsify(optax.sgd(0.1), dstjax.methods.rigl(sparsity=0.5, update_period=2, end_step=10))
    >>> params = {"w": jnp.ones((4, 4)), "b": jnp.zeros(4)}
    >>> opt_state = tx.init(params)
    >>> params = dstjax.apply_masks(params, opt_state)
    >>> updates, opt_state = tx.update(params, opt_state, params)
    >>> int((optax.apply_updates(params, updates)["w"] != 0).sum())
    8
    """
    if not isinstance(method, Method):
        raise ValueError(f"method={method!r} is not accepted; expected one from dstjax.methods, such as rigl(...).")
    if not (hasattr(inner, "init") and hasattr(inner, "update")):
        raise ValueError(f"inner={inner!r} is not accepted; expected an optax transformation.")
    track = tuple(track) if not isinstance(track, str) else (track,)
    for name in track:
        check_choice("track", name, TRACKABLE)
    key_data = _key_data(seed)
    inner = optax.with_extra_args_support(inner)

    def init(params: Tree) -> SparseState:
        return _init(inner, method, key_data(), track, params)

    def update(
        updates: Tree,
        state: SparseState,
        params: Tree | None = None,
        *,
        rewire: bool | None = None,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Tree, SparseState]:
        if params is None:
            raise ValueError("sparsify needs the parameters: call tx.update(grads, opt_state, params).")
        if not (rewire is None or isinstance(rewire, bool | np.bool_)):
            raise ValueError(f"rewire={rewire!r} is not accepted; expected None, True or False, known at trace time.")
        if value is not None:
            extra_args["value"] = value
        step = optax.safe_increment(state.step)
        now: Any = method.is_update_step(step) if rewire is None else method.updates is not None and bool(rewire)
        if not isinstance(now, bool) and not isinstance(now, jax.core.Tracer):
            now = bool(now)
        flat = _Flat.of(updates, state, params)
        inner_update = functools.partial(inner.update, **extra_args)
        return _step(method, inner_update, flat, state._replace(step=step), now)

    return optax.GradientTransformationExtraArgs(init, update)


def _init(
    inner: optax.GradientTransformationExtraArgs, method: Method, key: jax.Array, track: tuple[str, ...], params: Tree
) -> SparseState:
    treedef: Any
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in flat]
    leaves = dict(zip(names, (leaf for _, leaf in flat), strict=True))
    counts = active_counts(method, leaves)
    drawn = dict(zip(counts, random_masks(key, [leaves[n] for n in counts], list(counts.values())), strict=True))

    def tree(of: Callable[[jax.Array], Any]) -> Tree:
        return treedef.unflatten([of(drawn[n]) if n in drawn else None for n in names])

    def stored(of: Callable[[jax.Array], jax.Array]) -> Tree:
        return treedef.unflatten([masks.pack(of(drawn[n]), leaves[n]) if n in drawn else None for n in names])

    counters = None
    if method.counters:
        assert method.updates is not None
        dtype = counter_dtype(method.updates.count)
        counters = tree(lambda m: m.astype(dtype))
    tracked = None
    if track:
        survival = "survival" in track
        tracked = Tracked(
            ever=stored(jnp.array) if "exploration" in track and counters is None else None,
            grown=stored(jnp.zeros_like) if survival else None,
            n_grown=jnp.zeros(len(counts), jnp.int32) if survival else None,
            n_survived=jnp.zeros(len(counts), jnp.int32) if survival else None,
            error=jnp.zeros((), jnp.float32) if "error" in track else None,
        )
    return SparseState(
        step=jnp.zeros((), jnp.int32),
        masks=stored(lambda m: m),
        counters=counters,
        targets=jnp.stack([jnp.asarray(n, jnp.int32) for n in counts.values()]) if counts else jnp.zeros(0, jnp.int32),
        key=key,
        tracked=tracked,
        # Optimisers that keep a copy of the weights (schedule_free, lookahead) start sparse too.
        inner_state=inner.init(treedef.unflatten([_masked(leaf, drawn.get(name)) for name, leaf in leaves.items()])),
    )


def _step(method: Method, inner_update: Any, flat: "_Flat", state: SparseState, now: Any) -> tuple[Tree, SparseState]:
    """One call of update. ``now``: whether it is a mask update, a bool known at trace time or a traced scalar.

    The branch returns masks and counters alone and comes before the elementwise step; with weights or moments in it, or
    after the step, XLA would copy them.
    """
    weights = flat.masked(flat.params)
    gradients = flat.masked(flat.updates)
    old = flat.topology
    order = method.update_order

    def inner_step(active: list[StoredMask], weights: list[Any], inner_state: Any) -> tuple[list[Any], Any]:
        sparse = flat.tree(flat.updates, [_where(m, g, 0) for m, g in zip(active, gradients, strict=True)])
        updates, inner_state = inner_update(sparse, inner_state, flat.tree(flat.params, weights))
        return flat.treedef.flatten_up_to(updates), inner_state

    def rewired() -> Topology:
        at = weights
        if order == "step_then_update":  # computed here once more: passed in from outside it would have to be stored
            moved = flat.masked(inner_step(old.masks, weights, state.inner_state)[0])
            stepped = optax.apply_updates(weights, moved)
            at = [_where(m, w, 0) for m, w in zip(old.masks, stepped, strict=True)]
        return rewire_topology(method, old, step=state.step, key=state.key, weights=at, gradients=gradients)

    decided = isinstance(now, bool)
    new = (rewired() if now else old) if decided else lax.cond(now, rewired, lambda: old)
    # What was active and stays so keeps its moments, and the rest only loses them when the masks change.
    stays = [o & n for o, n in zip(old.masks, new.masks, strict=True)]
    keep = [jnp.where(now, s, ~jnp.zeros_like(s)) for s in stays]

    by_name = dict(zip(flat.names, keep, strict=True))

    def reset(inner_state: Any) -> Any:
        """Zeroes the moments of weights that were dropped or newly grown."""
        return inner_state if now is False else map_moments(lambda n, x: _where(by_name[n], x, 0), shapes, inner_state)

    shapes = {name: masks.shape(m) for name, m in by_name.items()}
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
    return flat.tree(updates, sparse), flat.stored(state, new)._replace(inner_state=inner_state)


class _Flat(NamedTuple):
    """Parameters, updates and topology of one call as lists."""

    treedef: Any
    names: list[str]  # of the masked leaves
    at: list[int]  # their places among all leaves
    params: list[Any]  # all leaves
    updates: list[Any]  # all leaves
    topology: Topology  # masked leaves

    @staticmethod
    def of(updates: Tree, state: SparseState, params: Tree) -> "_Flat":
        """Flattens one call, and refuses trees and shapes that are not those of init."""
        treedef: Any
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        stored = _flatten_like(treedef, state.masks, "parameters", state.masks, params)
        gradients = _flatten_like(treedef, updates, "updates", params, updates)
        at = [i for i, m in enumerate(stored) if not is_hole(m)]
        names = [path_name(flat[i][0]) for i in at]
        leaves = [leaf for _, leaf in flat]
        for i, name in zip(at, names, strict=True):
            for label, x in (("parameter", leaves[i]), ("update", gradients[i])):
                if jnp.shape(x) != masks.shape(stored[i]):
                    raise ValueError(
                        f"the {label} {name!r} has shape {jnp.shape(x)}; expected {masks.shape(stored[i])} as at init."
                    )

        def masked(tree: Tree | None) -> Any:
            return None if tree is None else [x for x in treedef.flatten_up_to(tree) if not is_hole(x)]

        tracked = state.tracked or Tracked(None, None, None, None, None)
        topology = Topology(
            masked(state.masks),
            masked(state.counters),
            masked(tracked.ever),
            masked(tracked.grown),
            tracked.n_grown,
            tracked.n_survived,
            tracked.error,
        )
        return _Flat(treedef, names, at, leaves, gradients, topology)

    def masked(self, leaves: list[Any]) -> list[Any]:
        """The masked ones of all leaves."""
        return [leaves[i] for i in self.at]

    def tree(self, dense: list[Any], masked: list[Any]) -> Tree:
        """A tree with ``masked`` at the masked leaves and ``dense`` elsewhere."""
        leaves = list(dense)
        for i, x in zip(self.at, masked, strict=True):
            leaves[i] = x
        return self.treedef.unflatten(leaves)

    def stored(self, state: SparseState, topology: Topology) -> SparseState:
        """The state with another topology."""
        holes = [None] * len(self.params)

        def tree(leaves: list[Any] | None) -> Tree | None:
            return None if leaves is None else self.tree(holes, leaves)

        tracked = None
        if state.tracked is not None:
            tracked = Tracked(tree(topology.ever), tree(topology.grown), *topology[4:])
        return state._replace(masks=tree(topology.masks), counters=tree(topology.counters), tracked=tracked)


def _masked(leaf: Any, mask: jax.Array | None) -> Any:
    """A leaf with its inactive weights zero; shapes without values stay as they are."""
    if mask is None or isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))


def _flatten_like(treedef: Any, tree: Tree, wrong: str, expected: Tree, found: Tree) -> list[Any]:
    """The leaves of a tree at the places of the parameters; a ValueError that says which tree differs, and where."""
    try:
        return treedef.flatten_up_to(tree)
    except ValueError:
        known = jax.tree_util.tree_map(lambda _: 0, expected, is_leaf=is_hole)
        difference = path_difference(known, jax.tree_util.tree_map(lambda _: 0, found, is_leaf=is_hole))
        raise ValueError(f"the tree of the {wrong} is not the one at init; {difference}.") from None


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


def _key_data(seed: Any) -> Callable[[], jax.Array]:
    """A function that makes the key data, so that no array is made before init and each init has a fresh buffer."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) and not seed.shape:
        bits = jax.random.bits(seed, (), jnp.uint32)
        return lambda: jax.random.key_data(jax.random.key(bits, impl="threefry2x32"))
    integer = isinstance(seed, numbers.Integral | jax.Array | np.ndarray) and not isinstance(seed, bool)
    if not integer or not jnp.issubdtype(jnp.result_type(seed), jnp.integer) or jnp.ndim(seed):
        shown = f"<{seed.dtype}{list(seed.shape)}>" if isinstance(seed, jax.Array) else repr(seed)
        raise ValueError(f"seed={shown} is not accepted; expected an integer or a PRNG key.")
    return lambda: jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
