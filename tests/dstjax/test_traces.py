"""What jax can be told to refuse while it traces: implicit promotion of dtypes, and tracers that outlive a trace."""

import jax
import optax
import pytest

from tests.conformance import METHODS, grads_at, needed, sparsified, started, step


@pytest.mark.parametrize("name", METHODS)
def test_no_implicit_promotion_and_no_leak(name):
    """With momentum, since optax's Adam promotes implicitly."""
    tx = sparsified(optax.sgd(0.1, momentum=0.9), name)
    params, state = started(tx)
    grads = grads_at(params, 1)
    with jax.numpy_dtype_promotion("strict"), jax.checking_leaks():
        jax.eval_shape(lambda *args: step(tx, *args, **needed(name, grads)), params, state, grads)
