"""How long tracing and compiling take, and what is held: temporaries of the program, bytes of sparse state."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from experiments.benchmarks import contenders, records, shapes
from experiments.benchmarks.timing import Settings, spread

METHODS = ("rigl", "dst_ee")
PROGRAMS = {"mask update": True, "step, host decides": False, "step, branch inside": None}


def run(settings: Settings) -> Iterator[records.Row]:
    with jax.default_device(settings.device), uncached():
        for tree in settings.pick(("resnet50", "vit_b16", "gpt_1.3b"), ("tiny",)):
            yield from _compile(settings, tree)
        yield from _state(settings.pick("resnet50", "tiny"))


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Nothing is read from or written to the compilation cache on disk."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _compile(settings: Settings, tree: str) -> Iterator[records.Row]:
    of_tree = shapes.TREES[tree]()
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in of_tree.items()}
    masked = sum(shapes.maskable(name, leaf) for name, leaf in params.items())
    inner = contenders.OPTIMISERS["sgd"]()
    programs: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {("dense", "step"): (inner, {})}
    for name in settings.pick(METHODS, METHODS[:1]):
        tx = dstjax.sparsify(inner, contenders.method(name))
        programs |= {(name, label): (tx, {"rewire": rewire}) for label, rewire in PROGRAMS.items()}
    for (name, label), (tx, options) in programs.items():
        state = jax.eval_shape(tx.init, params)
        traced, compiled, temporary = [], [], 0
        for _ in range(settings.pick(3 if tree == "resnet50" else 1, 1)):
            jax.clear_caches()
            step = contenders.jitted_step(tx, options)
            start = time.perf_counter()
            lowered = step.lower(params, state, params)
            middle = time.perf_counter()
            program = lowered.compile()
            traced.append(middle - start)
            compiled.append(time.perf_counter() - middle)
            memory = program.memory_analysis()
            temporary = memory.temp_size_in_bytes if memory is not None else 0
        both = np.add(traced, compiled).tolist()
        yield records.value(
            "compile",
            {"tree": tree, "masked leaves": masked, "method": name, "program": label},
            trace_seconds=spread(traced)["median"],
            compile_seconds=spread(compiled)["median"],
            seconds=spread(both)["median"],
            temporary_bytes_per_weight=temporary / shapes.weights(of_tree),
            load=records.load(),
        )


def _state(tree: str) -> Iterator[records.Row]:
    """Masks, counters and what else a method keeps, moments left out; the first schedule is RigL's on ImageNet."""
    params = shapes.arrays(shapes.TREES[tree](), 0)
    for name in METHODS:
        for period, end in ((100, 25_000), (100, 100_000)):
            method = contenders.method(name, update_period=period, end_step=end)
            summary = dstjax.summary(params, dstjax.sparsify(optax.sgd(0.1), method).init(params))
            weights = sum(row.size for row in summary.masked)
            case = {"tree": tree, "method": name, "mask updates": end // period - 1}
            yield records.value("state", case, bytes_per_weight=summary.state_bytes / weights)
