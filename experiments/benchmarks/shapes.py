"""Parameter trees of well-known networks, as shapes, and arrays of those shapes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shapes = dict[str, tuple[int, ...]]


def resnet50() -> Shapes:
    """The 54 tensors of ResNet-50 that are masked, 25,502,912 weights; its vectors are left out."""
    shapes: Shapes = {"stem": (7, 7, 3, 64)}
    channels = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            at = f"stage{stage}_block{block}"
            shapes[f"{at}_a"] = (1, 1, channels, width)
            shapes[f"{at}_b"] = (3, 3, width, width)
            shapes[f"{at}_c"] = (1, 1, width, 4 * width)
            if block == 0:
                shapes[f"{at}_shortcut"] = (1, 1, channels, 4 * width)
            channels = 4 * width
    return shapes | {"head": (2048, 1000)}


def transformer(layers: int, width: int, *, embeddings: Shapes, head: Shapes) -> Shapes:
    """Blocks of attention and a perceptron four times as wide, with the biases and scales."""
    shapes = dict(embeddings)
    for layer in range(layers):
        at = f"layer{layer:02d}"
        shapes |= {f"{at}/qkv": (width, 3 * width), f"{at}/out": (width, width)}
        shapes |= {f"{at}/up": (width, 4 * width), f"{at}/down": (4 * width, width)}
        shapes |= {f"{at}/qkv_bias": (3 * width,), f"{at}/up_bias": (4 * width,)}
        shapes |= {f"{at}/{name}": (width,) for name in ("out_bias", "down_bias", "scale_1", "scale_2")}
    return shapes | head


def vit_b16(layers: int = 12) -> Shapes:
    embeddings: Shapes = {"patches": (16, 16, 3, 768), "position_embedding": (197, 768)}
    return transformer(layers, 768, embeddings=embeddings, head={"head": (768, 1000)})


def gpt_1_3b(layers: int = 24) -> Shapes:
    embeddings: Shapes = {"token_embedding": (50257, 2048), "position_embedding": (2048, 2048)}
    return transformer(layers, 2048, embeddings=embeddings, head={"scale": (2048,)})


def tiny() -> Shapes:
    """For a sanity run."""
    return {"kernel": (16, 8), "bias": (8,)}


def many(leaves: int = 1000) -> Shapes:
    """Leaves that are small and many: what a program of each costs is nearly all there is."""
    return {f"kernel{i}": (64, 64) for i in range(leaves)}


def conv(sizes: tuple[int, ...] = (64, 64, 128, 128)) -> Shapes:
    """A small convolutional network on 32 x 32 images; :func:`conv_loss` trains it."""
    inputs = (3, *sizes[:-1])
    shapes: Shapes = {f"conv{i}": (3, 3, a, b) for i, (a, b) in enumerate(zip(inputs, sizes, strict=True))}
    shapes |= {f"bias{i}": (b,) for i, b in enumerate(sizes)}
    return shapes | {"head": (sizes[-1], 10)}


TREES: dict[str, Callable[..., Shapes]] = {
    "tiny": tiny,
    "1,000 leaves": many,
    "conv": conv,
    "resnet50": resnet50,
    "vit_b16": vit_b16,
    "gpt_1.3b": gpt_1_3b,
}
LAYERS = {"gpt_1.3b": 24}  # trees that can be made shorter to fit the memory


def maskable(path: str, leaf: Any) -> bool:
    """Tensors but embeddings."""
    return len(leaf.shape) >= 2 and "embedding" not in path


def weights(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def arrays(shapes: Shapes, seed: int, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """Normal numbers of deviation 0.05, on the default device."""
    draw = np.random.default_rng(seed)
    scale = np.float32(0.05)
    return {name: jnp.asarray(draw.standard_normal(shape, np.float32) * scale, dtype) for name, shape in shapes.items()}


def conv_loss(params: dict[str, jax.Array], images: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy of the small convolutional network."""
    x, layer = images, 0
    while f"conv{layer}" in params:
        stride = 2 if layer % 2 else 1
        kernel = params[f"conv{layer}"]
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[f"bias{layer}"][None, None, None])
        layer += 1
    logits = x.mean(axis=(1, 2)) @ params["head"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))
