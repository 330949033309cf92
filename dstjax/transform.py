"""``sparsify``: any optax optimiser, made to train with a sparse topology that changes while it trains."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dstjax import distributions, masks, state
from dstjax._checks import check_choice
from dstjax._trees import Tree, is_hole, path_difference, path_name
from dstjax.criteria import Leaf
from dstjax.drop_and_grow import MaskUpdate, drop_and_grow_all
from dstjax.method import Method
from dstjax.selection import count_true, top_k_masks
from dstjax.state import SparseState, Tracked

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
    ``MultiSteps``, ``apply_if_finite``, ``partition``, ``masked``, ``inject_hyperparams``, ``conditionally_mask``. What
    rescales, adds to or bypasses its updates breaks the exact zeros: in a chain after it ``scale``, ``clip``,
    ``add_decayed_weights`` or ``add_noise``; around it ``schedule_free`` and ``conditionally_transform``. Put those
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
      A transformation with ``update(updates, state, params, *, rewire=None, value=None, **extra_args)``. ``rewire=None``
      decides by the step in the state; ``True`` and ``False`` decide at trace time, for a host that asks
      ``method.is_update_step(t)``: the plain step then has no branch. Other arguments go to ``inner``.

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
        return _update(method, inner_update, flat, state._replace(step=step), now)

    return optax.GradientTransformationExtraArgs(init, update)


def _init(
    inner: optax.GradientTransformationExtraArgs, method: Method, key: jax.Array, track: tuple[str, ...], params: Tree
) -> SparseState:
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in flat]
    leaves = dict(zip(names, (leaf for _, leaf in flat), strict=True))
    counts = active_counts(method, leaves)
    drawn = dict(zip(counts, _draw(key, [leaves[n] for n in counts], list(counts.values())), strict=True))

    def tree(of: Any) -> Tree:
        return treedef.unflatten([of(drawn[n]) if n in drawn else None for n in names])

    counters = None
    if method.counters:
        assert method.updates is not None
        dtype = _counter_dtype(method.updates.count)
        counters = tree(lambda m: m.astype(dtype))
    n_leaves = len(counts)
    tracked = None
    if track:
        survival = "survival" in track
        tracked = Tracked(
            ever=tree(masks.pack) if "exploration" in track and counters is None else None,
            grown=tree(lambda m: masks.pack(jnp.zeros_like(m))) if survival else None,
            n_grown=jnp.zeros(n_leaves, jnp.int32) if survival else None,
            n_survived=jnp.zeros(n_leaves, jnp.int32) if survival else None,
            error=jnp.zeros((), jnp.float32) if "error" in track else None,
        )
    return SparseState(
        step=jnp.zeros((), jnp.int32),
        masks=tree(masks.pack),
        counters=counters,
        targets=jnp.array(list(counts.values()), jnp.int32),
        key=key,
        tracked=tracked,
        inner_state=inner.init(params),
    )


def active_counts(method: Method, leaves: Mapping[str, Any]) -> dict[str, int]:
    """Which leaves a method masks, and how many active weights each of them has.

    Args:
      method: the method.
      leaves: path -> array, or its shape and dtype.

    Raises:
      ValueError: no leaf is maskable, one that should be masked is no real tensor, or one is too small.
    """
    if not method.masked:
        return {}
    rule = method.maskable or _default_maskable
    chosen = [name for name, leaf in leaves.items() if rule(name, leaf)]
    if isinstance(method.distribution, Mapping):
        chosen = distributions.masked_by_map(method.distribution, list(leaves), chosen)
    for name in chosen:
        if not jnp.issubdtype(leaves[name].dtype, jnp.floating):
            raise ValueError(
                f"leaf {name!r} has dtype {leaves[name].dtype}; only real floating leaves can be masked. Exclude it with "
                "maskable=lambda path, leaf: ..."
            )
    if not chosen:
        raise ValueError(
            f"method {method.name!r} finds nothing to mask among {list(leaves)}; by default leaves of two or more "
            "dimensions are masked, maskable= chooses others."
        )
    return distributions.active_counts(
        method.distribution, {name: tuple(leaves[name].shape) for name in chosen}, method.sparsity
    )


class _Flat(NamedTuple):
    """Parameters, updates and state of one call as lists, with the masked leaves apart."""

    treedef: Any
    names: list[str]  # of the masked leaves
    at: list[int]  # their places among all leaves
    params: list[Any]  # all leaves
    updates: list[Any]  # all leaves
    masks: list[jax.Array]  # masked leaves, boolean
    counters: list[jax.Array | None]
    ever: list[jax.Array | None]
    grown: list[jax.Array | None]

    @staticmethod
    def of(updates: Tree, state: SparseState, params: Tree) -> "_Flat":
        flat, treedef = jax.tree_util.tree_flatten_with_path(params)
        try:
            stored = treedef.flatten_up_to(state.masks)
            gradients = treedef.flatten_up_to(updates)
        except ValueError:
            wrong, tree = ("parameters", params)
            initial = jax.tree_util.tree_map(lambda m: 0, state.masks, is_leaf=masks.is_stored)
            if jax.tree_util.tree_structure(initial) == treedef:
                wrong, tree = ("updates", updates)
            raise ValueError(
                f"the tree of the {wrong} is not the one at init; {path_difference(initial, tree)}."
            ) from None
        at = [i for i, m in enumerate(stored) if not is_hole(m)]
        names = [path_name(flat[i][0]) for i in at]
        leaves = [leaf for _, leaf in flat]
        for i, name in zip(at, names, strict=True):
            for label, x in (("parameter", leaves[i]), ("update", gradients[i])):
                if tuple(jnp.shape(x)) != tuple(stored[i].shape):
                    raise ValueError(
                        f"the {label} {name!r} has shape {jnp.shape(x)}; expected {stored[i].shape} as at init."
                    )

        def masked(tree: Tree | None) -> list[Any]:
            if tree is None:
                return [None] * len(at)
            every = treedef.flatten_up_to(tree)
            return [every[i] for i in at]

        tracked = state.tracked or Tracked(None, None, None, None, None)
        return _Flat(
            treedef,
            names,
            at,
            leaves,
            gradients,
            [masks.unpack(stored[i]) for i in at],
            masked(state.counters),
            [None if m is None else masks.unpack(m) for m in masked(tracked.ever)],
            [None if m is None else masks.unpack(m) for m in masked(tracked.grown)],
        )

    def tree(self, dense: list[Any], masked: list[Any]) -> Tree:
        """A tree with ``masked`` at the masked leaves and ``dense`` elsewhere."""
        leaves = list(dense)
        for i, x in zip(self.at, masked, strict=True):
            leaves[i] = x
        return self.treedef.unflatten(leaves)

    def holes(self, masked: list[Any]) -> Tree:
        """A tree with ``masked`` at the masked leaves and None elsewhere."""
        return self.tree([None] * len(self.params), masked)

    def take(self, tree: Tree) -> list[Any]:
        """The masked leaves of a tree."""
        every = self.treedef.flatten_up_to(tree)
        return [every[i] for i in self.at]


class _Rewired(NamedTuple):
    """What a mask update changes: all that a branch returns."""

    masks: list[jax.Array]
    counters: list[jax.Array | None]
    ever: list[jax.Array | None]
    grown: list[jax.Array | None]
    n_grown: jax.Array | None
    n_survived: jax.Array | None
    error: jax.Array | None


def _update(method: Method, inner_update: Any, flat: _Flat, state: SparseState, now: Any) -> tuple[Tree, SparseState]:
    """One step. ``now`` says whether it is a mask update: a bool known at trace time, or a traced boolean scalar."""
    params = flat.treedef.unflatten(flat.params)
    weights = [flat.params[i] for i in flat.at]
    gradients = [flat.updates[i] for i in flat.at]
    old = flat.masks
    order = method.update_order

    def step(active: list[jax.Array], weights: list[Any], inner_state: Any) -> tuple[Tree, Any]:
        sparse = [jnp.where(m, g, jnp.zeros((), g.dtype)) for m, g in zip(active, gradients, strict=True)]
        return inner_update(flat.tree(flat.updates, sparse), inner_state, flat.tree(flat.params, weights))

    def rewired() -> _Rewired:
        at = weights
        if order == "step_then_update":  # computed again rather than passed in: a branch after the step costs more
            moved = flat.take(optax.apply_updates(params, step(old, weights, state.inner_state)[0]))
            at = [jnp.where(m, w, jnp.zeros((), w.dtype)) for m, w in zip(old, moved, strict=True)]
        return _rewire(method, flat, state, at, gradients)

    if now is False:
        new, result = old, None
    elif now is True:
        result = rewired()
        new = result.masks
    else:
        result = lax.cond(now, rewired, lambda: _unchanged(flat, state))
        new = result.masks
    if result is not None:
        state = _stored(flat, state, result)
    stays = [o & n for o, n in zip(old, new, strict=True)]
    is_update = jnp.asarray(now)

    def reset(inner_state: Any) -> Any:
        """Zeroes the moments of dropped and of newly grown weights."""
        if now is False:
            return inner_state
        keep = dict(zip(flat.names, stays, strict=True))
        return map_moments_where(keep, inner_state, is_update)

    if order == "skip" and now is True:
        inner_state = reset(state.inner_state)
        stepped: Tree = jax.tree_util.tree_map(jnp.zeros_like, flat.treedef.unflatten(flat.updates))
    elif order == "update_then_step":
        kept = [jnp.where(s, w, jnp.zeros((), w.dtype)) for s, w in zip(stays, weights, strict=True)]
        stepped, inner_state = step(new, kept if now is not False else weights, reset(state.inner_state))
    else:
        stepped, inner_state = step(old, weights, state.inner_state)
        if order == "skip" and now is not False:  # the inner optimiser has not seen this step
            pick = functools.partial(jnp.where, is_update)
            inner_state = jax.tree_util.tree_map(pick, state.inner_state, inner_state)
            stepped = jax.tree_util.tree_map(lambda u: jnp.where(is_update, jnp.zeros((), u.dtype), u), stepped)
        inner_state = reset(inner_state)

    moving = stays if order == "step_then_update" else new
    result_updates = flat.tree(
        flat.treedef.flatten_up_to(stepped),
        [jnp.where(m, u, -w) for m, u, w in zip(moving, flat.take(stepped), weights, strict=True)],
    )
    return result_updates, state._replace(inner_state=inner_state)


def _rewire(
    method: Method, flat: _Flat, sparse: SparseState, weights: list[jax.Array], gradients: list[jax.Array]
) -> _Rewired:
    """The mask update of all masked leaves."""
    assert method.updates is not None and method.drop_fraction is not None
    index = method.updates.index(sparse.step)
    counts = method.drop_fraction.of(count_true(flat.masks), index, ceil=method.ceil)
    keys = _leaf_keys(sparse.key, sparse.step, len(weights))
    leaves = [
        Leaf(w, g, m, c, sparse.step, key[0], n)
        for w, g, m, c, key, n in zip(weights, gradients, flat.masks, flat.counters, keys, counts, strict=True)
    ]
    moves: list[MaskUpdate] = drop_and_grow_all(
        leaves, [key[1] for key in keys], drop=method.drop, grow=method.grow, scope=method.scope
    )
    new = [move.mask for move in moves]
    tracked = sparse.tracked
    n_grown = n_survived = error = None
    if tracked is not None and tracked.grown is not None:
        before = [g for g in flat.grown if g is not None]
        n_grown = count_true(before)
        n_survived = count_true([g & move.kept for g, move in zip(before, moves, strict=True)])
    if tracked is not None and tracked.error is not None:
        error = _mask_error(weights, new)
    return _Rewired(
        masks=new,
        counters=[None if c is None else _saturating_add(c, m) for c, m in zip(flat.counters, new, strict=True)],
        ever=[None if e is None else e | m for e, m in zip(flat.ever, new, strict=True)],
        grown=[None if g is None else m & ~o for g, m, o in zip(flat.grown, new, flat.masks, strict=True)],
        n_grown=n_grown,
        n_survived=n_survived,
        error=error,
    )


def _unchanged(flat: _Flat, sparse: SparseState) -> _Rewired:
    tracked = sparse.tracked or Tracked(None, None, None, None, None)
    return _Rewired(
        flat.masks, flat.counters, flat.ever, flat.grown, tracked.n_grown, tracked.n_survived, tracked.error
    )


def _stored(flat: _Flat, sparse: SparseState, result: _Rewired) -> SparseState:
    tracked = sparse.tracked
    if tracked is not None:
        tracked = Tracked(
            None if tracked.ever is None else flat.holes([masks.pack(m) for m in result.ever if m is not None]),
            None if tracked.grown is None else flat.holes([masks.pack(m) for m in result.grown if m is not None]),
            result.n_grown,
            result.n_survived,
            result.error,
        )
    return sparse._replace(
        masks=flat.holes([masks.pack(m) for m in result.masks]),
        counters=None if sparse.counters is None else flat.holes(result.counters),
        tracked=tracked,
    )


def map_moments_where(keep: dict[str, jax.Array], inner_state: Any, now: jax.Array) -> Any:
    """Zeroes the moments outside ``keep`` (path -> mask) where ``now`` holds."""
    return state.map_moments(lambda name, x: jnp.where(keep[name] | ~now, x, jnp.zeros((), x.dtype)), keep, inner_state)


def _mask_error(weights: list[jax.Array], new: list[jax.Array]) -> jax.Array:
    squares = [jnp.square(w.astype(jnp.float32)) for w in weights]
    lost = sum(jnp.sum(jnp.where(m, 0.0, s)) for s, m in zip(squares, new, strict=True))
    total = sum(jnp.sum(s) for s in squares)
    return jnp.asarray(jnp.where(total > 0, lost / jnp.maximum(total, jnp.finfo(jnp.float32).tiny), 0.0), jnp.float32)


def _saturating_add(counter: jax.Array, mask: jax.Array) -> jax.Array:
    return counter + (mask & (counter < jnp.iinfo(counter.dtype).max)).astype(counter.dtype)


def _counter_dtype(updates: int | None) -> Any:
    """The smallest unsigned integer that holds the initial mask and every update; 16 bits where they never end."""
    highest = 2**16 - 1 if updates is None else updates + 1
    return next(d for d in (jnp.uint8, jnp.uint16, jnp.uint32) if highest <= jnp.iinfo(d).max)


def _default_maskable(path: str, leaf: Any) -> bool:
    del path
    return len(leaf.shape) >= 2


def _key_data(seed: Any) -> Any:
    """A function that makes the key data, so that no array is made before init and each init has a fresh buffer."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        bits = jax.random.bits(seed, (), jnp.uint32)
        return lambda: jax.random.key_data(jax.random.key(bits, impl="threefry2x32"))
    if isinstance(seed, bool) or not jnp.issubdtype(jnp.result_type(seed), jnp.integer) or jnp.ndim(seed):
        raise ValueError(f"seed={seed!r} is not accepted; expected an integer or a PRNG key.")
    return lambda: jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def _leaf_keys(key: jax.Array, step: Any, leaves: int) -> list[tuple[jax.Array, jax.Array]]:
    """Keys for drop and grow of each leaf at a step; the same on every device."""
    at_step = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), step)
    pairs = []
    for i in range(leaves):
        of_leaf = jax.random.fold_in(at_step, i)
        pairs.append((jax.random.fold_in(of_leaf, 0), jax.random.fold_in(of_leaf, 1)))
    return pairs


def _draw(key: jax.Array, leaves: list[Any], counts: list[int]) -> list[jax.Array]:
    """Uniformly random masks with exact counts, sharded like the leaves."""
    if not leaves:
        return []
    shapes = tuple((tuple(leaf.shape), _sharding(leaf)) for leaf in leaves)
    drawn = _draw_all(key, counts, shapes)
    return [
        jax.device_put(m, leaf.sharding) if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) else m
        for m, leaf in zip(drawn, leaves, strict=True)
    ]


@functools.partial(jax.jit, static_argnames="shapes")
def _draw_all(key: jax.Array, counts: list[Any], shapes: tuple[tuple[tuple[int, ...], Any], ...]) -> list[jax.Array]:
    keys = [pair[0] for pair in _leaf_keys(key, 0, len(shapes))]
    bits = [
        jax.random.bits(k, shape, jnp.uint32, out_sharding=sharding)
        for k, (shape, sharding) in zip(keys, shapes, strict=True)
    ]
    return top_k_masks(bits, counts)


def _sharding(leaf: Any) -> Any:
    """The sharding in the type of a leaf on an Explicit mesh, None elsewhere."""
    if not isinstance(leaf, jax.Array):
        return None
    sharding = jax.typeof(leaf).sharding
    return sharding if sharding.mesh.shape else None
