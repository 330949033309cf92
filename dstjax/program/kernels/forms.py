"""Holds a masked weight as its active entries alone, and gives it back, exactly.

A leaf is read as a matrix of (inputs, outputs) for each of its layers. What is held keeps the leaf's number of axes, so
that optimisers, masks and layouts take it for the leaf: all of its blocks lie along the first axis of inputs.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax._arrays.layout import Layout

Table = dict[str, jax.Array]  # where the active entries of a leaf are


@dataclasses.dataclass(frozen=True)
class Form:
    """Reads a leaf as a matrix of inputs and outputs for each of its layers."""

    shape: tuple[int, ...]
    layout: Layout

    @property
    def size(self) -> tuple[int, int, int]:
        """Returns layers, inputs and outputs."""
        inputs, outputs = self.layout.kernel(self.shape)
        return self.layout.layers(self.shape), inputs, outputs

    def matrices(self, x: Any) -> Any:
        """Returns an array like the leaf as (layers, inputs, outputs)."""
        layout = self.layout
        return x.transpose(layout.stack + layout.inputs + layout.outputs).reshape(self.size)

    def leaf(self, matrices: Any) -> Any:
        """Undoes :meth:`matrices`."""
        layout = self.layout
        order = layout.stack + layout.inputs + layout.outputs
        return matrices.reshape([self.shape[a] for a in order]).transpose(np.argsort(order))


class Packed(Form, abc.ABC):
    """Says how a leaf is held by its active entries alone; the table of its mask says where these are."""

    @abc.abstractmethod
    def table(self, mask: np.ndarray) -> Table:
        """Returns where the active entries of a mask of the leaf are."""

    @abc.abstractmethod
    def values(self, x: Any, table: Table) -> jax.Array:
        """Returns the active entries of an array like the leaf, as the products read them."""

    @abc.abstractmethod
    def full(self, values: jax.Array, table: Table) -> jax.Array:
        """Undoes :meth:`values`: an array like the leaf, zero where nothing is active."""

    def stored_shape(self, table: Table) -> tuple[int, ...]:
        """Returns the shape of values in the number of axes of the leaf."""
        layout, values = self.layout, self.value_shape(table)
        shape = [n if a in layout.stack else 1 for a, n in enumerate(self.shape)]
        shape[layout.inputs[0]] = math.prod(values[:-1]) // max(1, layout.layers(self.shape))
        shape[layout.outputs[-1]] = values[-1]
        return tuple(shape)

    def stored(self, values: jax.Array) -> jax.Array:
        """Returns values in the number of axes of the leaf."""
        layout, layers, width = self.layout, self.layout.layers(self.shape), values.shape[-1]
        rest = [a for a in range(len(self.shape)) if a not in layout.stack]
        shape = [1] * len(rest)
        shape[rest.index(layout.inputs[0])] = values.size // max(layers * width, 1)
        shape[rest.index(layout.outputs[-1])] = width
        flat = values.reshape(layers, -1, width)
        if layout.outputs[-1] < layout.inputs[0]:
            flat = flat.swapaxes(1, 2)
        found = flat.reshape([self.shape[a] for a in layout.stack] + shape)
        return found.transpose(np.argsort([*layout.stack, *rest]))

    def loaded(self, stored: jax.Array, table: Table) -> jax.Array:
        """Undoes :meth:`stored`."""
        layout = self.layout
        rest = [a for a in range(len(self.shape)) if a not in layout.stack]
        flat = stored.transpose([*layout.stack, *rest])
        shape = self.value_shape(table)
        if layout.outputs[-1] < layout.inputs[0]:
            flat = flat.reshape(layout.layers(self.shape), shape[-1], -1).swapaxes(1, 2)
        return flat.reshape(shape)

    @abc.abstractmethod
    def value_shape(self, table: Table) -> tuple[int, ...]:
        """Returns the shape of the values."""

    def pack(self, x: Any, table: Table) -> jax.Array:
        """Returns the active entries of an array like the leaf, in its number of axes."""
        return self.stored(self.values(x, table))

    def unpack(self, stored: jax.Array, table: Table) -> jax.Array:
        """Undoes :meth:`pack`; zero where nothing is active."""
        return self.full(self.loaded(stored, table), table)


@dataclasses.dataclass(frozen=True)
class Blocks(Packed):
    """Holds whole blocks of h inputs by w outputs, float[layers, C, k, h, w]; see :func:`block_product`."""

    h: int
    w: int

    def table(self, mask: np.ndarray) -> Table:
        """Returns the blocks of each column, int32[layers, C, k]; columns with fewer than k point past the end.

        Raises:
          ValueError: the leaf is no multiple of blocks, or the mask has some that are active in part.
        """
        _, inputs, outputs = self.size
        if inputs % self.h or outputs % self.w:
            raise ValueError(
                f"a leaf of shape {self.shape}, of {inputs} inputs and {outputs} outputs, cannot be cut into blocks of "
                f"{self.h} x {self.w}; expected multiples."
            )
        flags = self._cut(self.matrices(np.asarray(mask)))
        whole = flags.all(axis=(2, 4))
        if (flags.any(axis=(2, 4)) != whole).any():
            raise ValueError(
                f"a mask of shape {self.shape} has blocks of {self.h} x {self.w} that are active in part; expected "
                f"whole ones, as structure=block({self.h}, {self.w}) keeps them."
            )
        whole = whole.swapaxes(1, 2)  # layers, columns, rows
        k = max(1, int(whole.sum(-1).max(initial=0)))
        first = np.argsort(~whole, axis=-1, kind="stable")[..., :k].astype(np.int32)
        there = np.take_along_axis(whole, first, axis=-1)
        return {"blocks": jnp.asarray(np.where(there, first, whole.shape[-1]).astype(np.int32))}

    def values(self, x: Any, table: Table) -> jax.Array:
        """Returns float[layers, C, k, h, w]."""
        cut = self._cut(self.matrices(jnp.asarray(x))).transpose(0, 3, 1, 2, 4)
        return jax.vmap(jax.vmap(_picked))(cut, table["blocks"])

    def full(self, values: jax.Array, table: Table) -> jax.Array:
        """Returns an array like the leaf."""
        layers, inputs, outputs = self.size
        start = jnp.zeros((layers, outputs // self.w, inputs // self.h, self.h, self.w), values.dtype)
        put = jax.vmap(jax.vmap(lambda into, at, v: into.at[at].set(v, mode="drop")))
        found = put(start, table["blocks"], values)
        return self.leaf(found.transpose(0, 2, 3, 1, 4).reshape(self.size))

    def value_shape(self, table: Table) -> tuple[int, ...]:
        """Returns (layers, C, k, h, w)."""
        return (*table["blocks"].shape, self.h, self.w)

    def _cut(self, matrices: Any) -> Any:
        layers, inputs, outputs = self.size
        return matrices.reshape(layers, inputs // self.h, self.h, outputs // self.w, self.w)


@dataclasses.dataclass(frozen=True)
class Groups(Blocks):
    """Holds single weights, n of every m consecutive inputs of each output; see :func:`n_m_product`."""

    n: int
    m: int

    def table(self, mask: np.ndarray) -> Table:
        """Returns the inputs of each output, int32[layers, O, I * n / m].

        Raises:
          ValueError: the mask has some m inputs with more or fewer than n active ones.
        """
        flags = self.matrices(np.asarray(mask))
        counts = flags.reshape(len(flags), -1, self.m, flags.shape[-1]).sum(axis=2)
        if (counts != self.n).any():
            raise ValueError(
                f"a mask of shape {self.shape} has {counts.min()} to {counts.max()} active weights in every {self.m} "
                f"inputs; expected {self.n}, as structure=n_m({self.n}, {self.m}) keeps them."
            )
        return super().table(mask)


@dataclasses.dataclass(frozen=True)
class Rows(Packed):
    """Holds single weights by output, float[n, 1], as a CSR matrix of (outputs, inputs) does; of one layer."""

    def table(self, mask: np.ndarray) -> Table:
        """Returns the input of each entry, and where the entries of each output begin."""
        flags = self.matrices(np.asarray(mask))[0].T
        starts = np.concatenate([[0], np.cumsum(flags.sum(axis=1))])
        return {"inputs": jnp.asarray(np.nonzero(flags)[1], jnp.int32), "starts": jnp.asarray(starts, jnp.int32)}

    def values(self, x: Any, table: Table) -> jax.Array:
        """Returns float[n, 1]."""
        at = self._outputs(table), table["inputs"]
        return self.matrices(jnp.asarray(x))[0].T[at][:, None]

    def full(self, values: jax.Array, table: Table) -> jax.Array:
        """Returns an array like the leaf."""
        _, inputs, outputs = self.size
        at = self._outputs(table), table["inputs"]
        found = jnp.zeros((outputs, inputs), values.dtype).at[at].set(values[:, 0])
        return self.leaf(found.T[None])

    def value_shape(self, table: Table) -> tuple[int, ...]:
        """Returns (n, 1)."""
        return (len(table["inputs"]), 1)

    def _outputs(self, table: Table) -> jax.Array:
        counts = jnp.diff(table["starts"])
        return jnp.repeat(jnp.arange(len(counts)), counts, total_repeat_length=len(table["inputs"]))


def _picked(rows: jax.Array, at: jax.Array) -> jax.Array:
    return jnp.take(rows, at, axis=0, mode="fill", fill_value=0)


def block_of(mask: np.ndarray) -> tuple[int, int]:
    """Returns the largest blocks that are all whole in a boolean matrix of (inputs, outputs).

    >>> block_of(np.kron(np.array([[1, 0], [0, 1], [1, 1]], bool), np.ones((4, 2), bool)))
    (4, 2)
    """
    return _period(mask), _period(mask.T)


def _period(mask: np.ndarray) -> int:
    changes = np.flatnonzero((mask[1:] != mask[:-1]).any(axis=1)) + 1
    return int(np.gcd.reduce([len(mask), *changes.tolist()]))


def n_m_of(masks: np.ndarray, most: int = 16) -> tuple[int, int] | None:
    """Returns the least m, and n < m, such that every m consecutive inputs of each output have n active ones.

    None where there is none below the number of inputs, which would say no more than that all fan-ins are equal.

    Args:
      masks: bool[layers, inputs, outputs].
      most: the largest m to look for.
    """
    layers, inputs, outputs = masks.shape
    for m in range(2, min(most + 1, inputs)):
        if inputs % m == 0:
            counts = masks.reshape(layers, -1, m, outputs).sum(axis=2)
            if 0 < counts.min() == counts.max() < m:
                return int(counts.max()), m
    return None
