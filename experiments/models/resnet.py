"""ResNet-50 for ImageNet and for CIFAR, and ResNet-56.

Reference: He et al., "Deep residual learning for image recognition", 2016; the strides of ResNet-50 stand in its 3 x 3
convolutions, as in the networks that the papers on sparse training use (4.089e9 multiply-adds at 224 x 224).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.layers import KAIMING, TORCH, DType, check_image, conv, dense, norm


class ResNet50(nn.Module):
    """Bottleneck blocks in stages of 3, 4, 6 and 3.

    For CIFAR (``small_images``) the stem is one 3 x 3 convolution without pooling, and the last layer has no bias, as
    in the code of GraNet. ``sizes`` are the inner channels of the stages, a quarter of the outer ones; fewer of them
    leave the last stages out.
    """

    classes: int
    small_images: bool = False
    sizes: Sequence[int] = (64, 128, 256, 512)
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("resnet50", x)
        stem = {"size": 3} if self.small_images else {"size": 7, "stride": 2}
        x = nn.relu(norm(conv(self.sizes[0], x=x, dtype=self.dtype, **stem), train=train, dtype=self.dtype))
        if not self.small_images:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])
        for stage, (size, depth) in enumerate(zip(self.sizes, (3, 4, 6, 3), strict=False)):
            for block in range(depth):
                x = Bottleneck(size, 2 if stage and not block else 1, self.dtype)(x, train=train)
        x = x.mean(axis=(1, 2))
        if self.small_images:
            return nn.Dense(self.classes, use_bias=False, kernel_init=TORCH)(x)
        return dense(self.classes, x)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut, projected where the shape changes."""

    features: int
    stride: int
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kwargs = {"train": train, "dtype": self.dtype}
        y = nn.relu(norm(conv(self.features, 1, x, dtype=self.dtype), **kwargs))
        y = nn.relu(norm(conv(self.features, 3, y, stride=self.stride, dtype=self.dtype), **kwargs))
        y = norm(conv(4 * self.features, 1, y, dtype=self.dtype), **kwargs)
        if x.shape != y.shape:
            x = norm(conv(4 * self.features, 1, x, stride=self.stride, dtype=self.dtype), **kwargs)
        return nn.relu(x + y)


class ResNet56(nn.Module):
    """Three stages of nine basic blocks for 32 x 32 images, as in the pruning-criteria study.

    Where a stage begins with another shape its shortcut is a 1 x 1 convolution with normalisation. ``sizes`` are the
    channels of the stages.
    """

    classes: int
    sizes: Sequence[int] = (16, 32, 64)
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("resnet56", x)
        x = nn.relu(norm(conv(self.sizes[0], 3, x, dtype=self.dtype), train=train, dtype=self.dtype))
        for stage, size in enumerate(self.sizes):
            for block in range(9):
                x = BasicBlock(size, 2 if stage and not block else 1, self.dtype)(x, train=train)
        return nn.Dense(self.classes, kernel_init=KAIMING)(x.mean(axis=(1, 2)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, projected where the shape changes."""

    features: int
    stride: int
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kwargs = {"train": train, "dtype": self.dtype}
        y = nn.relu(norm(conv(self.features, 3, x, stride=self.stride, dtype=self.dtype), **kwargs))
        y = norm(conv(self.features, 3, y, dtype=self.dtype), **kwargs)
        if x.shape != y.shape:
            x = norm(conv(self.features, 1, x, stride=self.stride, dtype=self.dtype), **kwargs)
        return nn.relu(x + y)
