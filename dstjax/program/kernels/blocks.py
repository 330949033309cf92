"""Products with a layer that holds its active blocks alone, equally many for each column of blocks.

A layer of I inputs and O outputs in blocks of h by w has values float[C, k, h, w] and a table int32[C, k]: the j-th
block of column c leads from the inputs ``table[c, j] * h`` and on to the outputs ``c * w`` and on. Where a column has
fewer than k blocks the table says I / h, which is past the end, and its value is zero and stays so.

The inputs are gathered block by block and multiplied in one batched product, which XLA runs as dense arithmetic. Of
that copy some megabytes exist at a time, so that it stays in the cache. A CPU multiplies small blocks one by one and
adds up what each gives: otherwise the inputs of a column must lie behind one another, and are moved once more.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_COPY = {"cpu": 2**23}  # bytes of gathered inputs at a time; elsewhere a loop costs more than the memory
_COPY_ELSEWHERE = 2**30
_BY_ITSELF = {"cpu": 2**14}  # entries of an input block, of all rows, up to which each block is multiplied by itself


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def block_product(x: jax.Array, values: jax.Array, table: jax.Array, precision: Any = None) -> jax.Array:
    """Returns ``x @ W`` for the weight W of these blocks; its derivatives hold blocks alone too.

    Args:
      x: float[R, I], R rows.
      values: float[C, k, h, w].
      table: int32[C, k].
      precision: of the products, as in ``jax.lax.dot_general``.

    Returns:
      float[R, C * w].

    >>> values = jnp.array([[[[2.0]]], [[[3.0]]]])  # two outputs with one input each
    >>> block_product(jnp.array([[1.0, 10.0]]), values, jnp.array([[1], [0]]))
    Array([[20.,  3.]], dtype=float32)
    """
    return _forward(x, values, table, precision)


def _forward(x: jax.Array, values: jax.Array, table: jax.Array, precision: Any) -> jax.Array:
    blocks = by_block(x, values.shape[2])

    by_itself = values.shape[2] * len(x) <= _BY_ITSELF.get(jax.default_backend(), 0)
    wide = jnp.promote_types(jnp.promote_types(x.dtype, values.dtype), jnp.float32)

    def of_columns(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        v, t = part
        if not by_itself:
            return jnp.einsum("cri,ciw->crw", _gathered(blocks, t), _joined(v), precision=precision)
        of_each = jnp.einsum("ckrh,ckhw->ckrw", _read(blocks, t), v, precision=precision, preferred_element_type=wide)
        return jnp.sum(of_each, axis=1).astype(jnp.promote_types(x.dtype, v.dtype))

    (found,) = _by_columns(lambda part, carry: ((of_columns(part),), carry), (values, table), None, len(x))[0]
    return found.transpose(1, 0, 2).reshape(len(x), len(values) * values.shape[-1])


def _saved(x: jax.Array, values: jax.Array, table: jax.Array, precision: Any) -> tuple[jax.Array, Any]:
    return _forward(x, values, table, precision), (x, values, table)


def _backward(precision: Any, saved: Any, slope: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    x, values, table = saved
    columns, _, h, w = values.shape
    blocks = by_block(x, h)
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def of_columns(part: Any, total: jax.Array) -> tuple[Any, jax.Array]:
        v, t, s = part
        of_values = jnp.einsum("cri,crw->ciw", _gathered(blocks, t), s, precision=precision)
        back = jnp.einsum("crw,ciw->cir", s, _joined(v), precision=precision, preferred_element_type=wide)
        back = back.reshape(t.size, h, len(x))
        return (of_values.reshape(v.shape),), total.at[t.reshape(-1)].add(back, mode="drop")

    slopes = slope.reshape(len(x), columns, w).transpose(1, 0, 2)
    start = jnp.zeros((x.shape[1] // h, h, len(x)), wide)
    (of_values,), total = _by_columns(of_columns, (values, table, slopes), start, len(x))
    nothing = np.zeros(table.shape, jax.dtypes.float0)
    return total.reshape(x.shape[1], len(x)).T.astype(x.dtype), of_values.astype(values.dtype), nothing


block_product.defvjp(_saved, _backward)


def by_block(x: jax.Array, h: int) -> jax.Array:
    """Returns float[R, I] as float[I / h, R, h]."""
    return x.reshape(len(x), x.shape[1] // h, h).transpose(1, 0, 2)


def _gathered(blocks: jax.Array, table: jax.Array) -> jax.Array:
    """Returns what each column reads, float[C, R, k * h]."""
    columns, k = table.shape
    return _read(blocks, table).transpose(0, 2, 1, 3).reshape(columns, blocks.shape[1], k * blocks.shape[2])


def _read(blocks: jax.Array, table: jax.Array) -> jax.Array:
    """Returns the blocks of inputs that each column reads, float[C, k, R, h]."""
    return jnp.take(blocks, table, axis=0, mode="fill", fill_value=0)


def _joined(values: jax.Array) -> jax.Array:
    """Returns float[C, k, h, w] as float[C, k * h, w]."""
    columns, k, h, w = values.shape
    return values.reshape(columns, k * h, w)


def _by_columns(change: Any, parts: tuple[jax.Array, ...], carry: Any, rows: int) -> tuple[Any, Any]:
    """Goes through the columns, as many at a time as the copy of their inputs has room for."""
    values = parts[0]
    columns, k, h, _ = values.shape
    most = _COPY.get(jax.default_backend(), _COPY_ELSEWHERE)
    room = max(1, most // max(1, k * h * rows * values.dtype.itemsize))
    at_once = max(n for n in range(1, columns + 1) if columns % n == 0 and n <= max(room, 1))
    if at_once == columns or at_once * 4 < min(room, columns):  # an odd number of columns has no such part
        return change(parts, carry)

    def step(carry: Any, part: Any) -> tuple[Any, Any]:
        found, carry = change(part, carry)
        return carry, found

    cut = tuple(p.reshape(columns // at_once, at_once, *p.shape[1:]) for p in parts)
    carry, found = jax.lax.scan(step, carry, cut)
    return tuple(f.reshape(columns, *f.shape[2:]) for f in found), carry


def fan_in_product(x: jax.Array, values: jax.Array, table: jax.Array, precision: Any = None) -> jax.Array:
    """Returns the same as :func:`block_product` for blocks of one weight, input by input.

    Each step adds one input to all neurons and samples at once: it pays where neurons have few inputs.
    """
    del precision  # nothing is contracted
    return _fan_in(x, values, table)


@jax.custom_vjp
def _fan_in(x: jax.Array, values: jax.Array, table: jax.Array) -> jax.Array:
    turned, (weights, at) = x.T, _by_input(values, table)

    def step(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
        v, t = part
        return total + v[:, None] * jnp.take(turned, t, axis=0, mode="fill", fill_value=0), None

    start = jnp.zeros((len(table), len(x)), jnp.promote_types(x.dtype, jnp.float32))
    total, _ = jax.lax.scan(step, start, (weights, at), unroll=5)  # a loop, else producers are computed again
    return total.T.astype(jnp.promote_types(x.dtype, values.dtype))


def _fan_in_saved(x: jax.Array, values: jax.Array, table: jax.Array) -> tuple[jax.Array, Any]:
    return _fan_in(x, values, table), (x, values, table)


def _fan_in_backward(saved: Any, slope: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    x, values, table = saved
    turned, slopes, (weights, at) = x.T, slope.T, _by_input(values, table)

    def step(total: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
        v, t = part
        read = jnp.take(turned, t, axis=0, mode="fill", fill_value=0)
        return total.at[t].add(v[:, None] * slopes, mode="drop"), jnp.sum(read * slopes, axis=1)

    start = jnp.zeros(turned.shape, jnp.promote_types(x.dtype, jnp.float32))
    total, of_values = jax.lax.scan(step, start, (weights, at), unroll=5)
    of_values = of_values.T.reshape(values.shape).astype(values.dtype)
    return total.T.astype(x.dtype), of_values, np.zeros(table.shape, jax.dtypes.float0)


_fan_in.defvjp(_fan_in_saved, _fan_in_backward)


def _by_input(values: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the weights and inputs of all neurons, their j-th ones together."""
    return values.reshape(table.shape).T, table.T


def n_m_product(
    x: jax.Array, values: jax.Array, table: jax.Array, precision: Any = None, *, n: int, m: int
) -> jax.Array:
    """Returns the same as :func:`block_product` for n active weights of every m consecutive inputs.

    The weight is read compressed and written out before a dense product. That saves memory; no XLA backend multiplies
    such a weight as it is.
    """
    columns, k = table.shape
    place = (table % m).reshape(columns, k // n, n, 1)
    held = values.reshape(columns, k // n, n, 1)
    full = jnp.sum(jnp.where(place == jnp.arange(m, dtype=table.dtype).reshape(1, 1, 1, m), held, 0), axis=2)
    return jnp.matmul(x, full.reshape(columns, x.shape[1]).T, precision=precision)
