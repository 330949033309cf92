"""The networks of the experiments, in Flax Linen."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dstjax._checks import check_choice


class MLP(nn.Module):
    """Fully connected layers with ReLU."""

    classes: int
    sizes: Sequence[int] = (300, 100)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for size in self.sizes:
            x = nn.relu(nn.Dense(size, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.classes)(x)


class Conv(nn.Module):
    """A small VGG: two 3 x 3 convolutions a stage, max pooling between stages, global mean at the end."""

    classes: int
    sizes: Sequence[int] = (16, 32, 64)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for stage, size in enumerate(self.sizes):
            if stage:
                x = max_pool(x)
            for _ in range(2):
                x = ShiftedConv(size)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


class ShiftedConv(nn.Module):
    """A 3 x 3 convolution as one matrix product over nine shifted copies.

    Inside a loop XLA runs this on a CPU many times faster than its own convolution; the kernel has the usual shape.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, channels, self.features))
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = x.shape[1:3]
        shifted = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(9 * channels, self.features)


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2 x 2 square; a last odd row or column is left out."""
    n, rows, columns, channels = x.shape
    squares = x[:, : rows // 2 * 2, : columns // 2 * 2].reshape(n, rows // 2, 2, columns // 2, 2, channels)
    return squares.max(axis=(2, 4))


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "conv": Conv}


def make(name: str, *, classes: int, sizes: Any = None) -> nn.Module:
    """The network of a name.

    Raises:
      ValueError: an unknown name, or sizes that are no positive integers.
    """
    check_choice("model.name", name, MODELS)
    if sizes is None:
        return MODELS[name](classes=classes)
    if not sizes or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sizes):
        raise ValueError(f"model.sizes={sizes!r} is not accepted; expected positive integers, one for each layer.")
    return MODELS[name](classes=classes, sizes=tuple(sizes))
