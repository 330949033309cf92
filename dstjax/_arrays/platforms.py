"""The platforms whose compilers want other programs; masks and weights are the same bit for bit."""

import jax


def is_cpu() -> bool:
    """Whether JAX computes on a CPU by default: rows, and keys of 16 bits, take the least time there."""
    return jax.default_backend() == "cpu"


def is_tpu() -> bool:
    """Whether JAX computes on a TPU by default, whose compiler takes long over some operations, or ends over them.

    It takes long over bytes, and over what changes its shape, above all in one kernel with other things.
    """
    return jax.default_backend() == "tpu"
