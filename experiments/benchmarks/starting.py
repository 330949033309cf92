"""How long a training takes to start: the program of ``init``, and all that passes before the first step has ended."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import dstjax
from experiments.benchmarks import contenders, records, shapes
from experiments.benchmarks.compilation import uncached
from experiments.benchmarks.timing import Settings, spread

TREES = {"resnet50": ("sgd", ("rigl", "dst_ee")), "1,000 leaves": ("adamw", ("rigl",))}  # optimiser and methods


def run(settings: Settings) -> Iterator[records.Row]:
    """For each method, and without one: ``init``, the step between updates, the update, and the first step of all."""
    with jax.default_device(settings.device), uncached():
        for tree, (optimiser, methods) in settings.pick(TREES, {"tiny": ("sgd", ("rigl",))}).items():
            of_tree = shapes.TREES[tree]()
            inner = contenders.OPTIMISERS[optimiser]()
            case = {"tree": tree, "masked leaves": sum(len(s) > 1 for s in of_tree.values()), "optimiser": optimiser}
            times = settings.pick(3 if tree == "resnet50" else 1, 1)
            dense = _compiled(inner, of_tree, {}, times)
            dense["first_step_seconds"] = _first_step(inner, of_tree, times)
            yield records.value("start", case | {"method": "dense"}, **dense, load=records.load())
            for name in methods:
                tx = dstjax.sparsify(inner, contenders.method(name))
                found = _compiled(tx, of_tree, {"rewire": False}, times)
                found["update_seconds"] = _compiled(tx, of_tree, {"rewire": True}, times)["step_seconds"]
                found["first_step_seconds"] = _first_step(tx, of_tree, times)
                found["init_to_update"] = found["init_seconds"] / found["update_seconds"]
                found["step_to_dense"] = found["step_seconds"] / dense["step_seconds"]
                found["update_to_dense"] = found["update_seconds"] / dense["step_seconds"]
                yield records.value("start", case | {"method": name}, **found, load=records.load())


def _compiled(tx: Any, of_tree: shapes.Shapes, options: dict[str, Any], times: int) -> dict[str, float]:
    """Seconds to trace and compile ``init``, and a step."""
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in of_tree.items()}
    state = jax.eval_shape(tx.init, params)
    return {
        "init_seconds": _median(lambda: jax.jit(tx.init).lower(params).compile(), times),
        "step_seconds": _median(
            lambda: contenders.jitted_step(tx, options).lower(params, state, params).compile(), times
        ),
    }


def _first_step(tx: Any, of_tree: shapes.Shapes, times: int) -> float:
    """Seconds until the first step has ended, with the branch inside, as a user calls it: ``init`` is not compiled."""
    params, grads = shapes.arrays(of_tree, 0), shapes.arrays(of_tree, 1)

    def first() -> Any:
        state = tx.init(params)
        begin = jax.tree.map(jnp.array, params)
        return jax.block_until_ready(contenders.jitted_step(tx, {})(begin, state, grads))

    return _median(first, times)


def _median(call: Callable[[], Any], times: int) -> float:
    """The median over calls, before each of which all that was compiled is forgotten."""
    found = []
    for _ in range(times):
        jax.clear_caches()
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return spread(found)["median"]
