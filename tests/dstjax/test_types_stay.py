"""The state has the same types after every call, so that a step is traced and compiled once, on any mesh."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dstjax
from tests import conformance
from tests.thorough import slow

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
SPECS = {"kernel": P("a", "b"), "bias": P(None)}
TRACK = ("exploration", "survival", "error")
# Random growth, memory of each weight, and counts by neuron.
QUICK = ("set", "snfs", "srigl")


def on(kind):
    """The context of a mesh of four devices; of none where ``kind`` is 'none'."""
    if kind == "none":
        return contextlib.nullcontext()
    return jax.set_mesh(jax.make_mesh((2, 2), ("a", "b"), axis_types=(KINDS[kind],) * 2, devices=jax.devices()[:4]))


def params_on(kind):
    rng = np.random.default_rng(0)
    params = {"kernel": rng.standard_normal((16, 24)).astype(np.float32), "bias": np.zeros(24, np.float32)}
    if kind == "none":
        return jax.tree.map(jnp.asarray, params)
    mesh = jax.sharding.get_mesh()
    return {n: jax.device_put(x, NamedSharding(mesh, SPECS[n])) for n, x in params.items()}


def made(name):
    method = conformance.make(name)
    given = None
    if method.start.pruner is not None and not method.start.prune_step:
        given = lambda params: {"kernel": params["kernel"] > 0.5, "bias": None}  # noqa: E731
    track = () if name == "dense" else TRACK
    return method, dstjax.sparsify(optax.adam(0.1), method, track=track, initial_masks=given)


def signals_of(method, params):
    return {n: params if n == "full_gradient" else jnp.float32(0.5) for n in method.needs}


def types(tree):
    """Each leaf by path: shape, dtype, weak type, and the mesh axes of its axes where its type says them."""

    def one(x):
        sharding = getattr(x, "sharding", None)
        spec = tuple(sharding.spec) if x.ndim and sharding is not None else ()
        named = x.ndim == 0 or sharding is not None
        return x.shape, x.dtype, x.weak_type, spec, named

    return {jax.tree_util.keystr(k): one(x) for k, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.parametrize("kind", ["explicit", slow("none")])
@pytest.mark.parametrize("name", [n if n in QUICK else slow(n) for n in conformance.METHODS])
@pytest.mark.filterwarnings("ignore")
def test_types_are_those_of_init(name, kind):
    with on(kind):
        params, (method, tx) = params_on(kind), made(name)
        first = jax.eval_shape(tx.init, params)
        for rewire in (None, True, False):

            def update(grads, state, params, rewire=rewire):
                return tx.update(grads, state, params, rewire=rewire, **signals_of(method, params))

            updates, state = jax.eval_shape(update, params, first, params)
            assert types(state) == types(first)
            assert types(updates) == types(jax.eval_shape(lambda p: p, params))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) if (n, k) == ("set", "explicit") else slow(n, k) for n in conformance.METHODS for k in KINDS],
)
@pytest.mark.filterwarnings("ignore")
def test_a_step_is_compiled_once(name, kind):
    """With parameters and state donated, from a jitted init that is told where its arrays go on Auto axes."""
    with on(kind):
        params, (method, tx) = params_on(kind), made(name)
        init = jax.jit(tx.init)
        if kind == "auto":
            mesh = jax.sharding.get_mesh()
            shapes = jax.eval_shape(tx.init, params)
            spread = lambda x: NamedSharding(mesh, SPECS["kernel"] if x.ndim == 2 else P(*[None] * x.ndim))  # noqa: E731
            init = jax.jit(tx.init, out_shardings=jax.tree.map(spread, shapes))
        state = init(params)
        params = dstjax.apply_masks(params, state)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, grads, signals):
            updates, state = tx.update(grads, state, params, **signals)
            return optax.apply_updates(params, updates), state

        grads = params_on(kind)
        signals = signals_of(method, grads)
        for _ in range(4):
            params, state = step(params, state, grads, signals)
        assert step._cache_size() == 1
