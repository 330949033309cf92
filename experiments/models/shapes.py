"""A network by its shapes alone: nothing is computed."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program import channels, flops, latency


class Network(NamedTuple):
    """A network by its shapes alone."""

    input: tuple[int, ...]  # of one example
    shapes: dict[str, tuple[int, ...]]  # by path of the leaf
    flops: flops.Flops  # of inference, for one example

    @property
    def parameters(self) -> int:
        """How many there are, without running statistics."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def maskable(self, keep_dense: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
        """The leaves of two or more axes, without those whose path holds one of the regular expressions.

        Raises:
          ValueError: one that is no regular expression or is found in no such leaf, or no leaf is left.
        """
        left = {path: shape for path, shape in self.shapes.items() if len(shape) >= 2}
        for pattern in keep_dense:
            try:
                found = [path for path in left if re.search(pattern, path)]
            except re.error as error:
                raise ValueError(f"keep-dense={pattern!r} is no regular expression: {error}.") from None
            if not found or len(found) == len(left):
                raise ValueError(
                    f"keep-dense={pattern!r} matches {'every' if found else 'no'} leaf of {', '.join(left)}; expected "
                    "some of them."
                )
            left = {path: shape for path, shape in left.items() if path not in found}
        return left


@functools.cache
def network(model: nn.Module, example: tuple[int, ...]) -> Network:
    """Shapes of the parameters, and multiply-adds of one forward pass on one example of that shape."""
    forward, params, variables, x = _forward(model, example)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    counted = flops.count(forward, params, variables, x)
    return Network(example, {path_name(path): leaf.shape for path, leaf in leaves}, counted)


@functools.cache
def channels_of(model: nn.Module, example: tuple[int, ...]) -> Any:
    """The channels of a network, as :func:`dstjax.program.channels` finds them."""
    return channels(*_bound(model, example))


@functools.cache
def channel_flops(model: nn.Module, example: tuple[int, ...], whole: tuple[str, ...] = ()) -> latency.Table:
    """What its layers compute at some of their widths: :func:`dstjax.latency.analytic`."""
    return latency.analytic(*_bound(model, example), whole=whole)


def _bound(model: nn.Module, example: tuple[int, ...]) -> tuple[Callable[..., Any], Any, Any]:
    """The forward pass with its running statistics, whose channels would stay if they were arguments."""
    forward, params, statistics, x = _forward(model, example)
    known = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), statistics)
    return lambda params, x: forward(params, known, x), params, x


def _forward(model: nn.Module, example: tuple[int, ...]) -> tuple[Callable[..., Any], Any, Any, Any]:
    """The forward pass, and the shapes of what it takes: parameters, running statistics, a batch of one example."""
    x = jax.ShapeDtypeStruct((1, *example), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    params = variables.pop("params")

    def forward(params: Any, rest: Any, x: Any) -> Any:
        return model.apply({"params": params, **rest}, x, train=False)

    return forward, params, variables, x


def path_name(path: Any) -> str:
    """The path of a leaf as names with slashes between them."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
