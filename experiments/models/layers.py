"""What the networks share: initialisers, normalisation, padding and pooling as their sources have them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

DType = Any

# Kaiming normal over the fan-out, as He et al. (2015) for ReLU networks.
KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's own: uniform within 1 / sqrt(fan in), that is Kaiming uniform with a = sqrt(5).
TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Any:
    """PyTorch's initialiser of biases: uniform within 1 / sqrt(fan in)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DType = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / jnp.sqrt(jnp.asarray(fan_in, dtype))

    return init


def dense(features: int, x: jax.Array, *, dtype: DType = None) -> jax.Array:
    """A fully connected layer with PyTorch's initial values."""
    return nn.Dense(features, dtype=dtype, kernel_init=TORCH, bias_init=torch_bias(x.shape[-1]))(x)


def conv(
    features: int,
    size: int,
    x: jax.Array,
    *,
    stride: int = 1,
    groups: int = 1,
    dtype: DType = None,
    init: Any = KAIMING,
) -> jax.Array:
    """A convolution without bias that pads size // 2 zeros on each side, also where the stride is two."""
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=init,
    )(x)


def norm(x: jax.Array, *, train: bool, dtype: DType = None, **options: Any) -> jax.Array:
    """Batch normalisation; the running statistics keep nine tenths a step."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=dtype, **options)(x)


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2 x 2 square; a last odd row or column is left out."""
    n, rows, columns, channels = x.shape
    squares = x[:, : rows // 2 * 2, : columns // 2 * 2].reshape(n, rows // 2, 2, columns // 2, 2, channels)
    return squares.max(axis=(2, 4))


def check_image(name: str, x: jax.Array, smallest: int = 1) -> None:
    """Refuses what is no batch of images, or images that the pooling would use up.

    Raises:
      ValueError: with the shape and what is expected.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"{name} got an input of shape {x.shape}; expected [batch, rows, columns, channels] with at least "
            f"{smallest} rows and columns. Resize the images, or give fewer sizes."
        )
