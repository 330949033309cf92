"""What jax can be told to refuse while it traces: implicit promotion of dtypes, and tracers that outlive a trace."""

import jax
import optax
import pytest

from tests.conformance import METHODS, grads_at, needed, sparsified, started, step
from tests.thorough import few, slow


def trace(name):
    """With momentum, since optax's Adam promotes implicitly."""
    tx = sparsified(optax.sgd(0.1, momentum=0.9), name)
    params, state = started(tx)
    grads = grads_at(params, 1)
    jax.eval_shape(lambda *args: step(tx, *args, **needed(name, grads)), params, state, grads)


@few(4)
@pytest.mark.parametrize("name", METHODS)
def test_no_implicit_promotion(name):
    with jax.numpy_dtype_promotion("strict"):
        trace(name)


# Looking for leaks takes seconds a method: memory, counters and a cycle of stages are in these three.
@few(1)
@pytest.mark.parametrize("name", [name if name in ("snfs", "dst_ee", "iee") else slow(name) for name in METHODS])
def test_no_leak(name):
    with jax.checking_leaks():
        trace(name)
