"""A small vision transformer, with layer normalisation before each part of a block, and full attention.

Reference: Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at scale", 2021; the
mean of all patches takes the place of the class token (Zhai et al., "Scaling vision transformers", 2022).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.layers import DType, check_image


class VisionTransformer(nn.Module):
    """Embeds square patches, adds a learned position, and runs blocks of attention and of a hidden layer with GELU.

    ``sizes`` are the features of a patch, a multiple of ``heads``, and then the units of each block's hidden layer.
    """

    classes: int
    sizes: Sequence[int] = (64, 128, 128)
    heads: int = 4
    patch: int = 2
    dtype: DType = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image("vit", x, self.patch)
        if any(size % self.patch for size in x.shape[1:3]):
            raise ValueError(
                f"vit got an input of shape {x.shape}; expected rows and columns that patches of {self.patch} divide."
            )
        width, *hidden = self.sizes
        if width % self.heads:
            raise ValueError(
                f"model.sizes={tuple(self.sizes)} is not accepted; the first is of {self.heads} heads together, "
                f"expected a multiple of {self.heads}."
            )
        square = (self.patch, self.patch)
        x = nn.Conv(width, square, square, padding="VALID", dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], -1, width)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        for units in hidden:
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(y)
            y = nn.Dense(units, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x = x + nn.Dense(width, dtype=self.dtype)(nn.gelu(y))
        x = nn.LayerNorm(dtype=self.dtype)(x).mean(axis=1)
        return nn.Dense(self.classes)(x)
