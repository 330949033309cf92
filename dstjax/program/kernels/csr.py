"""A product on the host with a sparse matrix of scipy, for inference on a CPU."""

from typing import Any

import jax
import numpy as np

from dstjax.exchange.host import imported

DTYPES = (np.float32, np.float64)  # of which scipy has sparse matrices


def csr_product(x: jax.Array, values: jax.Array, inputs: jax.Array, starts: jax.Array) -> jax.Array:
    """Returns ``x @ W`` for the weight W of a CSR matrix of (outputs, inputs); it has no derivative.

    Args:
      x: float32, float64, complex64 or complex128[R, I].
      values: of the same dtype, [n, 1], output by output.
      inputs: int32[n], the input of each.
      starts: int32[O + 1], where the entries of each output begin.

    Returns:
      float[R, O].

    Raises:
      ValueError: scipy is not installed, or has no matrices of the dtype; or a derivative is asked for.
    """
    sparse = imported("scipy.sparse", "the csr product")
    if x.dtype not in (*DTYPES, np.complex64, np.complex128) or x.dtype != values.dtype:
        raise ValueError(f"scipy.sparse has no product of {x.dtype} and {values.dtype}; expected float32 or float64.")
    shape = (len(starts) - 1, x.shape[1])

    def multiply(x: Any, values: Any, inputs: Any, starts: Any) -> np.ndarray:
        matrix = sparse.csr_array((np.asarray(values)[:, 0], np.asarray(inputs), np.asarray(starts)), shape=shape)
        return np.ascontiguousarray((matrix @ np.asarray(x).T).T)

    @jax.custom_jvp
    def product(*operands: jax.Array) -> jax.Array:
        result = jax.ShapeDtypeStruct((len(operands[0]), shape[0]), operands[0].dtype)
        return jax.pure_callback(multiply, result, *operands, vmap_method="sequential")

    product.defjvp(_refused)
    return product(x, values, inputs, starts)


def _refused(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise ValueError("the product 'csr' has no derivative; expected product='auto', 'block' or 'fan_in' for training.")
