"""Classification: a logit for each class, cross entropy of their softmax."""

from typing import Any

import jax
import optax


def losses(logits: Any, y: Any, smoothing: float) -> Any:
    """The cross entropy of each sample."""
    if smoothing:
        targets = optax.smooth_labels(jax.nn.one_hot(y, logits.shape[-1]), smoothing)
        return optax.softmax_cross_entropy(logits, targets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def answers(logits: Any) -> Any:
    """The class of each sample."""
    return logits.argmax(-1)
