"""WideResNet-22-2, as in the code of RigL.

Reference: Zagoruyko and Komodakis, "Wide residual networks", 2016.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.layers import DType, check_image, conv, dense, norm


class WideResNet22(nn.Module):
    """Three stages of three pre-activation blocks with dropout inside, for 32 x 32 images.

    Where the width changes, the shortcut is a 1 x 1 convolution of the activated input. ``sizes`` are the channels of
    the stages. Training draws from the random stream 'dropout' unless ``dropout`` is 0.
    """

    classes: int
    sizes: Sequence[int] = (32, 64, 128)
    dropout: float = 0.3
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("wrn22_2", x)
        x = conv(16, 3, x, dtype=self.dtype)
        for stage, size in enumerate(self.sizes):
            for block in range(3):
                x = PreActivation(size, 2 if stage and not block else 1, self.dropout, self.dtype)(x, train=train)
        x = nn.relu(norm(x, train=train, dtype=self.dtype))
        return dense(self.classes, x.mean(axis=(1, 2)))


class PreActivation(nn.Module):
    """Twice normalisation, ReLU and a 3 x 3 convolution, beside a shortcut."""

    features: int
    stride: int
    dropout: float
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kwargs = {"train": train, "dtype": self.dtype}
        active = nn.relu(norm(x, **kwargs))
        y = conv(self.features, 3, active, stride=self.stride, dtype=self.dtype)
        y = nn.relu(norm(y, **kwargs))
        y = conv(self.features, 3, nn.Dropout(self.dropout, deterministic=not train)(y), dtype=self.dtype)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, active, stride=self.stride, dtype=self.dtype)
        return x + y
