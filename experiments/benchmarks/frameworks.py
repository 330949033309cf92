"""The same perceptron in five frameworks, as shapes: a training step should compile to the same whoever made it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

INPUTS, HIDDEN, CLASSES, BATCH = 784, 512, 10, 128


class Network(NamedTuple):
    """Shapes of parameters, and the function of parameters and inputs."""

    params: Any
    apply: Callable[[Any, jax.Array], Any]


def batch() -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Inputs and labels."""
    return jax.ShapeDtypeStruct((BATCH, INPUTS), jnp.float32), jax.ShapeDtypeStruct((BATCH,), jnp.int32)


def plain() -> Network:
    def make() -> Any:
        sizes = ((INPUTS, HIDDEN), (HIDDEN, CLASSES))
        return {f"layer{i}": {"w": jnp.zeros(size), "b": jnp.zeros(size[1])} for i, size in enumerate(sizes)}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(x @ params["layer0"]["w"] + params["layer0"]["b"][None])
        return x @ params["layer1"]["w"] + params["layer1"]["b"][None]

    return Network(jax.eval_shape(make), apply)


def linen() -> Network:
    import flax.linen as nn

    net: Any = nn.Sequential([nn.Dense(HIDDEN), nn.relu, nn.Dense(CLASSES)])
    params = jax.eval_shape(net.init, jax.random.key(0), batch()[0])["params"]
    return Network(params, lambda params, x: net.apply({"params": params}, x))


def nnx() -> Network:
    from flax import nnx as nnx_

    def make() -> Any:
        rngs = nnx_.Rngs(0)
        return nnx_.Sequential(
            nnx_.Linear(INPUTS, HIDDEN, rngs=rngs), jax.nn.relu, nnx_.Linear(HIDDEN, CLASSES, rngs=rngs)
        )

    definition, params = nnx_.split(nnx_.eval_shape(make))
    return Network(params, lambda params, x: nnx_.merge(definition, params)(x))


def equinox() -> Network:
    import equinox as eqx

    def make() -> Any:
        return eqx.nn.MLP(INPUTS, CLASSES, HIDDEN, depth=1, key=jax.random.key(0))

    params, static = eqx.partition(eqx.filter_eval_shape(make), lambda x: isinstance(x, jax.ShapeDtypeStruct))
    return Network(params, lambda params, x: jax.vmap(eqx.combine(params, static))(x))


def haiku() -> Network:
    import haiku as hk

    net: Any = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([HIDDEN, CLASSES])(x)))
    return Network(jax.eval_shape(net.init, jax.random.key(0), batch()[0]), net.apply)


NETWORKS: dict[str, Callable[[], Network]] = {
    "plain JAX": plain,
    "Linen": linen,
    "NNX": nnx,
    "Equinox": equinox,
    "Haiku": haiku,
}
