"""Link prediction: one logit, that a pair of nodes is linked (class 1) rather than not (class 0)."""

from typing import Any

import jax.numpy as jnp
import optax


def losses(logits: Any, y: Any, smoothing: float) -> Any:
    """The cross entropy of each pair."""
    return optax.sigmoid_binary_cross_entropy(logits[:, 0], y * (1 - smoothing) + smoothing / 2)


def answers(logits: Any) -> Any:
    """The class of each pair."""
    return (logits[:, 0] > 0).astype(jnp.int32)
