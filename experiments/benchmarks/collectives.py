"""What the devices of a mesh say to each other in a mask update: counted in the compiled program, not run.

With 8 devices the updates are run too, and the masks compared bit by bit with those of one device.

    python -m experiments.benchmarks.collectives --devices 8   (on that many virtual devices; see virtual.py)
"""

import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

import dstjax
from experiments import command_line
from experiments.benchmarks import contenders, hlo, layouts, records, shapes, virtual
from experiments.benchmarks.timing import Settings

TREE: shapes.Shapes = {"conv": (3, 3, 256, 512), "down": (2048, 1024), "up": (1024, 2048), "bias": (2048,)}
SMALL: shapes.Shapes = {"conv": (3, 3, 32, 64), "up": (64, 128), "bias": (128,)}
RUN_ON = 8
METHODS = ("rigl", "dst_ee")


def run(settings: Settings) -> Iterator[records.Row]:
    for devices in settings.pick((8, 16, 64, 256), (RUN_ON,)):
        yield from virtual.run(__name__, devices, *(["--quick"] if settings.quick else []))


def main() -> None:
    parser = command_line.parser("benchmarks.collectives", __doc__)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--quick", action="store_true", help="two layouts of small tensors")
    given = parser.parse_args()
    cells = [(kind, layout) for kind in layouts.MESHES for layout in layouts.LAYOUTS]
    for kind, layout in [("explicit", "row"), ("auto", "2-d")] if given.quick else cells:
        for method in METHODS[: 1 if given.quick else 2]:
            print(json.dumps(_cell(given.devices, kind, layout, method, SMALL if given.quick else TREE)), flush=True)


def _cell(devices: int, kind: str, layout: str, name: str, of_tree: shapes.Shapes) -> records.Row:
    mesh = layouts.mesh(devices, kind)
    tx = dstjax.sparsify(contenders.OPTIMISERS["sgd"](), contenders.method(name, update_period=100, end_step=25_000))
    params = layouts.placed(mesh, {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in of_tree.items()}, layout)
    with jax.set_mesh(mesh):
        step = contenders.jitted_step(tx, {"rewire": True})
        program = step.lower(params, layouts.state_like(tx, params), params).compile()
        found = hlo.collectives(program.as_text())
    masked = [s for n, s in of_tree.items() if len(s) > 1]
    bits = min(int(np.prod(shape)) // 8 for shape in masked)
    values: dict[str, Any] = found.values() | {
        "bytes_per_leaf": found.bytes / len(masked),
        "smallest_mask_bytes": bits,
        "moves_a_tensor": found.largest >= bits,
    }
    if devices == RUN_ON:
        values["masks_equal_one_device"] = _equal(mesh, layout, tx, of_tree)
    return records.value("collectives", {"devices": devices, "mesh": kind, "layout": layout, "method": name}, **values)


def _equal(mesh: jax.sharding.Mesh, layout: str, tx: Any, of_tree: shapes.Shapes) -> bool:
    """Whether three mask updates give the same masks on the mesh as on one device."""
    params, grads = ({n: np.asarray(x) for n, x in shapes.arrays(of_tree, seed).items()} for seed in (0, 1))
    alone = _masks(tx, *(jax.tree_util.tree_map(jnp.asarray, t) for t in (params, grads)))

    def put(tree: dict[str, np.ndarray]) -> Any:
        return {n: jax.device_put(x, NamedSharding(mesh, layouts.spec(layout, x.ndim))) for n, x in tree.items()}

    with jax.set_mesh(mesh):
        together = _masks(tx, put(params), put(grads))
    return all(bool((a == b).all()) for a, b in zip(alone, together, strict=True))


def _masks(tx: Any, params: Any, grads: Any) -> list[np.ndarray]:
    update = jax.jit(tx.update, static_argnames="rewire")
    state = jax.block_until_ready(tx.init(params))
    params = dstjax.apply_masks(params, state)
    for step in range(1, 4):
        scaled = jax.block_until_ready(jax.tree_util.tree_map(lambda g, step=step: jnp.sin(g * 20 * step), grads))
        updates, state = jax.block_until_ready(update(scaled, state, params, rewire=True))
        params = jax.block_until_ready(jax.tree_util.tree_map(jnp.add, params, updates))
    return [np.asarray(m) for m in jax.tree_util.tree_leaves(dstjax.get_masks(state))]


if __name__ == "__main__":
    main()
