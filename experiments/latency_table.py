"""Measures how long the layers of a network take at some of their widths: the table by which channels are chosen.

    python -m experiments.latency_table --model resnet50 --out table.json [--batch-size 256] [--dtype bfloat16]

On the machine at hand, which need not be the one that trains, each layer compiled by itself; then fitted to the whole
network with all, 40 and 10 % of its weights, or as few as it can have. A structure takes it:
``--config.structure="channels(budget=0.55, costs='table.json')"``. No data are needed.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from dstjax import latency, methods, program, structures
from dstjax.checks import check_integer
from experiments import command_line, models, turns
from experiments.models import shapes

_ROUNDS, _SECONDS = 100, 0.001  # short ones, so that other programs leave some of them alone
_SHARES = (1.0, 0.4, 0.1)  # of the weights, at which the whole network is measured
MOST = 2**31 - 1  # entries of an array, as int32 counts them


def fastest(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Seconds of each call: the best of its rounds, as in the tables that predict them."""
    return [min(found) for found in turns.timed(calls, rounds=_ROUNDS, seconds=_SECONDS)]


def compared(model: Any, params: Any, model_state: Any, masks: Any, x: jax.Array) -> tuple[float, float, float]:
    """Seconds of a batch in the dense shapes and in the compacted ones, and multiply-adds of a smaller batch."""
    variables = {"params": params, **model_state}
    forward = functools.partial(model.apply, train=False)
    smaller, fewer, _ = dstjax.compact(forward, variables, masks, x)
    dense = jax.jit(forward)
    before, after = fastest([lambda: dense(variables, x), lambda: smaller(fewer, x)])
    return before, after, program.flops.count(smaller, fewer, x).dense() / 2


def on_examples(name: str, model: Any, shape: tuple[int, ...], batch_size: int = 1) -> shapes.Network:
    """A network by its shapes alone, for examples of a shape.

    Args:
      name: of the network.
      model: what ``models.make`` returns for it.
      shape: of one example.
      batch_size: examples at once.

    Raises:
      ValueError: more entries than an array can hold, or a shape that the network does not take.
    """
    given, usual = (",".join(map(str, s)) for s in (shape, models.MODELS[name].shape))
    if math.prod(shape) * batch_size > MOST:
        of = f" with batch-size={batch_size}" if batch_size > 1 else ""
        raise ValueError(f"shape={given}{of} is not accepted; expected at most {MOST:,} entries, such as {usual}.")
    try:
        return shapes.network(model, shape)
    except ValueError as error:
        if len(shape) == len(models.MODELS[name].shape):
            raise
        raise ValueError(
            f"shape={given} is not accepted; model {name!r} expects {len(models.MODELS[name].shape)} numbers, such as "
            f"{usual}."
        ) from error


def measured(model: Any, params: Any, model_state: Any, x: jax.Array, whole: Sequence[str] = ()) -> latency.Table:
    """The table of a network for a batch, fitted to the whole of it; ``whole``: as in ``structures.channels``."""
    found = shapes.channels_of(model, x.shape[1:])

    def forward(params: Any, x: jax.Array) -> Any:
        return model.apply({"params": params, **model_state}, x, train=False)

    table, known = latency.measure(forward, params, x, whole=whole), []
    smallest = structures.channels(found, whole=whole).work
    least = float(smallest.total(np.ones(len(smallest.full), np.int32))) / smallest.dense  # one channel of each pool
    for share in dict.fromkeys(max(share, least) for share in _SHARES):
        structure = structures.channels(found, budget=share, whole=whole)
        method = methods.static(sparsity=1 - share, distribution="uniform", structure=structure)
        masks = dstjax.get_masks(dstjax.sparsify(optax.sgd(0.1), method).init(params))
        _, seconds, _ = compared(model, dstjax.apply_masks(params, masks), model_state, masks, x)
        known.append((structure.widths_of(masks), seconds))
    return table.fitted(known)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table, prints a line, and returns the exit status."""
    parser = command_line.parser("latency_table", __doc__)
    parser.add_argument("--model", required=True, help=", ".join(models.names()))
    parser.add_argument("--out", required=True, type=Path, help="the file of the table")
    parser.add_argument("--batch-size", type=int, default=256, help="images at once (default: 256)")
    parser.add_argument("--classes", type=int, help="default: as many as the paper has")
    parser.add_argument("--sizes", help="widths, such as 64,128 (default: the network's own)")
    parser.add_argument("--shape", help="of one image, such as 224,224,3 (default: the paper's)")
    parser.add_argument("--whole", action="append", default=[], metavar="REGEX", help="leaves whose channels all stay")
    parser.add_argument("--dtype", help="of the computation, such as bfloat16 (default: that of the images)")
    options = parser.parse_args(arguments)
    try:
        check_integer("batch-size", options.batch_size, 1)
        sizes, shape = (command_line.integers(name, getattr(options, name)) for name in ("sizes", "shape"))
        model = models.make(options.model, classes=options.classes, sizes=sizes, dtype=options.dtype)
        if not options.out.absolute().parent.is_dir() or options.out.is_dir():
            raise ValueError(f"out={options.out} is not accepted; expected a file in a directory that is there.")
        shape = shape or models.MODELS[options.model].shape
        number = on_examples(options.model, model, shape, options.batch_size).parameters
        if number > MOST:
            raise ValueError(f"the network has {number:,} parameters; expected at most {MOST:,}: give smaller sizes.")
        x = _images((options.batch_size, *shape))
        variables = dict(jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x[:1]))
        table = measured(model, variables.pop("params"), variables, x, options.whole)
        table.save(options.out)
    except (ValueError, OSError) as error:
        return command_line.failed(error, 2)
    milliseconds, layers = 1000 * table.dense, len(table.work.layers)
    print(f"{options.out}: {layers} layers; {milliseconds:.3g} ms a batch of {options.batch_size} dense")
    return 0


def _images(shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


if __name__ == "__main__":
    command_line.start(main)
