"""The step between mask updates, against the same optimiser without a mask, alone and in a whole training step."""

from collections.abc import Iterator
from typing import Any

import jax

from experiments.benchmarks import records, shapes
from experiments.benchmarks.contenders import OPTIMISERS, SPARSITY, Arena, jaxpruner, method, moved
from experiments.benchmarks.timing import Run, Settings

METHODS = ("rigl", "dst_ee")
REWIRE = {"host decides": False, "branch inside": None}  # in a whole training step


def run(settings: Settings) -> Iterator[records.Row]:
    with jax.default_device(settings.device):
        for optimiser in settings.pick(list(OPTIMISERS), ["sgd"]):
            yield from _optimiser_step(settings, settings.pick("resnet50", "tiny"), optimiser)
        yield from _training_step(settings)


def _optimiser_step(settings: Settings, tree: str, optimiser: str) -> Iterator[records.Row]:
    of_tree = shapes.TREES[tree]()
    arena = Arena(shapes.arrays(of_tree, 0), shapes.arrays(of_tree, 1), OPTIMISERS[optimiser]())
    runs: dict[str, Run] = {"dense": arena.dense(), "dense again": arena.dense()}  # the second shows the noise
    for name in settings.pick(METHODS, METHODS[:1]):
        runs[f"{name}, host decides"] = arena.plain(method(name))
        runs[f"{name}, host decides, state whole"] = arena.sparse(method(name), False)
        runs[f"{name}, branch inside"] = arena.sparse(method(name), None)
    times = settings.race(runs, rounds=settings.pick(301, 3), warmup=3)
    size = shapes.weights(of_tree)
    case = {"tree": tree, "weights": size, "optimiser": optimiser, "sparsity": SPARSITY, "donated": True}
    for name in times:
        bytes_moved = moved(size, 4, optimiser, 0 if name == "dense" else 1)
        yield records.timed(settings, "step", case, times, name, "dense", moved=bytes_moved)
    other = jaxpruner() if tree == "resnet50" and settings.device.platform == "cpu" else None
    if other is not None:  # a race of its own, since what it leaves behind in memory slows the next one down
        theirs = {"jaxpruner rigl": arena.jaxpruner_step(other), "dense": runs["dense"]}
        times = settings.race(theirs, rounds=11, warmup=3)
        yield records.timed(settings, "step", case, times, "jaxpruner rigl", "dense")


def _training_step(settings: Settings) -> Iterator[records.Row]:
    """Forward, backward and optimiser of a convolutional network."""
    batch = settings.pick(64, 2)
    of_tree = shapes.conv() if not settings.quick else shapes.conv((8, 8))
    images = jax.random.normal(jax.random.key(2), (batch, 32, 32, 3))
    labels = jax.random.randint(jax.random.key(3), (batch,), 0, 10)

    def gradient(params: Any) -> Any:
        return jax.grad(shapes.conv_loss)(params, images, labels)

    arena = Arena(shapes.arrays(of_tree, 0), gradient, OPTIMISERS["sgd"]())
    runs = {"dense": arena.dense()}
    runs |= {f"rigl, {how}": arena.sparse(method("rigl"), rewire) for how, rewire in REWIRE.items()}
    times = settings.race(runs, rounds=settings.pick(41, 3), warmup=3)
    case = {"tree": "conv", "weights": shapes.weights(of_tree), "optimiser": "sgd", "batch": batch, "training": True}
    for name in times:
        yield records.timed(settings, "step", case, times, name, "dense")
