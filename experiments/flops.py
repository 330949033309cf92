"""What a network costs when it is sparse: parameters, FLOPs of inference and of training.

    python -m experiments.flops --model resnet50 --distribution erk --sparsity 0.9 --method rigl [--json]

Nothing is trained or computed: the shapes come from ``jax.eval_shape``, the FLOPs from the jaxpr
(dstjax.program.flops), the formulas of training from dstjax.costs. Takes a second.
"""

import ast
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dstjax import costs, distributions
from experiments import command_line, models
from experiments.latency_table import on_examples
from experiments.models.shapes import Network

RIGL_UPDATE_PERIOD = 100  # on ImageNet, the default of its authors


def network(
    name: str, *, classes: int | None = None, sizes: Any = None, shape: tuple[int, ...] | None = None
) -> Network:
    """The network of a name of ``experiments.models``; what is None is the paper's, or the network's own.

    Raises:
      ValueError: a name, number or shape that is not accepted.
    """
    model = models.make(name, classes=classes, sizes=sizes)
    return on_examples(name, model, models.MODELS[name].shape if shape is None else shape)


def with_bias_and_relu(net: Network, densities: Mapping[str, float]) -> tuple[float, float]:
    """Dense and sparse FLOPs with two more, a bias and a ReLU, for each output of each layer, always dense.

    That makes the ratios 0.42 and 0.24 (ERK) and 0.23 and 0.13 (uniform, first layer dense) printed for ResNet-50 at
    80 % and 90 %, where multiply-adds alone give 0.414, 0.242, 0.223 and 0.126.
    """
    kernels = {p: n for p, n in net.flops.multiply_adds.items() if n}
    extra = 2 * sum(n // math.prod(net.shapes[p][:-1]) for p, n in kernels.items())
    return net.flops.dense() + extra, net.flops.sparse(densities) + extra


def report(
    name: str,
    method: str,
    distribution: str,
    sparsity: float,
    *,
    net: Network,
    keep_dense: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the command prints, as JSON values; all FLOPs are for one example.

    Args:
      name: of the network.
      method: one of ``costs.names()``.
      distribution: 'uniform', 'er' or 'erk'.
      sparsity: over the leaves that are masked, in [0, 1).
      net: see :func:`network`.
      keep_dense: regular expressions of paths that stay dense.
      given: what the formula of the method needs, see ``costs.needs``; an update period that is not given is RigL's.

    Raises:
      ValueError: a name or value that is not accepted.
    """
    distributions.check(distribution, sparsity)
    needs, options = costs.needs(method), dict(given or {})
    if "update_period" in needs:
        options.setdefault("update_period", RIGL_UPDATE_PERIOD)
    masked = net.maskable(keep_dense)
    counts = distributions.active_counts(distribution, masked, sparsity)
    densities = {path: counts[path] / math.prod(shape) for path, shape in masked.items()}
    weights = sum(math.prod(shape) for shape in masked.values())
    dense, sparse = net.flops.dense(), net.flops.sparse(densities)
    training = {}
    for convention in costs.CONVENTIONS:
        cost = costs.training_flops(method, sparse=sparse, dense=dense, convention=convention, **options)
        training[convention] = {"flops": cost, "of_dense": costs.relative(cost, dense=dense)}
    return {
        "model": name,
        "input": list(net.input),
        "parameters": net.parameters,
        "maskable_weights": weights,
        "active_weights": sum(counts.values()),
        "distribution": distribution,
        "sparsity": sparsity,
        "inference": {
            **_both(dense, sparse),
            "with_bias_and_relu": _both(*with_bias_and_relu(net, densities)),
        },
        "method": method,
        "method_options": options,
        "training": training,
        "layers": [
            {"path": p, "shape": list(s), "multiply_adds": net.flops.multiply_adds[p], "density": densities.get(p, 1.0)}
            for p, s in net.shapes.items()
            if net.flops.multiply_adds[p]
        ],
    }


def _both(dense: float, sparse: float) -> dict[str, float]:
    return {"dense_flops": dense, "sparse_flops": sparse, "of_dense": sparse / dense}


def text(found: Mapping[str, Any], *, layers: bool = False) -> str:
    """The report for people."""
    inference, more = found["inference"], found["inference"]["with_bias_and_relu"]
    options = ", ".join(f"{key}={value}" for key, value in found["method_options"].items())
    lines = [
        f"{found['model']}, input {' x '.join(map(str, found['input']))}",
        f"  parameters        {found['parameters']:,}",
        f"  maskable weights  {found['maskable_weights']:,}",
        f"  active weights    {found['active_weights']:,}  ({found['distribution']}, sparsity {found['sparsity']:g})",
        "inference, FLOPs for one example",
        f"  dense             {_flops(inference['dense_flops'])}",
        f"  sparse            {_flops(inference['sparse_flops'])}  {inference['of_dense']:.3f}x",
        "  with a bias and a ReLU for each output:",
        f"  dense             {_flops(more['dense_flops'])}",
        f"  sparse            {_flops(more['sparse_flops'])}  {more['of_dense']:.2f}x",
        f"training, FLOPs for one example, {found['method']}{f' ({options})' if options else ''}",
        f"  dense             {_flops(3 * inference['dense_flops'])}",
        *(
            f"  {f'{convention} convention':<18}{_flops(cost['flops'])}  {cost['of_dense']:.3f}x"
            for convention, cost in found["training"].items()
        ),
    ]
    if layers:
        width = max(len(layer["path"]) for layer in found["layers"])
        lines.append(f"{'layer':<{width}}  {'shape':<20}{'multiply-adds':>15}  density")
        for layer in found["layers"]:
            shape = " x ".join(map(str, layer["shape"]))
            lines.append(f"{layer['path']:<{width}}  {shape:<20}{layer['multiply_adds']:>15,}  {layer['density']:.4f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report and returns the exit status."""
    parser = command_line.parser("flops", __doc__)
    parser.add_argument("--model", required=True, help=", ".join(models.names()))
    parser.add_argument("--method", default="static", help=f"one of {', '.join(costs.names())} (default: static)")
    parser.add_argument("--distribution", default="erk", help="uniform, er or erk (default: erk)")
    parser.add_argument("--sparsity", type=float, required=True, help="over the masked leaves, in [0, 1)")
    parser.add_argument("--keep-dense", action="append", default=[], metavar="REGEX", help="leaves that are not masked")
    parser.add_argument("--classes", type=int, help="default: as many as the paper has")
    parser.add_argument("--sizes", help="widths, such as 64,128 (default: the network's own)")
    parser.add_argument("--shape", help="of one example, such as 224,224,3 (default: the paper's)")
    parser.add_argument(
        "--cost", action="append", default=[], metavar="KEY=VALUE", help="for the formula, such as update_period=100"
    )
    parser.add_argument("--layers", action="store_true", help="every layer as well")
    parser.add_argument("--json", action="store_true", help="JSON in place of text, with every layer")
    options = parser.parse_args(arguments)
    try:
        net = network(
            options.model,
            classes=options.classes,
            sizes=command_line.integers("sizes", options.sizes),
            shape=command_line.integers("shape", options.shape),
        )
        found = report(
            options.model,
            options.method,
            options.distribution,
            options.sparsity,
            net=net,
            keep_dense=options.keep_dense,
            given=dict(_assignment(entry) for entry in options.cost),
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if options.json else text(found, layers=options.layers))
    return 0


def _assignment(entry: str) -> tuple[str, Any]:
    key, _, value = entry.partition("=")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise ValueError(f"cost={entry!r} is not accepted; expected KEY=VALUE with a number.") from None


def _flops(count: float) -> str:
    for factor, unit in ((1e9, "GFLOPs"), (1e6, "MFLOPs"), (1e3, "kFLOPs")):
        if count >= factor:
            return f"{count / factor:8.3f} {unit}"
    return f"{count:8.0f} FLOPs"


if __name__ == "__main__":
    command_line.start(main)
