"""The small networks of the pruning-criteria study, of SET, and of link prediction on graphs.

References: "Fantastic weights and how to find them: where to prune in dynamic sparse training", 2023 (small-MLP,
large-MLP, small-CNN, LeNet-5-Caffe); Mocanu et al., "Scalable training of artificial neural networks with adaptive
sparse connectivity inspired by network science", 2018 (the MLP of SET); the DST-EE paper with the public code of its
authors (the link classifier).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.layers import TORCH, DType, check_image, dense, max_pool, torch_bias


class TorchMLP(nn.Module):
    """Fully connected layers with ReLU and PyTorch's initial values; two classes share one logit.

    The one logit is that of class 1, for binary cross entropy. ``dropout`` follows each hidden layer; training draws
    from the random stream 'dropout' unless it is 0.
    """

    classes: int
    sizes: Sequence[int]
    dropout: float = 0.0
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for size in self.sizes:
            x = nn.relu(dense(size, x, dtype=self.dtype))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return dense(1 if self.classes == 2 else self.classes, x)


class SetMLP(nn.Module):
    """The MLP of SET with LeakyReLU, as in the study of regrowing strategies, and dropout after each hidden layer.

    The slope, the dropout and the Glorot initial values are those of SET's public code; that code has SReLU, with four
    learned values a unit, in place of LeakyReLU. Training draws from the random stream 'dropout' unless it is 0.
    """

    classes: int
    sizes: Sequence[int] = (4000, 1000, 4000)
    dropout: float = 0.3
    slope: float = 0.3
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        init = nn.initializers.glorot_uniform()
        for size in self.sizes:
            x = nn.leaky_relu(nn.Dense(size, dtype=self.dtype, kernel_init=init)(x), self.slope)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, kernel_init=init)(x)


class SmallCNN(nn.Module):
    """Three 3 x 3 convolutions with biases and ReLU, 2 x 2 max pooling after the first two, global mean at the end.

    ``padding`` is 'VALID' in the released code of the study and 'SAME' in its text: the same weights, twice the work.
    """

    classes: int
    sizes: Sequence[int] = (32, 64, 128)
    padding: str = "VALID"
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        halvings = 2 ** (len(self.sizes) - 1)
        check_image("small_cnn", x, 5 * halvings - 2 if self.padding == "VALID" else halvings)
        for stage, size in enumerate(self.sizes):
            x = max_pool(x) if stage else x
            x = nn.relu(_biased_conv(size, 3, x, self.padding, self.dtype))
        return dense(self.classes, x.mean(axis=(1, 2)))


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe's examples, with ReLU: two unpadded 5 x 5 convolutions, each max pooled, two linear layers.

    ``sizes`` are the channels of the convolutions and the units of the hidden layer.
    """

    classes: int
    sizes: Sequence[int] = (20, 50, 500)
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("lenet5_caffe", x, 5 * 2 ** (len(self.sizes) - 1) - 4)
        for size in self.sizes[:-1]:
            x = max_pool(nn.relu(_biased_conv(size, 5, x, "VALID", self.dtype)))
        x = nn.relu(dense(self.sizes[-1], x.reshape(x.shape[0], -1), dtype=self.dtype))
        return dense(self.classes, x)


def _biased_conv(features: int, size: int, x: jax.Array, padding: str, dtype: DType) -> jax.Array:
    bias = torch_bias(size * size * x.shape[-1])
    return nn.Conv(features, (size, size), padding=padding, dtype=dtype, kernel_init=TORCH, bias_init=bias)(x)
