"""``sparsify``: any optax optimiser, made to train with a sparse topology that changes while it trains."""

import functools
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dstjax._arrays.keys import check_seed, of_seed
from dstjax._arrays.shards import mesh_of
from dstjax._arrays.trees import Tree
from dstjax._engine.belonging import check_state
from dstjax._engine.call import Signals
from dstjax._engine.init import InitialMasks, initial_state
from dstjax._engine.states import TRACKABLE as TRACKABLE
from dstjax._engine.states import SparseState, names_of
from dstjax._engine.update import take_step
from dstjax.checks import check_choice
from dstjax.method import Method

ON_NONFINITE = ("pass", "skip")


def sparsify(
    inner: optax.GradientTransformation,
    method: Method,
    *,
    seed: Any = 0,
    layout: Any = None,
    track: Iterable[str] = (),
    initial_masks: InitialMasks = None,
    on_nonfinite: str = "pass",
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
    keeps its value and its moments. In a call that is spent on the masks (``update_order='skip'``) the scalars of
    ``inner`` go on, its counts, rates and keys among them, and its moments stay.

    Args:
      inner: any optimiser. Its moments are found by path and shape, never by class.
      method: from :mod:`dstjax.methods`.
      seed: integer of 64 bits, traced integer or PRNG key of all random choices.
      layout: what the axes of the leaves mean: a string such as ``"in out"`` for the leaves of that rank, a ``{regex:
        layout}`` map, a preset of :mod:`dstjax.layouts`, what :func:`dstjax.program.layouts` reads from the model, or a
        list of these. What is no weight is not masked. By default the names of the frameworks tell.
      track: what to keep for :mod:`dstjax.metrics`: 'exploration' (one bit per weight; free where there are counters),
        'survival' (one bit per weight), 'error' (a scalar).
      initial_masks: the masks to start from, as the functions of :mod:`dstjax.initial_masks` give them: a tree of
        boolean arrays, None at dense leaves, of the density that the method asks for (of one that prunes any from its
        start to its end) and of its structure; or a function of the parameters that returns such a tree. By default the
        method draws them. What holds boolean arrays is a tree, even if its class can be called.
      on_nonfinite: what to do with a call whose gradients are not all finite. 'pass' takes them as they are: a weight
        that becomes NaN stays so, even if it is dropped, since no update can bring it back to 0. With 'skip' weights,
        moments, averages, masks and counters stay as they are, and what counts steps goes on; a mask update of such a
        call is left out, and the next one makes up for it. A single weight or moment that the optimiser itself would
        make infinite or NaN stays too.

    Returns:
      A transformation with ``update(updates, state, params, *, rewire=None, value=None, **extra_args)``. By default the
      step in the state decides whether the masks change; ``rewire=True`` and ``False`` decide at trace time, for a host
      that asks ``method.is_update_step(t)``: the plain step then has no branch. Some methods read the loss of the step,
      ``value=``, or a performance, ``metric=``; they say so where it is missing. All other arguments go to ``inner``.

    Raises:
      ValueError: an argument is not what it says above; of init, where nothing can be masked or a leaf cannot be, or
        where the initial masks have another tree, shape, count or structure; of update, where ``params`` or what the
        method reads is missing, or its tree is not the one of init.

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
    if layout is not None:
        if method.masking is None:
            raise ValueError(f"layout={layout!r} is not accepted with method {method.name!r}, which masks nothing.")
        method = method.but(layout=layout)
    tracked = names_of(track)
    check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE)
    key_data = _key_data(seed)
    inner = optax.with_extra_args_support(inner)

    def init(params: Tree) -> SparseState:
        return initial_state(inner, method, key_data(), tracked, params, initial_masks)

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
        check_state(method, state)
        with mesh_of(jax.tree_util.tree_leaves(params)):
            return _update(updates, state, params, rewire, value, extra_args)

    def _update(
        updates: Tree, state: SparseState, params: Tree, rewire: Any, value: Any, extra_args: dict[str, Any]
    ) -> tuple[Tree, SparseState]:
        step = optax.safe_increment(state.step)
        now: Any = method.is_update_step(step) if rewire is None else method.updates is not None and bool(rewire)
        if not isinstance(now, bool) and not isinstance(now, jax.core.Tracer):
            now = bool(now)
        skip_nonfinite = on_nonfinite == "skip"
        signals = Signals.of(method, now, value, extra_args, skip_nonfinite=skip_nonfinite)
        inner_update = functools.partial(inner.update, **extra_args)
        return take_step(
            method,
            inner_update,
            updates,
            state._replace(step=step),
            params,
            now,
            signals,
            skip_nonfinite=skip_nonfinite,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _key_data(seed: Any) -> Callable[[], jax.Array]:
    """A function that makes the key data, so that no array is made before init and each init has a fresh buffer."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) and not seed.shape:
        bits = jax.random.bits(seed, (), jnp.uint32)
        return lambda: of_seed(bits)
    integer = isinstance(seed, numbers.Integral | jax.Array | np.ndarray) and not isinstance(seed, bool)
    if not integer or not jnp.issubdtype(jnp.result_type(seed), jnp.integer) or jnp.ndim(seed):
        shown = f"<{seed.dtype}{list(seed.shape)}>" if isinstance(seed, jax.Array) else repr(seed)
        raise ValueError(f"seed={shown} is not accepted; expected an integer or a PRNG key.")
    check_seed(seed)
    return lambda: of_seed(seed)
