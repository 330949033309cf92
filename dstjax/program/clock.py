"""Measures products of a program on the machine at hand, each compiled by itself."""

import datetime
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program.layers import Product

Timer = Callable[..., float]
_SECONDS, _ROUNDS = 0.0003, 40  # each round, and how many of a product


def run(product: Product, shapes: Sequence[tuple[int, ...]], given: dict[str, Any], clock: Timer) -> float:
    """Returns the seconds of a product for operands of these shapes."""
    operands = [jnp.ones(s, v.aval.dtype) for s, v in zip(shapes, product.eqn.invars, strict=True)]

    def call(*operands: jax.Array) -> jax.Array:
        y = product.eqn.primitive.bind(*operands, **given)
        return jnp.maximum(y * y.dtype.type(0.5) + y.dtype.type(0.5), 0)

    return float(clock(jax.jit(call), *operands))


def timed(call: Callable[..., Any], *operands: Any) -> float:
    """Returns the seconds of a call: the best of rounds of many, which other programs on the machine disturb least."""
    jax.block_until_ready(call(*operands))
    start = time.perf_counter()
    jax.block_until_ready(call(*operands))
    number = max(1, round(_SECONDS / max(time.perf_counter() - start, 1e-7)))
    found = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(number):
            result = call(*operands)
        jax.block_until_ready(result)
        found.append((time.perf_counter() - start) / number)
    return min(found)


def device() -> str:
    """Returns what the machine is, in words."""
    first = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if first.platform == "cpu" else ""
    return f"{first.platform}: {first.device_kind}{cores}"


def circumstances(args: Sequence[Any]) -> dict[str, Any]:
    """Returns where, when and for what something was measured."""
    return {
        "device": device(),
        "versions": {"jax": jax.__version__, "jaxlib": jax.lib.__version__, "numpy": np.__version__},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": [f"{x.dtype}{list(x.shape)}" for x in jax.tree_util.tree_leaves(args) if hasattr(x, "shape")],
    }
