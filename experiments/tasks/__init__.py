"""What is learnt: outputs and labels of a batch in, losses and answers out.

The outputs say which task it is: one logit a sample decides between two classes, several are one for each class.
"""

from typing import Any

import jax.numpy as jnp

from experiments.tasks import classification, links


def losses(logits: Any, y: Any, smoothing: float = 0.0) -> Any:
    """The loss of each sample, its labels smoothed."""
    return _task(logits).losses(logits, y, smoothing)


def answers(logits: Any) -> Any:
    """The class of each sample."""
    return _task(logits).answers(logits)


def measured(logits: Any, y: Any, smoothing: float) -> tuple[Any, Any]:
    """The mean loss of a batch, and how many answers are right."""
    return losses(logits, y, smoothing).mean(), jnp.sum(answers(logits) == y, dtype=jnp.int32)


def _task(logits: Any) -> Any:
    return links if logits.shape[-1] == 1 else classification
