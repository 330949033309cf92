"""The mask update of a whole network, against a dense optimiser step and, where it is at hand, jaxpruner."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import records, shapes
from experiments.benchmarks.contenders import OPTIMISERS, SPARSITY, Arena, jaxpruner, method, moved
from experiments.benchmarks.machine import available_memory
from experiments.benchmarks.timing import Settings, exponent, spread

METHODS = ("rigl", "dst_ee")
RESERVE = 0.85  # of the available memory that may be used
TEMPORARY = 14  # bytes a weight that a mask update needs besides its arguments, with a margin


def run(settings: Settings) -> Iterator[records.Row]:
    for tree in settings.pick(("conv", "resnet50", "vit_b16", "gpt_1.3b"), ("tiny",)):
        with jax.default_device(settings.device):
            yield from _tree(settings, tree)
    with jax.default_device(settings.device):
        yield from _growth(settings)
        yield from _stack(settings)


def _tree(settings: Settings, tree: str) -> Iterator[records.Row]:
    chosen = _fitting(tree)
    case: dict[str, Any] = {"tree": tree, "sparsity": SPARSITY, "optimiser": "sgd"}
    if isinstance(chosen, str):
        yield records.skipped("update", case, chosen)
        return
    of_tree, dtype, shortened = chosen
    case |= {"weights": shapes.weights(of_tree), "dtype": jnp.dtype(dtype).name}
    if shortened:
        case["shortened"] = shortened
    arena = Arena(shapes.arrays(of_tree, 0, dtype), shapes.arrays(of_tree, 1, dtype), OPTIMISERS["sgd"]())
    runs = {"dense step": arena.dense()} | {
        name: arena.sparse(method(name), True) for name in settings.pick(METHODS, METHODS[:1])
    }
    other = jaxpruner() if tree in ("conv", "resnet50") and settings.device.platform == "cpu" else None
    if other is not None and all(len(shape) > 1 for shape in of_tree.values()):  # it fails where a leaf has no mask
        runs["jaxpruner rigl"] = arena.jaxpruner_update(other)
    big = case["weights"] > 3e8
    times = settings.race(runs, rounds=settings.pick(5 if big or other else 11, 2), warmup=1 if big else 2)
    for name in times:
        bytes_moved = moved(case["weights"], jnp.dtype(dtype).itemsize, "sgd", 1 if name == "dense step" else 2)
        yield records.timed(settings, "update", case, times, name, "dense step", moved=bytes_moved)
        if "jaxpruner rigl" in times and name in METHODS:
            yield records.timed(settings, "update", case, times, name, "jaxpruner rigl")


def _fitting(tree: str) -> tuple[shapes.Shapes, Any, str] | str:
    """The tree in float32, else in bfloat16, else with fewer layers: what fits the memory; or why nothing does."""
    room = available_memory()
    whole = shapes.TREES[tree]()
    for dtype in (jnp.float32, jnp.bfloat16):
        if room is None or _need(whole, dtype) < RESERVE * room:
            return whole, dtype, ""
    assert room is not None
    for layers in range(shapes.LAYERS.get(tree, 1) - 1, 0, -1):
        part = shapes.TREES[tree](layers)
        if _need(part, jnp.bfloat16) < RESERVE * room:
            return part, jnp.bfloat16, f"{layers} of {shapes.LAYERS[tree]} layers"
    return f"it needs {_need(whole, jnp.bfloat16) / 2**30:.1f} GiB and {room / 2**30:.1f} GiB are available"


def _need(of_tree: shapes.Shapes, dtype: Any) -> float:
    """Bytes of parameters, gradients, moments, two sparse states and the temporaries of an update."""
    return shapes.weights(of_tree) * (3 * jnp.dtype(dtype).itemsize + 2 * 1.3 + TEMPORARY)


def _stack(settings: Settings) -> Iterator[records.Row]:
    """Layers that are scanned over, a count for each, against one leaf of their size with one count."""
    layers, width = settings.pick((48, 512), (3, 16))
    leaves: dict[str, tuple[shapes.Shapes, str]] = {
        "one leaf": ({"weight": (layers * width, width)}, "in out"),
        "stack": ({"weight": (layers, width, width)}, "stack in out"),
    }
    for name in settings.pick(METHODS, METHODS[:1]):
        runs = {}
        for kind, (of_tree, layout) in leaves.items():
            arena = Arena(shapes.arrays(of_tree, 0), shapes.arrays(of_tree, 1), OPTIMISERS["sgd"]())
            runs[kind] = arena.sparse(method(name), True, layout={"weight": layout})
        times = settings.race(runs, rounds=settings.pick(41, 2))
        case = {"tree": "stack", "method": name, "layers": layers, "weights": layers * width * width}
        yield records.timed(settings, "update", case, times, "stack", "one leaf")


def _growth(settings: Settings) -> Iterator[records.Row]:
    """How the time of an update grows with the network."""
    medians = {}
    for size in settings.pick((10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8), (10**3, 10**4)):
        of_tree: shapes.Shapes = {"weight": (size // 1000, 1000)} if size >= 10**6 else {"weight": (size // 10, 10)}
        if (room := available_memory()) is not None and _need(of_tree, jnp.float32) > RESERVE * room:
            yield records.skipped("update", {"weights": size}, f"{room / 2**30:.1f} GiB available")
            continue
        arena = Arena(shapes.arrays(of_tree, 0), shapes.arrays(of_tree, 1), optax.sgd(1e-4, momentum=0.9))
        runs = {"dense step": arena.dense(), "rigl": arena.sparse(method("rigl"), True)}
        times = settings.race(runs, rounds=settings.pick(7, 2), least=settings.pick(0.05, 0.0))
        case = {"tree": "one matrix", "weights": size, "dtype": "float32", "optimiser": "sgd"}
        yield records.timed(settings, "update", case, times, "rigl", "dense step", moved=moved(size, 4, "sgd", 2))
        medians[size] = spread(times["rigl"])["median"]
    fitted = exponent(list(medians), list(medians.values()))
    case = {"tree": "one matrix", "weights": f"{min(medians):.0e} to {max(medians):.0e}"}
    yield records.value("update", case, exponent=fitted)
