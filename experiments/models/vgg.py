"""VGG with batch normalisation for 32 x 32 images, as in the code of GraNet and of the pruning-criteria study.

Reference: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.layers import DType, check_image, conv, max_pool, norm


class VGG(nn.Module):
    """Stages of 3 x 3 convolutions with 2 x 2 max pooling between them, a global mean, one linear layer.

    The global mean is the 2 x 2 average pooling of the source where images are 32 x 32. ``sizes`` are the channels of
    the stages; fewer of them leave the last stages out.
    """

    classes: int
    depths: Sequence[int]  # convolutions of each stage
    sizes: Sequence[int] = (64, 128, 256, 512, 512)
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("vgg", x, 2 ** (len(self.sizes) - 1))
        for stage, (size, depth) in enumerate(zip(self.sizes, self.depths, strict=False)):
            if stage:
                x = max_pool(x)
            for _ in range(depth):
                x = nn.relu(norm(conv(size, 3, x, dtype=self.dtype), train=train, dtype=self.dtype))
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01))(x.mean(axis=(1, 2)))
