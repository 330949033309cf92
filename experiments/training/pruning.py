"""Masks that need the network and its data: what ``Method.pruner`` names, for one network of a run."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import dstjax
from dstjax.initial_masks import Activations
from experiments import tasks
from experiments.training.steps import Source, Tree

SAMPLES_PER_CLASS = 10  # that GraSP and SIS look at; SNIP and FORCE take one batch
GRASP_TEMPERATURE = 200.0
ROUNDS = {"iterative_snip": 10, "force": 10, "synflow": 100}


def before_training(method: dstjax.Method) -> bool:
    """Whether a method is pruned before the first step, which needs the network and its data."""
    return method.start.pruner is not None and not method.start.prune_step


def masks(
    method: dstjax.Method, model: nn.Module, params: Tree, model_state: Tree, source: Source, rows: np.ndarray, y: Any
) -> Tree:
    """The initial masks of a method that is pruned before the first step.

    All layers are ranked together, unless the method was given a distribution: then each has its count.

    Args:
      method: with a ``pruner``.
      model: the network.
      params: its parameters at first.
      model_state: its running statistics.
      source: the samples.
      rows: those of the first batch of training.
      y: the classes of all training samples, to pick some of each; int32[n] with the rows in ``source``.
    """
    pruner, masking = method.start.pruner, method.masking
    assert pruner is not None and masking is not None  # noqa: PT018
    make = getattr(dstjax.initial_masks, pruner)
    common: dict[str, Any] = dict(sparsity=masking.sparsity, maskable=masking.maskable)
    if method.start.scope == "layer":
        common["distribution"] = masking.distribution
    common["scope"] = method.start.scope
    if pruner in ROUNDS:
        common["rounds"] = ROUNDS[pruner]

    def forward(weights: Tree, x: Any) -> Any:
        return model.apply({"params": weights, **model_state}, x, train=False)

    if pruner == "synflow":
        return make(forward, params, source.x.shape[1:], **common)
    temperature = GRASP_TEMPERATURE if pruner == "grasp" else 1.0

    def loss(weights: Tree, batch: Any) -> Any:
        logits = forward(weights, source.x[batch] - source.mean[None])
        return tasks.losses(logits / temperature, source.y[batch]).mean()

    batches = [jnp.asarray(rows)]
    if pruner == "grasp":
        chosen = some_of_each_class(*y)
        batches = [jnp.asarray(half) for half in (chosen[::2], chosen[1::2])]
    return make(loss, params, batches, **common)


def some_of_each_class(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The first samples of each class, classes in turn."""
    picked = [rows[classes == c][:SAMPLES_PER_CLASS] for c in np.unique(classes)]
    fewest = min(len(p) for p in picked)
    return np.stack([p[:fewest] for p in picked], axis=1).ravel()


def sis(
    method: dstjax.Method, model: nn.Module, params: Tree, model_state: Tree, x: Any
) -> dstjax.initial_masks.Sparsified:
    """The masks and weights of SIS for a trained network, from its activations on the samples ``x``."""
    relu = not model_state  # where batch normalisation follows, the layer itself ends linear
    seen = dict(_activations(model, params, model_state, x))
    last = list(seen)[-1]
    recorded = {}
    for path, (inputs, outputs, bias) in seen.items():
        ends_in_relu = relu and path != last
        outputs = np.maximum(outputs, 0) if ends_in_relu else outputs
        recorded[path] = Activations(inputs, outputs, "relu" if ends_in_relu else "linear", bias)
    masking = method.masking
    assert masking is not None
    return dstjax.initial_masks.sis(
        recorded, params, sparsity=masking.sparsity, distribution=masking.distribution, maskable=masking.maskable
    )


def _activations(model: nn.Module, params: Tree, model_state: Tree, x: Any) -> Iterator[tuple[str, Any]]:
    """Path of each kernel -> inputs and outputs of its layer as matrices, and the path of its bias."""
    found: dict[str, Any] = {}

    def listen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, nn.Dense | nn.Conv):
            path = "/".join(module.path)
            inputs = args[0] if isinstance(module, nn.Dense) else _patches(module, args[0])
            flat = np.asarray(inputs).reshape(-1, inputs.shape[-1])
            bias = f"{path}/bias" if module.use_bias else None
            found[f"{path}/kernel"] = flat, np.asarray(result).reshape(len(flat), -1), bias
        return result

    with nn.intercept_methods(listen):
        model.apply({"params": params, **model_state}, x, train=False)
    known = {n for n, leaf in dstjax.masks.by_name(params).items() if leaf is not None and leaf.ndim >= 2}
    if missing := sorted(known - found.keys()):
        raise ValueError(f"method 'sis' reads dense and convolutional layers of Flax; it finds none for {missing}.")
    yield from found.items()


def _patches(module: nn.Conv, x: Any) -> Any:
    """The inputs of each output pixel, in the order of the kernel's axes."""
    size: Any = module.kernel_size
    strides: Any = module.strides or (1,) * len(size)
    strides = (strides,) * len(size) if isinstance(strides, int) else strides
    padding: Any = module.padding
    channels_first = jax.lax.conv_general_dilated_patches(
        x, size, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    cut = channels_first.reshape(*channels_first.shape[:-1], x.shape[-1], -1)
    return jnp.swapaxes(cut, -1, -2).reshape(channels_first.shape)
