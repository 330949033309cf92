"""Makes of a configuration what a user would write: parameters, methods, optimisers, gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType

import dstjax
from dstjax import methods, structures
from tests.fuzz.drawing import Configuration, Pairs


class Layer(NamedTuple):
    """A layer as some people write it."""

    kernel: Any
    bias: Any


class Module(eqx.Module):
    """A layer of Equinox."""

    weight: Any
    bias: Any
    activation: Any = eqx.field(static=True, default="relu")


Draw = Callable[..., Any]  # a leaf of a shape


def _boxed(x: Any) -> Any:
    return nn.Partitioned(x, ("a", "b")[: x.ndim])


# Few shapes, so that operations outside of a jit are compiled once.
TREES: dict[str, Callable[[Draw], Any]] = {
    "dense": lambda x: {
        "one": {"kernel": x(16, 16), "bias": x(8)},
        "two": {"kernel": x(16, 8), "bias": x(8)},
        "scale": x(),
    },
    "convolution": lambda x: {"conv": {"kernel": x(3, 3, 4, 8), "bias": x(8)}, "dense": {"kernel": x(16, 8)}},
    "lists": lambda x: {"layers": [x(16, 16), (x(16, 8), x(8))], "nothing": None},
    "tuples": lambda x: Layer(Layer(x(16, 16), x(8)), (Layer(x(16, 8), None),)),
    "holes": lambda x: {
        "one": {"kernel": x(16, 16), "bias": optax.MaskedNode()},
        "two": {"kernel": x(16, 8), "bias": None},
        "empty": {},
        "list": [],
    },
    "slashes": lambda x: {
        "a/b": {"c": x(16, 16)},
        "a": {"b/c": x(16, 16)},
        "": x(16, 8),
        "a b.c[0]": x(8),
        "ünï": x(8),
    },
    "numbers": lambda x: {0: {1: x(16, 16), 2: x(8)}, 1: x(16, 8)},
    "partitioned": lambda x: {"one": {"kernel": _boxed(x(16, 16)), "bias": _boxed(x(8))}, "two": {"kernel": x(16, 8)}},
    "nnx": lambda x: nnx.State({"one": {"kernel": nnx.Param(x(16, 16)), "bias": nnx.Param(x(8))}, "two": {
        "kernel": nnx.Param(x(16, 8))}}),
    "equinox": lambda x: [Module(x(16, 16), x(8)), Module(x(16, 8), None)],
    "stack": lambda x: {"blocks": {"kernel": x(3, 16, 8), "bias": x(3, 8)}, "head": {"kernel": x(16, 8)}},
    "leaf": lambda x: x(16, 16),
    "others": lambda x: {
        "kernel": x(16, 16),
        "bias": x(8),
        "rate": 0.5,
        "count": jnp.arange(4),
        "flags": jnp.ones((2, 2), bool),
        "text": "relu",
        "function": jax.nn.relu,
        "key": jax.random.key(0),
    },
    "attention": lambda x: {"query": {"kernel": x(16, 2, 8), "bias": x(2, 8)}, "out": {"kernel": x(2, 8, 16)}},
    "tiny": lambda x: {"one": {"kernel": x(2, 2)}, "two": {"kernel": x(1, 8)}, "three": {"kernel": x(8, 1)}},
}  # fmt: skip


def parameters(c: Configuration) -> Any:
    """The parameters before training."""
    rng = np.random.default_rng([c.seed, c.number])
    kinds = ("float32", "bfloat16") if c.dtype == "mixed" else (c.dtype,)
    drawn = 0

    def leaf(*shape: int) -> jax.Array:
        nonlocal drawn
        drawn += 1
        return jnp.asarray(rng.standard_normal(shape).astype(jnp.dtype(kinds[drawn % len(kinds)])))

    params = TREES[c.tree](leaf)
    return jax.device_put(params, shardings(c, params)) if c.program in ("auto", "explicit") else params


def mesh(c: Configuration) -> Any:
    """Eight devices in two axes."""
    kind = AxisType.Explicit if c.program == "explicit" else AxisType.Auto
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))


def shardings(c: Configuration, params: Any) -> Any:
    """Matrices lie in pieces, by rows, columns or both; all else everywhere."""
    spec = (jax.P("a"), jax.P(None, "b"), jax.P("a", "b"), jax.P(("a", "b")))[c.number % 4]
    devices = mesh(c)
    return jax.tree.map(lambda x: jax.NamedSharding(devices, spec if np.ndim(x) == 2 else jax.P()), params)


def is_trained(leaf: Any) -> bool:
    """Whether a leaf has a gradient."""
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def matrices(params: Any) -> list[int]:
    """Which leaves are matrices, by their place among all leaves."""
    return [i for i, x in enumerate(jax.tree.leaves(params)) if is_trained(x) and x.ndim > 1]


def gradient(c: Configuration, params: Any, t: int) -> Any:
    """The gradient of the t-th call, t = 1, 2, ..."""
    rng = np.random.default_rng([c.seed, c.number, t])
    kind = c.gradients[t - 1]
    leaves, treedef = jax.tree.flatten(params)
    zero = matrices(params)[-1] if c.zero_leaf else None
    found: list[Any] = []
    for i, w in enumerate(leaves):
        if not is_trained(w):
            found.append(None)
            continue
        with np.errstate(over="ignore"):
            g = rng.standard_normal(w.shape) * {"huge": 1e4, "tiny": 1e-6, "zero": 0}.get(kind, 1)
        if kind in ("nan", "inf") and i == matrices(params)[0] and i != zero:
            g[(0,) * g.ndim] = float(kind)
        found.append(jnp.asarray((0 * g if i == zero else g).astype(w.dtype)))
    grads = treedef.unflatten(found)
    return jax.device_put(grads, shardings(c, params)) if c.program in ("auto", "explicit") else grads


def extra(method: Any, grads: Any, t: int, *, always: bool = False) -> dict[str, Any]:
    """The extra arguments that a method cannot do without, or all that a loop may have."""
    known: dict[str, Any] = {"value": 1.0 / t, "metric": 0.5 + 0.01 * t}
    if "full_gradient" in method.needs:
        known["full_gradient"] = jax.tree.map(lambda g: g * jnp.asarray(0.5, g.dtype), grads)
    return {n: x for n, x in known.items() if n in method.needs or (always and n == "value")}


# --- Methods ----------------------------------------------------------------------------------------------------------


def _largest(leaf: Any) -> jax.Array:
    return abs(leaf.weight * leaf.gradient)


def _halves(shapes: Any, sparsity: float) -> dict[str, float]:
    return dict.fromkeys(shapes, 1 - sparsity)


NAMED: dict[tuple[str, Any], Any] = {
    ("distribution", "map"): {".*": 0.5},
    ("distribution", "two patterns"): {"kernel": 0.25, ".*": 0.5},
    ("distribution", "function"): _halves,
    ("maskable", "matrices"): lambda path, leaf: leaf.ndim > 1,
    ("maskable", "one"): lambda path, leaf: leaf.shape == (16, 8),
    ("drop", "rule"): _largest,
    ("grow", "rule"): _largest,
    ("drop_schedule", "function"): optax.linear_schedule(0.5, 0.1, 6),
    ("structure", "n_m(1, 2)"): structures.n_m(1, 2),
    ("structure", "n_m(2, 4)"): structures.n_m(2, 4),
    ("structure", "block(2, 2)"): structures.block(2, 2),
    ("structure", "block(1, 4)"): structures.block(1, 4),
    ("structure", "fan_in()"): structures.fan_in(),
}


def method_of(name: str, pairs: Pairs) -> Any:
    """The method of a name and hyper-parameters that are written as in a configuration."""
    return methods.get(name, **{n: NAMED.get((n, x), x) if isinstance(x, str) else x for n, x in pairs})


def layout_of(c: Configuration) -> Any:
    """The layout as an argument."""
    return dstjax.layouts.flax if c.layout == "flax" else c.layout


def seed_of(c: Configuration) -> Any:
    """The seed as an argument."""
    seed = dict(c.arguments)["seed"]
    made = {"np.int64": lambda: np.int64(3), "key": lambda: jax.random.key(3), "array": lambda: jnp.uint32(3)}
    return made[seed]() if isinstance(seed, str) else seed


# --- Optimisers -------------------------------------------------------------------------------------------------------


def _by_place(params: Any, chosen: int, one: Any, others: Any) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    return treedef.unflatten([one if i == chosen else others for i in range(len(leaves))])


def _frozen(params: Any) -> Any:
    labels = _by_place(params, matrices(params)[0], "frozen", "trained")
    return optax.partition({"trained": optax.adam(0.05), "frozen": optax.set_to_zero()}, labels)


INNERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: optax.sgd(0.1),
    "momentum": lambda p: optax.sgd(0.1, momentum=0.9),
    "half moments": lambda p: optax.sgd(0.1, momentum=0.9, nesterov=True, accumulator_dtype=jnp.bfloat16),
    "adam": lambda p: optax.adam(0.05),
    "adamw": lambda p: optax.adamw(0.05, weight_decay=0.1),
    "lion": lambda p: optax.lion(0.01),
    "rmsprop": lambda p: optax.rmsprop(0.01, momentum=0.9),
    "adafactor": lambda p: optax.adafactor(0.05, min_dim_size_to_factor=4),
    "adagrad": lambda p: optax.adagrad(0.1),
    "schedule": lambda p: optax.adam(optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 6)),
    "noisy_sgd": lambda p: optax.noisy_sgd(0.1, key=1),
    "clip": lambda p: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    "frozen": _frozen,
    "set_to_zero": lambda p: optax.chain(
        optax.adam(0.05), optax.masked(optax.set_to_zero(), _by_place(p, matrices(p)[0], True, False))
    ),
    "inject_hyperparams": lambda p: optax.inject_hyperparams(optax.adam)(learning_rate=0.05),
    "MultiSteps": lambda p: optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2).gradient_transformation(),
    "apply_if_finite": lambda p: optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), 2),
    "decay of some": lambda p: optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), lambda q: jax.tree.map(lambda x: np.ndim(x) > 1, q)),
        optax.sgd(0.1, momentum=0.9),
    ),
    "schedule_free": lambda p: optax.contrib.schedule_free_sgd(0.1),
}
WITHOUT_DIVISION = ("sgd", "momentum", "half moments", "clip", "MultiSteps", "apply_if_finite")
FREEZING = ("frozen", "set_to_zero")
# These move a weight whose gradient is zero: by noise, by decay, by rounding between two averages.
RESTLESS = ("adamw", "lion", "noisy_sgd", "decay of some", "adafactor", "schedule_free")


def wrapped(c: Configuration, make: Callable[[Any], Any], params: Any) -> Any:
    """A wrapper around ``make(inner)``, which makes the sparse optimiser."""
    inner = INNERS[c.inner](params)
    some = _by_place(params, matrices(params)[-1], True, False)
    labels = _by_place(params, matrices(params)[-1], "a", "b")
    wrappers: dict[str, Callable[[], Any]] = {
        "none": lambda: make(inner),
        "chain": lambda: optax.chain(optax.clip(1.0), make(inner)),
        "global norm": lambda: optax.chain(optax.clip_by_global_norm(1.0), make(inner)),
        "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("sparse", make(inner))),
        "MultiSteps": lambda: optax.MultiSteps(make(inner), 2),
        "MultiSteps as a transformation": lambda: optax.MultiSteps(make(inner), 2).gradient_transformation(),
        "apply_if_finite": lambda: optax.apply_if_finite(make(inner), 2),
        "masked": lambda: optax.masked(make(optax.sgd(0.1, momentum=0.9)), some),
        "partition": lambda: optax.partition({"a": make(optax.adam(0.05)), "b": optax.sgd(0.1)}, labels),
        "two": lambda: optax.partition({"a": make(optax.adam(0.05)), "b": make(optax.sgd(0.1))}, labels),
        "inject_hyperparams": lambda: optax.inject_hyperparams(lambda rate: make(optax.sgd(rate)))(rate=0.1),
    }
    return wrappers[c.wrapper]()


def own_optimiser(c: Configuration) -> bool:
    """Whether the wrapper leaves the inner optimiser as it is drawn."""
    return c.wrapper not in ("masked", "partition", "two", "inject_hyperparams")


def optimiser(c: Configuration, method: Any, params: Any, seed: Any, given: Any = None) -> Any:
    """The optimiser of a configuration."""
    arguments = {n: x for n, x in c.arguments if n != "seed"}
    layout = layout_of(c) if method.masking is not None else None

    def make(inner: Any) -> Any:
        return dstjax.sparsify(inner, method, seed=seed, layout=layout, initial_masks=given, **arguments)

    return wrapped(c, make, params)


def alone(c: Configuration, params: Any) -> Any:
    """The same without dstjax, to find out whose fault an error is."""
    return wrapped(c, lambda inner: inner, params)


def masks_of_someone(c: Configuration, method: Any, params: Any) -> Any:
    """Masks such as a pruner would give, of what the method asks for."""
    masking = method.masking
    static = methods.static(
        sparsity=masking.sparsity, distribution=masking.distribution, maskable=masking.maskable,
        structure=masking.structure,
    )  # fmt: skip
    return dstjax.get_masks(dstjax.sparsify(optax.sgd(0.1), static, seed=9, layout=layout_of(c)).init(params))


def applied(params: Any, updates: Any) -> Any:
    """Adds the updates; what has none stays."""
    return jax.tree.map(
        lambda u, p: p if u is None else optax.apply_updates(p, u), updates, params, is_leaf=lambda x: x is None
    )


def clipped(c: Configuration, gradients: Any) -> Any:
    """The gradients that reach the transformation: to clip them makes infinite ones finite."""
    if c.wrapper not in ("chain", "named_chain"):
        return gradients
    return optax.clip(1.0).update(gradients, optax.EmptyState())[0]
