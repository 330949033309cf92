"""The product of blocks as a kernel of Pallas, for a TPU or a GPU; a CPU interprets it, slowly."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton

from dstjax.program.kernels.blocks import block_product

_ROWS, _LEAST = (64, 256), (16, 8)  # samples of a program at most and at least, on a GPU and on a TPU


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def pallas_product(x: jax.Array, values: jax.Array, table: jax.Array, precision: Any = None) -> jax.Array:
    """Returns the same as :func:`block_product`.

    Each program reads the blocks of the inputs where the table says, and adds up their products: nothing is gathered in
    memory. A TPU wants blocks of multiples of 128, a GPU powers of two from 16 on. The backward pass is that of
    :func:`block_product`.
    """
    return _forward(x, values, table, precision)


def _forward(x: jax.Array, values: jax.Array, table: jax.Array, precision: Any) -> jax.Array:
    return kernel(x, values, table, precision, platform=jax.default_backend())


def kernel(
    x: jax.Array, values: jax.Array, table: jax.Array, precision: Any = None, *, platform: str, interpret: bool = False
) -> jax.Array:
    """Returns the product as the kernel for ``platform`` ('tpu', else that for a GPU) computes it."""
    columns, _, _, w = values.shape
    if not len(x):
        return jnp.zeros((0, columns * w), jnp.promote_types(x.dtype, values.dtype))
    rows = min(_ROWS[platform == "tpu"], max(_LEAST[platform == "tpu"], _power(len(x))))
    short = -len(x) % rows
    x = jnp.pad(x, ((0, short), (0, 0)))
    result = jax.ShapeDtypeStruct((len(x), columns * w), jnp.promote_types(x.dtype, values.dtype))
    call = _on_tpu if platform == "tpu" else _on_gpu
    found = call(x, values, rows, result, precision, interpret or platform == "cpu")(table, x, values)
    return found[: len(x) - short]


def _on_tpu(x: Any, values: Any, rows: int, result: Any, precision: Any, interpret: bool) -> Callable[..., jax.Array]:
    """Fetches each block ahead of its product, by the table, which the scalar core holds."""
    columns, k, h, w = values.shape
    blocks, wide = x.shape[1] // h, jnp.promote_types(result.dtype, jnp.float32)
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(len(x) // rows, columns, k),
        in_specs=[
            # Past the end of a column the last block is fetched, and not multiplied: it may hold what is not finite.
            pl.BlockSpec((rows, h), lambda r, c, j, at: (r, jnp.minimum(at[c, j], blocks - 1))),
            pl.BlockSpec((None, None, h, w), lambda r, c, j, at: (c, j, 0, 0)),
        ],
        out_specs=pl.BlockSpec((rows, w), lambda r, c, j, at: (r, c)),
        scratch_shapes=[pltpu.VMEM((rows, w), wide)],
    )

    def add_block(at: Any, x: Any, values: Any, out: Any, total: Any) -> None:
        c, j = pl.program_id(1), pl.program_id(2)

        @pl.when(j == 0)
        def _() -> None:
            total[...] = jnp.zeros_like(total)

        @pl.when(at[c, j] < blocks)
        def _() -> None:
            total[...] += jnp.dot(x[...], values[...], precision=precision, preferred_element_type=wide)

        @pl.when(j == k - 1)
        def _() -> None:
            out[...] = total[...].astype(out.dtype)

    return pl.pallas_call(add_block, out_shape=result, grid_spec=spec, interpret=interpret)


def _on_gpu(x: Any, values: Any, rows: int, result: Any, precision: Any, interpret: bool) -> Callable[..., jax.Array]:
    """Goes through the blocks of a column in registers."""
    columns, k, h, w = values.shape
    blocks, wide = x.shape[1] // h, jnp.promote_types(result.dtype, jnp.float32)

    def column(at: Any, x: Any, values: Any, out: Any) -> None:
        def add_block(j: Any, total: jax.Array) -> jax.Array:
            # Past the end of a column the last block is read, which may hold what is not finite, and is not taken.
            read = x[:, pl.ds(jnp.minimum(at[0, j], blocks - 1) * h, h)]
            read = jnp.where(at[0, j] < blocks, read, jnp.zeros((), read.dtype))
            return total + jnp.dot(read, values[j], precision=precision, preferred_element_type=wide)

        total = jax.lax.fori_loop(0, k, add_block, jnp.zeros((rows, w), wide))
        out[...] = total.astype(out.dtype)

    return pl.pallas_call(
        column,
        out_shape=result,
        grid=(len(x) // rows, columns),
        in_specs=[
            pl.BlockSpec((1, k), lambda r, c: (c, 0)),
            pl.BlockSpec((rows, x.shape[1]), lambda r, c: (r, 0)),
            pl.BlockSpec((None, k, h, w), lambda r, c: (c, 0, 0, 0)),
        ],
        out_specs=pl.BlockSpec((rows, w), lambda r, c: (r, c)),
        compiler_params=triton.CompilerParams(),
        interpret=interpret,
    )


def _saved(x: jax.Array, values: jax.Array, table: jax.Array, precision: Any) -> tuple[jax.Array, Any]:
    return _forward(x, values, table, precision), (x, values, table)


def _backward(precision: Any, saved: Any, slope: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    x, values, table = saved
    _, back = jax.vjp(lambda x, v: block_product(x, v, table, precision), x, values)
    return (*back(slope), np.zeros(table.shape, jax.dtypes.float0))


pallas_product.defvjp(_saved, _backward)


def _power(rows: int) -> int:
    """Returns the next power of two."""
    return 1 << max(0, rows - 1).bit_length()
