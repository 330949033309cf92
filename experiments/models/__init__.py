"""The networks of the experiments, in Flax Linen, by name.

Each maps float[batch, ...] to one logit a class, float32[batch, classes], by ``apply(variables, x, train=bool)``;
running statistics are in the collection 'batch_stats'. Their parameter counts and multiply-adds are those of the
papers, checked by tests.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dstjax.checks import check_choice, check_integer
from experiments.models.basic import MLP, Conv, ShiftedConv
from experiments.models.layers import max_pool
from experiments.models.mobile import EfficientNetB0, MobileNetV1
from experiments.models.resnet import ResNet50, ResNet56
from experiments.models.small import LeNet5, SetMLP, SmallCNN, TorchMLP
from experiments.models.transformer import VisionTransformer
from experiments.models.vgg import VGG
from experiments.models.wide_resnet import WideResNet22

__all__ = ["MODELS", "Entry", "ShiftedConv", "make", "max_pool", "names"]


class Entry(NamedTuple):
    """A network and the data that its paper trains it on."""

    module: Callable[..., nn.Module]
    shape: tuple[int, ...]  # of one example
    classes: int
    most: int = 100  # how many sizes it takes


MODELS: dict[str, Entry] = {
    "mlp": Entry(MLP, (8, 8, 1), 10),
    "conv": Entry(Conv, (8, 8, 1), 10),
    "vit": Entry(VisionTransformer, (8, 8, 1), 10),
    "vgg19": Entry(functools.partial(VGG, depths=(2, 2, 4, 4, 4)), (32, 32, 3), 100, most=5),
    "vgg16": Entry(functools.partial(VGG, depths=(2, 2, 3, 3, 3)), (32, 32, 3), 100, most=5),
    "resnet50": Entry(ResNet50, (224, 224, 3), 1000, most=4),
    "resnet50_cifar": Entry(functools.partial(ResNet50, small_images=True), (32, 32, 3), 100, most=4),
    "resnet56": Entry(ResNet56, (32, 32, 3), 10),
    "wrn22_2": Entry(WideResNet22, (32, 32, 3), 10),
    "efficientnet_b0": Entry(EfficientNetB0, (64, 64, 3), 200, most=0),
    "mobilenet_v1": Entry(MobileNetV1, (224, 224, 3), 1000, most=0),
    "lenet5_caffe": Entry(LeNet5, (28, 28, 1), 10),
    "small_mlp": Entry(functools.partial(TorchMLP, sizes=(256, 256)), (24,), 2),
    "large_mlp": Entry(functools.partial(TorchMLP, sizes=(1024, 512)), (32, 32, 3), 10),
    "large_mlp_dropout": Entry(functools.partial(TorchMLP, sizes=(1024, 512), dropout=0.05), (32, 32, 3), 10),
    "small_cnn": Entry(SmallCNN, (32, 32, 3), 10),
    "set_mlp": Entry(SetMLP, (32, 32, 3), 10),
    "link_mlp": Entry(functools.partial(TorchMLP, sizes=(128,)), (16,), 2),
}


def names() -> list[str]:
    """The names of all networks."""
    return sorted(MODELS)


def make(name: str, *, classes: int | None = None, sizes: Any = None, dtype: Any = None) -> nn.Module:
    """The network of a name.

    Args:
      name: one of :func:`names`.
      classes: how many there are; None for as many as the paper has.
      sizes: the widths of its layers or stages, see each class; None for its own.
      dtype: floating-point dtype of the computation, such as 'bfloat16'. Parameters, statistics and logits stay
        float32. None computes in that of the input.

    Raises:
      ValueError: an unknown name, too few classes, sizes that are no positive integers or that the network does not
        take, or a dtype that is no floating-point one.
    """
    check_choice("model.name", name, MODELS)
    entry = MODELS[name]
    options: dict[str, Any] = {"classes": entry.classes if classes is None else classes}
    check_integer("classes", options["classes"], 2)
    if sizes is not None:
        if not entry.most:
            raise ValueError(
                f"model.sizes={sizes!r} is not accepted; model {name!r} has sizes of its own, leave it None."
            )
        if not 0 < len(sizes) <= entry.most or any(
            isinstance(s, bool) or not isinstance(s, int) or not 0 < s < 2**31 for s in sizes
        ):
            wanted = f"at most {entry.most} positive integers, one for each layer or stage"
            raise ValueError(f"model.sizes={sizes!r} is not accepted; expected {wanted}.")
        options["sizes"] = tuple(sizes)
    if dtype is not None:
        options["dtype"] = _floating(dtype)
    return entry.module(**options)


def _floating(dtype: Any) -> Any:
    try:
        known = jnp.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"model.dtype={dtype!r} is not accepted; expected one such as 'bfloat16'.") from error
    if not jnp.issubdtype(known, jnp.floating):
        raise ValueError(f"model.dtype={dtype!r} is not accepted; expected a floating-point one such as 'bfloat16'.")
    if jax.dtypes.canonicalize_dtype(known) != known:
        raise ValueError(f"model.dtype={dtype!r} is not accepted without JAX_ENABLE_X64=1 in the environment.")
    if jnp.finfo(known).bits < 16:
        raise ValueError(f"model.dtype={dtype!r} is not accepted; expected one of 16 bits or more such as 'bfloat16'.")
    return known
