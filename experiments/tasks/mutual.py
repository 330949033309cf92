"""The two networks of DCIL, one of the masked and one of all weights, which learn the task and from each other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import tasks

TEMPERATURE = 2.0  # of the divergences
WARM_UP = 70 / 300  # the share of training before they learn from each other (the paper, 5.1)


def loss(
    forward: Callable[[Any], tuple[Any, Any]], masked: Any, full: Any, y: Any, smoothing: float, together: Any
) -> tuple[Any, tuple[Any, Any, Any]]:
    """The loss of both networks, and of the masked one its own loss, its statistics after and its right answers.

    Args:
      forward: from parameters to logits and statistics.
      masked: parameters of the masked network.
      full: those of the other one.
      y: the classes.
      smoothing: of the labels.
      together: whether they learn from each other by now.
    """
    logits, after = forward(masked)
    others, _ = forward(full)
    own, correct = tasks.measured(logits, y, smoothing)
    mutual = _divergence(logits, others) + _divergence(others, logits)
    both = own + tasks.losses(others, y, smoothing).mean()
    return both + jnp.where(together, mutual, 0.0), (own, after, correct)


def _divergence(student: Any, teacher: Any) -> Any:
    """The Kullback-Leibler divergence of softened outputs; the teacher does not learn from it."""
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher) / TEMPERATURE)
    return TEMPERATURE**2 * optax.kl_divergence(jax.nn.log_softmax(student / TEMPERATURE), target).mean()
