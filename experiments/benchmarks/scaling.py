"""Past one machine: compiles the mask update and the step for many devices, runs neither, and predicts what they cost.

    python -m experiments.benchmarks.scaling [--models 8B,1T] [--devices N] [--mesh auto] [--out DIR]
      [--bandwidth 3.35e12] [--link 5e10] [--latency 2e-5] [--flops 4e14] [--tokens 4e6] [--period 100]

  --models NAMES  from 1.3B, 8B, 70B, 405B, 1T (default: all)
  --devices N     a power of two (default: two sizes that suit each model)
  --mesh KIND     explicit (default) or auto
  --out DIR       where scaling-cpu.jsonl goes (default: runs/bench)

The others describe a device: bytes/s of its memory and of its link, seconds that a collective takes at least, useful
floating-point operations a second, tokens of a batch, steps between mask updates. docs/scaling.md has the formula.
Two layers are compiled, the others are like the second. Weights are float32, the optimiser is AdamW.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import dstjax
from experiments import command_line
from experiments.benchmarks import contenders, hlo, layouts, machine, records, shapes, virtual
from experiments.benchmarks.traffic import traffic


class Model(NamedTuple):
    """A decoder with gated perceptrons and grouped keys and values."""

    width: int
    inner: int
    keys: int
    layers: int
    vocabulary: int
    devices: tuple[int, ...]  # on which it is compiled


MODELS = {
    "tiny": Model(64, 128, 32, 3, 256, (8,)),
    "1.3B": Model(2048, 5632, 2048, 24, 50304, (8, 64)),
    "8B": Model(4096, 14336, 1024, 32, 128256, (64, 256)),
    "70B": Model(8192, 28672, 1024, 80, 128256, (256, 1024)),
    "405B": Model(16384, 53248, 1024, 126, 128256, (1024, 4096)),
    "1T": Model(25600, 68096, 3200, 150, 128256, (2048, 4096)),
}
PROGRAMS: dict[str, dict[str, Any]] = {"dense": {}, "step": {"rewire": False}, "update": {"rewire": True}}
LAYOUT = "2-d"  # every matrix split along both axes, over data and model
DEVICE = {"bandwidth": 3.35e12, "link": 5e10, "latency": 2e-5, "flops": 4e14, "tokens": 4e6, "period": 100.0}


def tree(model: Model, layers: int) -> shapes.Shapes:
    d, f, k = model.width, model.inner, model.keys
    of_tree: shapes.Shapes = {
        "embedding": (model.vocabulary, d),
        "head_embedding": (d, model.vocabulary),
        "scale": (d,),
    }
    for i in range(layers):
        matrices = {"q": (d, d), "k": (d, k), "v": (d, k), "o": (d, d), "gate": (d, f), "up": (d, f), "down": (f, d)}
        of_tree |= {f"layer{i}/{name}": shape for name, shape in matrices.items()}
        of_tree |= {f"layer{i}/scale_{part}": (d,) for part in ("1", "2")}
    return of_tree


def compiled(model: Model, layers: int, devices: int, kind: str, program: str) -> dict[str, int]:
    """What the program of a short model holds and does, on each device."""
    mesh = layouts.mesh(devices, kind)
    inner = contenders.OPTIMISERS["adamw"]()
    tx = inner if program == "dense" else dstjax.sparsify(inner, contenders.method("rigl"))
    structs = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in tree(model, layers).items()}
    params = layouts.placed(mesh, structs, LAYOUT)
    with jax.set_mesh(mesh):
        state = layouts.state_like(tx, params)
        lowered = contenders.jitted_step(tx, PROGRAMS[program]).lower(params, state, params)
        done = lowered.compile()
    text, memory = done.as_text(), done.memory_analysis()
    found = hlo.collectives(text)
    extra = (
        0 if program == "dense" else sum(_piece(x) for x in jax.tree_util.tree_leaves(state._replace(inner_state=())))
    )
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "traffic": traffic(text, branches=False),
        "traffic_with_ties": traffic(text),
        "collectives": found.total,
        "collective_bytes": found.bytes,
        "largest_collective": found.largest,
        "sparse_state": extra,
    }


def whole(model: Model, devices: int, kind: str, program: str) -> dict[str, int]:
    """The same for all layers: one layer, and what the second adds as often as there are others."""
    one, two = (compiled(model, layers, devices, kind, program) for layers in (1, 2))
    total = {name: one[name] + (model.layers - 1) * max(two[name] - one[name], 0) for name in one}
    return total | {"largest_collective": max(one["largest_collective"], two["largest_collective"])}


def rows(name: str, devices: int, kind: str, device: dict[str, float]) -> Iterator[records.Row]:
    """The figures of one model on so many devices."""
    model = MODELS[name]
    weights = shapes.weights(tree(model, model.layers))
    case = {"model": name, "weights": weights, "devices": devices, "mesh": kind}
    found = {program: whole(model, devices, kind, program) for program in PROGRAMS}
    for program, values in found.items():
        yield records.value("scaling", {**case, "program": program}, **values)
    yield records.value("scaling", {**case, "program": "predicted"}, **predicted(found, weights, devices, device))


def predicted(
    found: dict[str, dict[str, int]], weights: int, devices: int, device: dict[str, float]
) -> dict[str, float]:
    """Seconds on each device; the formula of docs/scaling.md."""

    def seconds(values: dict[str, int]) -> float:
        memory = values["traffic"] / device["bandwidth"]
        return memory + values["collectives"] * device["latency"] + values["collective_bytes"] / device["link"]

    dense, step, update = (seconds(found[p]) for p in ("dense", "step", "update"))
    training = 6 * weights * device["tokens"] / (devices * device["flops"]) + dense
    added = step - dense + (update - step) / device["period"]
    return {
        "dense_step_seconds": dense,
        "sparse_step_seconds": step,
        "update_seconds": update,
        "training_step_seconds": training,
        "added_share": added / training,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser("benchmarks.scaling", __doc__)
    parser.add_argument("--models", default=",".join(m for m in MODELS if m != "tiny"))
    parser.add_argument("--devices", type=int)
    parser.add_argument("--mesh", choices=layouts.MESHES, default="explicit")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    for name, usual in DEVICE.items():
        parser.add_argument(f"--{name}", type=float, default=usual)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    names = given.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"--models {','.join(unknown)} is not known; expected some of {', '.join(MODELS)}.")
    if given.devices is not None and (given.devices < 1 or given.devices & (given.devices - 1)):
        parser.error(f"--devices {given.devices} is not accepted; expected a power of two.")
    device = {name: getattr(given, name) for name in DEVICE}
    for name, value in device.items():
        if not (0 < value < float("inf") or (name == "latency" and value == 0)):
            parser.error(f"--{name} {value} is not accepted; expected a positive number.")
    if given.worker:
        virtual.join(given.rank)
        for row in rows(names[0], given.devices, given.mesh, device):
            print(json.dumps(row), flush=True)
        virtual.leave()
    written: list[records.Row] = []
    options = [word for name, value in device.items() for word in (f"--{name}", str(value))]
    for name in names:
        for devices in [given.devices] if given.devices else MODELS[name].devices:
            words = ["--worker", "--models", name, "--mesh", given.mesh, *options]
            written += virtual.run("experiments.benchmarks.scaling", devices, *words)
            print(table(written[-len(PROGRAMS) - 1 :], heading=len(written) == len(PROGRAMS) + 1), flush=True)
    words = list(arguments) if arguments is not None else sys.argv[1:]
    header = machine.facts(jax.devices("cpu")[0], " ".join(["python -m experiments.benchmarks.scaling", *words]))
    records.write(given.out / "scaling-cpu.jsonl", header | {"benchmark": "scaling", "assumed": device}, written)
    return 0


def table(found: Sequence[records.Row], *, heading: bool) -> str:
    """Models on devices as lines of a Markdown table."""
    lines = [f"| {' | '.join(line.values())} |" for line in cells(found)]
    names = list(cells(found)[0])
    return "\n".join([f"| {' | '.join(names)} |", "|" + "---|" * len(names), *lines] if heading else lines)


def cells(found: Sequence[records.Row]) -> list[dict[str, str]]:
    """One line for each model and number of devices: what the table shows, by the name of its column."""
    programs = len(PROGRAMS) + 1
    return [_cells(found[i : i + programs]) for i in range(0, len(found), programs)]


def _cells(found: Sequence[records.Row]) -> dict[str, str]:
    case, of = found[0]["case"], {row["case"]["program"]: row["values"] for row in found}
    update, dense, times = of["update"], of["dense"], of["predicted"]
    mine = case["weights"] / case["devices"]
    return {
        "model": case["model"],
        "devices": f"{case['devices']:,}",
        "weights a device": f"{mine / 1e6:,.1f} M",
        "dense": f"{dense['arguments'] / 2**30:.2f} GiB",
        "sparse state": f"{update['sparse_state'] / 2**20:.1f} MiB",
        "temporaries": f"{(update['temporary'] - dense['temporary']) / mine:.1f} B/weight",
        "collectives": f"{update['collectives']:,}",
        "bytes": f"{update['collective_bytes'] / 1024:,.0f} KiB",
        "largest": f"{update['largest_collective']:,} B",
        "dense step": f"{1e3 * times['dense_step_seconds']:.2f} ms",
        "sparse step": f"{1e3 * times['sparse_step_seconds']:.2f} ms",
        "mask update": f"{1e3 * times['update_seconds']:.2f} ms",
        "training step": f"{times['training_step_seconds']:.2f} s",
        "added": f"{100 * times['added_share']:.3f} %",
    }


def _piece(x: Any) -> int:
    """Bytes of an array's piece on one device."""
    return shapes.weights({"": x.sharding.shard_shape(x.shape)}) * x.dtype.itemsize


if __name__ == "__main__":
    command_line.start(main)
