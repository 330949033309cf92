"""Steps of an optimiser as users take them: compiled whole. Operation by operation each one is compiled for itself."""

import functools
from typing import Any

import jax
import optax


@functools.lru_cache(maxsize=32)
def compiled(tx: optax.GradientTransformation) -> Any:
    """The same transformation, its update compiled; ``rewire`` is a Python bool there, as where the host decides."""
    return optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update, static_argnames="rewire"))
