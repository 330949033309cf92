"""How long the layers of a network take at any number of channels: tables measured, or made from FLOPs and bytes.

A table is a sum over the layers of a program, the products with a leaf of its parameters. Each layer has a cost at some
numbers of inputs and outputs, and is interpolated between. ``structures.channels(found, costs=table, budget=0.55)``
decides by it which channels a network can afford; :meth:`Table.predict` says what some widths cost.

>>> import jax, jax.numpy as jnp
>>> params = {"a": jnp.zeros((4, 8)), "b": jnp.zeros((8, 2))}
>>> table = analytic(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.zeros((1, 4)))
>>> table.predict((8,)), table.predict((2,))  # FLOPs with all hidden units, and with two
(96.0, 24.0)
"""

import dataclasses
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dstjax._arrays.trees import Tree
from dstjax.checks import check_number
from dstjax.program import flops
from dstjax.program.channels import channels as read_channels
from dstjax.program.clock import Timer, circumstances, device, run, timed
from dstjax.program.contractions import CONTRACTIONS
from dstjax.program.layers import Product, layers, resized
from dstjax.structures.pools import Pools, without
from dstjax.structures.work import Layer, Side, Work, side

FORMAT = "dstjax.latency 1"
_log = logging.getLogger(__name__)
_FRACTIONS = (0.125, 0.25, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds what the layers of a network cost; ``about`` says where and when that was measured."""

    work: Work
    about: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False, compare=False)

    @property
    def dense(self) -> float:
        """Returns the cost of the dense network, in seconds or FLOPs."""
        return self.work.dense

    def predict(self, widths: Sequence[int]) -> float:
        """Returns what the network costs with some numbers of channels in its pools, as ``Channels.widths`` says them.

        Raises:
          ValueError: another number of pools, or a width that the network does not have.
        """
        given = np.asarray(widths)
        if given.shape != np.shape(self.work.full) or not (
            np.issubdtype(given.dtype, np.integer) and (given >= 0).all() and (given <= self.work.full).all()
        ):
            raise ValueError(f"widths={widths!r} are not accepted; expected at most {self.work.full}, as integers.")
        return float(self.work.total(given))

    def fitted(self, measured: Sequence[tuple[Sequence[int], float]]) -> "Table":
        """Returns the table with a constant and a factor, such that it comes closest to the whole network as measured.

        What lies between the layers (norms, pooling, calls) is in no table of a layer. Two measurements, of the dense
        network and of a narrow one, tell how much it is, and how much of it goes with the layers.

        Args:
          measured: widths, as ``Channels.widths`` says them, and the cost of the whole network there.

        Raises:
          ValueError: fewer than two measurements of different cost, costs that are not positive, or widths that the
            network does not have.
        """
        x = np.asarray([self.predict(widths) - self.work.constant for widths, _ in measured])
        y = np.asarray([cost for _, cost in measured], np.float64)
        if len(x) < 2 or x.max() - x.min() <= 1e-9 * x.max() or not (np.isfinite(y).all() and (y > 0).all()):
            raise ValueError(f"measured={measured!r} is not accepted; expected positive costs at two widths or more.")
        factor = max(float(np.polyfit(x, y, 1)[0]), 0.0)
        constant = float(np.mean(y - factor * x))
        if constant < 0 or factor == 0:  # through zero, or all of it constant
            factor, constant = float(x @ y / (x @ x)), 0.0
        entries = tuple(
            dataclasses.replace(a, costs=tuple(tuple(c * factor for c in row) for row in a.costs))
            for a in self.work.layers
        )
        return Table(
            dataclasses.replace(self.work, layers=entries, constant=constant), {**self.about, "fitted": len(x)}
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as JSON."""
        entries = [dataclasses.asdict(layer) for layer in self.work.layers]
        work = {"unit": self.work.unit, "full": self.work.full, "constant": self.work.constant, "layers": entries}
        work["entries"] = len(entries)  # so that one that is lost is missed
        Path(path).write_text(json.dumps({"format": FORMAT, **self.about, **work}, indent=1) + "\n")


def load(path: str | os.PathLike[str], *, any_device: bool = False) -> Table:
    """Reads a table that :meth:`Table.save` has written.

    Args:
      path: the file.
      any_device: whether to take a table of seconds that was measured on another kind of device.

    Raises:
      ValueError: no such table, or one of another device.
    """
    try:
        found = json.loads(Path(path).read_text())
        if found["format"] != FORMAT:
            raise KeyError("format")
        entries = tuple(_layer(x) for x in found.pop("layers"))
        if (number := found.pop("entries", len(entries))) != len(entries):
            raise ValueError(f"it has {len(entries)} of {number} entries")
        work = Work(found.pop("unit"), entries, tuple(found.pop("full")), found.pop("constant"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of latencies ({error}); expected one that Table.save wrote.") from None
    here = device()
    if work.unit == "seconds" and found.get("device") not in (None, here) and not any_device:
        raise ValueError(
            f"the table {path} was measured on {found['device']!r}, and this is {here!r}; measure one here, or give "
            "any_device=True."
        )
    del found["format"]
    return Table(work, found)


def analytic(
    function: Callable[..., Any],
    params: Tree,
    *args: Any,
    flops_per_second: float | None = None,
    bytes_per_second: float | None = None,
    whole: Sequence[str] = (),
) -> Table:
    """Makes a table from what the layers compute and move; nothing runs.

    In FLOPs, two for a multiply-add, where no speed is given. Else in seconds: arithmetic and traffic add up. Products
    with a leaf are counted, as in :mod:`dstjax.program.flops`. What of them cannot be resized, as in a branch or of
    leaves that are joined, is a constant of the table; those of no leaf, as in attention, are left out.

    Args:
      function: the forward pass, ``function(params, *args)``.
      params: tree of arrays or ``jax.ShapeDtypeStruct``.
      *args: an example of the other arguments, likewise; its batch is that of the table.
      flops_per_second: how fast the machine computes.
      bytes_per_second: how fast it moves operands and results; None: at no cost.
      whole: as in :func:`dstjax.structures.channels`.

    Raises:
      ValueError: a speed that is no positive number, or a program without layers, or one that cannot be counted.
    """
    for name, x in (("flops_per_second", flops_per_second), ("bytes_per_second", bytes_per_second)):
        if x is not None:
            check_number(name, x, "a positive number", lambda v: 0 < v < math.inf)
    if bytes_per_second is not None and flops_per_second is None:
        raise ValueError("bytes_per_second is not accepted without flops_per_second; expected both.")
    per_flop = 1.0 if flops_per_second is None else 1 / flops_per_second
    per_byte = 0.0 if bytes_per_second is None else 1 / bytes_per_second

    def table(product: Product, name: str, inputs: Side, outputs: Side, full: Sequence[int]) -> Layer:
        n, m = inputs.of(full), outputs.of(full)
        x, w, y = (v.aval for v in (product.eqn.invars[1 - product.weight], product.eqn.invars[product.weight],
                                    product.eqn.outvars[0]))  # fmt: skip
        work = 2 * CONTRACTIONS[product.eqn.primitive.name](product.eqn) * per_flop
        sizes = [math.prod(a.shape) * a.dtype.itemsize * per_byte * product.times for a in (x, w, y)]
        grouped = product.eqn.params.get("feature_group_count", 1) > 1  # inputs go with outputs
        left, right = (0.0, sizes[2] + sizes[0]) if grouped else (sizes[0], sizes[2])
        both = work * product.times + sizes[1]
        return Layer(name, inputs, outputs, (0, n), (0, m), ((0.0, right), (left, left + right + both)))

    unit = "FLOPs" if flops_per_second is None else "seconds"
    products = layers(function, params, *args)
    found = _tables(function, params, args, whole, products, table)
    rest = 2 * sum(_left_out(function, params, args, products).values()) * per_flop
    return Table(Work(unit, *found, rest), {"made": "from FLOPs and bytes"})


def measure(
    function: Callable[..., Any],
    params: Tree,
    *args: Any,
    whole: Sequence[str] = (),
    fractions: Sequence[float] = _FRACTIONS,
    timer: Timer | None = None,
) -> Table:
    """Measures a table on the machine at hand: each layer at some of its widths, each compiled by itself.

    A layer is its product, with the scale, shift and ReLU that usually follow. Layers of equal shapes are measured
    once. At four fractions a layer has up to sixteen points; most of the time that takes goes into compiling them.
    Leaves with products that cannot be resized are named by a warning of the logger ``dstjax.program.latency``.

    Args:
      function: as in :func:`analytic`, and so are the other arguments.
      params: tree of arrays or ``jax.ShapeDtypeStruct``.
      *args: an example of the other arguments; give the batch that counts.
      whole: as in :func:`dstjax.structures.channels`.
      fractions: of the full width, at which inputs and outputs are measured.
      timer: ``timer(call, *operands) -> seconds`` in place of the clock.

    Raises:
      ValueError: fractions out of (0, 1] or without 1, or a program without layers.
    """
    if not fractions or max(fractions) != 1 or min(fractions) <= 0:
        raise ValueError(f"fractions={fractions!r} is not accepted; expected numbers in (0, 1], and 1 among them.")
    clock, known = timer or timed, dict[Any, float]()

    def table(product: Product, name: str, inputs: Side, outputs: Side, full: Sequence[int]) -> Layer:
        points = [
            sorted({0, end.of(full), *(max(1, round(f * end.of(full))) for f in fractions if end.pools)})
            for end in (inputs, outputs)
        ]
        rows = [[0.0] * len(points[1])]
        for n in points[0][1:]:
            row = [0.0]
            for m in points[1][1:]:
                shapes, given = resized(product, n, m)
                key = (product.eqn.primitive.name, *shapes, *map(str, given.values()))
                if key not in known:
                    known[key] = run(product, shapes, given, clock)
                row.append(known[key] * product.times)
            rows.append(row)
        return Layer(name, inputs, outputs, tuple(points[0]), tuple(points[1]), tuple(map(tuple, rows)))

    products = layers(function, params, *args)
    found = _tables(function, params, args, whole, products, table)
    _warn(function, params, args, products)
    return Table(Work("seconds", *found), {"made": "measured", **circumstances(args)})


def _left_out(
    function: Callable[..., Any], params: Tree, args: Sequence[Any], products: Sequence[Product]
) -> dict[str, int]:
    """Returns the multiply-adds of leaves beyond those of their layers: in branches, joined with other leaves, ..."""
    counts = Counter(flops.count(function, params, *args).multiply_adds)
    for product in products:
        counts[product.leaf] -= CONTRACTIONS[product.eqn.primitive.name](product.eqn) * product.times
    return {leaf: number for leaf, number in counts.items() if number > 0}


def _warn(function: Callable[..., Any], params: Tree, args: Sequence[Any], products: Sequence[Product]) -> None:
    """Says what a measured table cannot have."""
    try:
        lost = _left_out(function, params, args, products)
    except ValueError as error:  # it cannot be counted: a kernel, a loop of any number of rounds
        _log.warning("The table has the layers that show in the program alone: %s", error)
        return
    if lost:
        _log.warning(
            "The table lacks %s, whose products cannot be resized: %.2g million multiply-adds. Table.fitted adds what "
            "the whole network takes besides its layers.",
            ", ".join(lost),
            sum(lost.values()) / 1e6,
        )


def _tables(
    function: Callable[..., Any],
    params: Tree,
    args: Sequence[Any],
    whole: Sequence[str],
    products: Sequence[Product],
    table: Callable[..., Layer],
) -> tuple[tuple[Layer, ...], tuple[int, ...]]:
    """Returns a table of each layer, and the widths of the dense network."""
    found = read_channels(function, params, *args)
    pools = Pools.of(without(found.of, whole))
    number = np.full(found.n_groups + 1, -1)  # the pool of each group; the last entry is that of -1
    for path, axes in zip(pools.paths, pools.axes, strict=True):
        for old, new in zip(found.of[path], axes, strict=True):
            there = np.asarray(new) >= 0
            number[np.asarray(old)[there]] = pools.pool_of[np.asarray(new)[there]]
    made = []
    for product in products:
        ends = [side([number[a] for a in axes], pools.sizes) for axes in (product.inputs, product.outputs)]
        made.append(table(product, product.leaf, *ends, pools.sizes))
    if not made:
        raise ValueError("the program has no product with a leaf of its parameters; expected the forward pass.")
    return tuple(made), pools.sizes


def _layer(entry: dict[str, Any]) -> Layer:
    inputs, outputs = (
        Side(tuple((int(stay), tuple((int(p), int(n)) for p, n in pools)) for stay, pools in entry.pop(k)["axes"]))
        for k in ("inputs", "outputs")
    )
    name, at, to = entry.pop("name"), tuple(entry.pop("at_inputs")), tuple(entry.pop("at_outputs"))
    return Layer(name, inputs, outputs, at, to, tuple(tuple(map(float, row)) for row in entry.pop("costs")))
