"""Many runs in one program: a training step under ``vmap`` over seeds, in a scan, against the dense step alike."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import dstjax
from experiments.benchmarks import contenders, hlo, records
from experiments.benchmarks.timing import Run, Settings, in_place

SIZES = (784, 300, 100, 10)
BATCH = 128


def run(settings: Settings) -> Iterator[records.Row]:
    sizes = settings.pick(SIZES, (16, 8, 4))
    steps = settings.pick(20, 3)
    with jax.default_device(settings.device):
        images = jax.random.normal(jax.random.key(1), (settings.pick(BATCH, 4), sizes[0]))
        labels = jax.random.randint(jax.random.key(2), images.shape[:1], 0, sizes[-1])
        for seeds in settings.pick((1, 4, 16), (2,)):
            yield from _population(settings, seeds, steps, sizes, images, labels)


def _population(
    settings: Settings, seeds: int, steps: int, sizes: tuple[int, ...], images: jax.Array, labels: jax.Array
) -> Iterator[records.Row]:
    inner = contenders.OPTIMISERS["sgd"]()
    case = {"seeds": seeds, "network": "-".join(map(str, sizes)), "steps": steps, "optimiser": "sgd"}
    runs: dict[str, Run] = {}
    programs = {}
    methods = settings.pick(("rigl", "dst_ee"), ("rigl",))
    for name in ("dense", *methods):

        def init(seed: Any, name: str = name) -> tuple[Any, Any]:
            params = _params(jax.random.key(seed), sizes)
            if name == "dense":
                return params, inner.init(params)
            state = dstjax.sparsify(inner, contenders.method(name), seed=seed).init(params)
            return dstjax.apply_masks(params, state), state

        tx: Any = inner if name == "dense" else dstjax.sparsify(inner, contenders.method(name))
        axes: Any = 0 if name == "dense" else dstjax.vmap_axes(jax.eval_shape(init, 0))
        population = jax.jit(jax.vmap(init, out_axes=axes))(jnp.arange(seeds))
        loop = _loop(tx, axes, steps)
        programs[name] = loop, population
        runs[name] = in_place(loop, population, images, labels)
    for name in methods:
        loop, population = programs[name]
        text = jax.jit(loop).lower(jax.eval_shape(lambda x: x, population), images, labels).compile().as_text() or ""
        yield records.value("seeds", {**case, "contender": name}, conditionals=hlo.branches(text))
    times = settings.race(runs, rounds=settings.pick(15, 2))
    for name in times:
        yield records.timed(settings, "seeds", case, times, name, "dense")


def _loop(tx: Any, axes: Any, steps: int) -> Callable[..., Any]:
    def step(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(_loss)(params, images, labels)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    of_population = (0, 0) if axes == 0 else axes
    many: Callable[..., Any] = jax.vmap(step, in_axes=(*of_population, None, None), out_axes=of_population)

    def loop(population: Any, images: jax.Array, labels: jax.Array) -> Any:
        return jax.lax.scan(lambda c, _: (many(*c, images, labels), None), population, None, length=steps)[0]

    return loop


def _params(key: jax.Array, sizes: tuple[int, ...]) -> dict[str, jax.Array]:
    params = {}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        params[f"w{i}"] = jax.random.normal(jax.random.fold_in(key, i), (a, b)) * (2 / a) ** 0.5
        params[f"b{i}"] = jnp.zeros(b)
    return params


def _loss(params: dict[str, jax.Array], x: jax.Array, labels: jax.Array) -> jax.Array:
    layers = len(params) // 2
    for i in range(layers):
        x = x @ params[f"w{i}"] + params[f"b{i}"][None]
        x = jax.nn.relu(x) if i < layers - 1 else x
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], axis=1))
