"""The two networks of the digits experiments, which take any sizes."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models.layers import DType, max_pool


class MLP(nn.Module):
    """Fully connected layers with ReLU."""

    classes: int
    sizes: Sequence[int] = (300, 100)
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for size in self.sizes:
            x = nn.relu(nn.Dense(size, dtype=self.dtype, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.classes)(x)


class Conv(nn.Module):
    """A small VGG: two 3 x 3 convolutions a stage, max pooling between stages, global mean at the end.

    Outside of training the arrays are [channels, rows, columns, batch]: what a convolution moves then lies in pieces as
    long as the batch, however few channels there are.
    """

    classes: int
    sizes: Sequence[int] = (16, 32, 64)
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x if train else x.transpose(3, 1, 2, 0)
        channels = -1 if train else 0
        for stage, size in enumerate(self.sizes):
            if stage:
                x = max_pool(x)
            for _ in range(2):
                x = ShiftedConv(size, self.dtype, channels)(x)
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, axis=channels)(x)
                x = nn.relu(x)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.classes)(x if train else x.T)


class ShiftedConv(nn.Module):
    """A 3 x 3 convolution as one matrix product over nine shifted copies.

    Inside a loop XLA runs this on a CPU many times faster than its own convolution; the kernel has the usual shape.
    The axis of the channels is the last, or the first of [channels, rows, columns, batch].
    """

    features: int
    dtype: DType = None
    axis: int = -1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[self.axis]
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, channels, self.features))
        if self.dtype is not None:
            x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = x.shape[1:3]
        shifted = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        copies, weights = jnp.concatenate(shifted, axis=self.axis), kernel.reshape(9 * channels, self.features)
        return copies @ weights if self.axis == -1 else jnp.tensordot(weights, copies, axes=(0, 0))
