"""MobileNet-V1 and EfficientNet-B0: networks of depthwise convolutions.

References: Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017;
Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019.
"""

import flax.linen as nn
import jax

from experiments.models.layers import DType, check_image, conv, dense, norm

# Channels and stride of the blocks of MobileNet-V1.
MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
# Expansion, kernel size, stride, channels and repeats of the stages of EfficientNet-B0.
EFFICIENTNET = (
    *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3)),
    *((6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
)


class MobileNetV1(nn.Module):
    """A 3 x 3 convolution, then thirteen pairs of a depthwise 3 x 3 and a 1 x 1 convolution; width 1.0."""

    classes: int
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("mobilenet_v1", x)
        kwargs = {"train": train, "dtype": self.dtype}
        x = nn.relu(norm(conv(32, 3, x, stride=2, dtype=self.dtype), **kwargs))
        for features, stride in MOBILENET:
            x = conv(x.shape[-1], 3, x, stride=stride, groups=x.shape[-1], dtype=self.dtype)
            x = nn.relu(norm(x, **kwargs))
            x = nn.relu(norm(conv(features, 1, x, dtype=self.dtype), **kwargs))
        return dense(self.classes, x.mean(axis=(1, 2)))


class EfficientNetB0(nn.Module):
    """Inverted bottlenecks with squeeze and excitation, SiLU, stochastic depth and dropout; torchvision's B0.

    Training draws from the random stream 'dropout' unless ``dropout`` and ``stochastic_depth`` are 0.
    """

    classes: int
    dropout: float = 0.2
    stochastic_depth: float = 0.2  # of the last block; that of the others rises to it linearly
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("efficientnet_b0", x)
        kwargs = {"train": train, "dtype": self.dtype}
        x = nn.silu(norm(conv(32, 3, x, stride=2, dtype=self.dtype), **kwargs))
        blocks, done = sum(stage[-1] for stage in EFFICIENTNET), 0
        for expansion, size, stride, features, repeats in EFFICIENTNET:
            for block in range(repeats):
                x = InvertedBottleneck(
                    features,
                    expansion,
                    size,
                    1 if block else stride,
                    self.stochastic_depth * done / blocks,
                    self.dtype,
                )(x, train=train)
                done += 1
        x = nn.silu(norm(conv(1280, 1, x, dtype=self.dtype), **kwargs))
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean(axis=(1, 2)))
        return dense(self.classes, x)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise convolution, squeeze and excite, project; a shortcut where the shape stays."""

    features: int
    expansion: int
    size: int
    stride: int
    stochastic_depth: float
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kwargs = {"train": train, "dtype": self.dtype}
        channels, y = x.shape[-1], x
        if self.expansion > 1:
            y = nn.silu(norm(conv(self.expansion * channels, 1, y, dtype=self.dtype), **kwargs))
        inner = y.shape[-1]
        y = conv(inner, self.size, y, stride=self.stride, groups=inner, dtype=self.dtype)
        y = nn.silu(norm(y, **kwargs))
        y = y * SqueezeExcite(max(1, channels // 4), self.dtype)(y)
        y = norm(conv(self.features, 1, y, dtype=self.dtype), **kwargs)
        if x.shape != y.shape:
            return y
        # Stochastic depth leaves the block out for whole examples.
        return x + nn.Dropout(self.stochastic_depth, broadcast_dims=(1, 2, 3), deterministic=not train)(y)


class SqueezeExcite(nn.Module):
    """A factor in (0, 1) for each channel, from the means of all channels; 1 x 1 convolutions with biases."""

    squeezed: int
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        means = x.mean(axis=(1, 2), keepdims=True)
        means = nn.silu(nn.Conv(self.squeezed, (1, 1), dtype=self.dtype)(means))
        return nn.sigmoid(nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype)(means))
