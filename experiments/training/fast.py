"""Trains many cells quickly: one program for all that differ in seeds, sparsity and a few other numbers.

A cell is a config and the folder of its run. Its networks are trained from the first step to the last in one call of a
program (:mod:`experiments.training.lane`), and its folder is written when they have ended: the files, records and
checks of :mod:`experiments.training.run`, without checkpoints. A cell that is interrupted is simply run again.
"""

import collections
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dstjax
from experiments.data import Stream
from experiments.training import configuration, hosts, inputs, lane, results, run, sealed
from experiments.training.feeds import EVALUATION_BATCH, InMemory
from experiments.training.learning import Watch
from experiments.training.program import Program
from experiments.training.recording import Metrics
from experiments.training.run import DivergedError
from experiments.training.steps import Lost, Sums
from experiments.training.trainer import Epoch, Trainer
from experiments.training.workdir import Results, claim, look, usable

# Numbers in which the cells of one program may differ; the last only where the config gives it, since MEST refuses it
# with a criterion of one's own.
TRACED = ("coefficient", "drop_fraction", "lambda_")
MOST = 1e11  # weights x samples of a network: minutes on two cores; what takes longer is worth a checkpoint
WORKERS = 2  # calls of a program at a time on a CPU, where one keeps hardly more than one core busy


class Planned(NamedTuple):
    """A cell that is planned."""

    name: str  # in errors
    folder: Path
    config: ConfigDict
    plan: configuration.Plan
    refused: str  # why it takes the ordinary path; '' where it does not
    kind: Hashable  # cells of one kind share a program


def planned(name: str, folder: Path, config: ConfigDict) -> Planned:
    """Plans a cell.

    Raises:
      ValueError: of its config; names the cell.
    """
    try:
        plan = configuration.plan(config)
    except ValueError as error:
        raise ValueError(f"cell {name}: {error}") from error
    refused = refusal(config, plan, folder)
    return Planned(name, folder, config, plan, refused, None if refused else _kind(config, plan))


def refusal(config: ConfigDict, plan: configuration.Plan, folder: Path) -> str:
    """Why a cell takes the ordinary path; '' where it does not."""
    method = plan.method
    if isinstance(plan.data, Stream):
        return "its data are streamed"
    if len(plan.devices) > 1 or hosts.several():
        return "it is spread over devices"
    if "metric" in method.needs:
        return "the host evaluates before its mask updates"
    if method.start.prune_step:
        return "the host prunes in its middle"
    if config.tensorboard:
        return "it writes events as it goes"
    if any((folder / "checkpoints").glob("*")):
        return "it has checkpoints to go on from"
    weights = sum(x.size for x in jax.tree.leaves(_shapes(plan.model, plan.data.x.shape[1:])))
    if weights * plan.steps * config.batch_size > MOST:
        return "it is long enough for checkpoints"
    return ""


def train(cells: Sequence[Planned]) -> Iterator[tuple[int, Results | DivergedError]]:
    """Trains cells that are not refused; yields the place of each and what became of it, those of one kind together.

    Raises:
      ValueError: of a folder; names the cell.
    """
    workers = WORKERS if jax.default_backend() == "cpu" else 1
    left = collections.Counter(cell.kind for cell in cells)
    shared = {kind: _Shared() for kind in left}
    with ThreadPoolExecutor(workers) as pool:
        order = _order([cell.kind for cell in cells], workers)
        waiting = [(place, pool.submit(_train, shared[cells[place].kind], cells[place])) for place in order]
        try:
            for place, future in waiting:
                kind = cells[place].kind
                try:
                    yield place, future.result()
                except (ValueError, OSError) as error:
                    raise ValueError(f"cell {cells[place].name}: {error}") from error
                left[kind] -= 1
                if not left[kind]:
                    shared[kind].program = None  # a process can hold so many
        finally:
            pool.shutdown(cancel_futures=True)


def _order(kinds: Sequence[Hashable], workers: int) -> list[int]:
    """The places of cells in the order in which they are trained: so many kinds side by side, the first of each ahead.

    The first cell of a kind compiles its program, for which others of its kind would wait.
    """
    places: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    groups = list(places.values())
    found: list[int] = []
    for i in range(0, len(groups), workers):
        beside = groups[i : i + workers]
        found += [of[0] for of in beside] + [place for of in beside for place in of[1:]]
    return found


@functools.lru_cache(maxsize=64)
def _shapes(model: Any, sample: tuple[int, ...]) -> Any:
    """The parameters of a network."""
    x = jax.ShapeDtypeStruct((1, *sample), np.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False)["params"], x)


def _traced(config: ConfigDict, plan: configuration.Plan) -> dict[str, float]:
    """The numbers that a program takes as arguments."""
    known = {n: plan.hyperparameters.get(n) for n in TRACED if n != "lambda_" or config.get(n) is not None}
    return {n: float(value) for n, value in known.items() if isinstance(value, float | int)}


def _kind(config: ConfigDict, plan: configuration.Plan) -> Hashable:
    """What cells of one program have in common: all but the numbers that they may differ in.

    The sparsity decides the masks and the targets in the state; two methods that differ in nothing else are equal.
    """
    identity = configuration.without_display(configuration.identity(config))
    rest = {name: value for name, value in identity.items() if name not in (*TRACED, "sparsity", "seeds")}
    traced = _traced(config, plan)
    method = plan.changed(**dict.fromkeys(traced, 0.5))
    if method.masking is not None and method.masking.sparsity is not None:
        method = dataclasses.replace(method, masking=dataclasses.replace(method.masking, sparsity=0.5))
    return sealed.digest(rest), tuple(traced), method, len(plan.seeds), jax.default_backend()


class _Shared:
    """What the cells of a group share: their program, made by the first of them."""

    def __init__(self) -> None:
        self.program: Program | None = None
        self.lock = threading.Lock()

    def call(self, make: Callable[[], Program], *arguments: Any) -> Any:
        """Calls the program."""
        with self.lock:
            if self.program is None:
                self.program = make()
                self.program.prepare(*arguments)
        return self.program(*arguments)


def _train(shared: _Shared, cell: Planned) -> Results | DivergedError:
    """Trains one cell, or finds that it is done already; an error of its numbers is a result."""
    start = time.perf_counter()
    config, folder, plan = cell.config, cell.folder, cell.plan
    identity = configuration.identity(config)
    with usable(folder):
        read = inputs.fingerprints(plan.data, plan.seeds, plan.rules)
        if (known := look(folder, identity, read)) is not None:
            return known
        with claim(folder, identity):
            trainer = run.make_trainer(config, plan, mode="sequential")
            found = jax.tree.map(np.asarray, _call(shared, config, plan, trainer))
            try:
                return _write(cell, trainer, found, read, start)
            except DivergedError as error:
                return error


def _call(shared: _Shared, config: ConfigDict, plan: configuration.Plan, trainer: Trainer) -> lane.Found:
    """What becomes of the networks of a cell; arrays have a leading axis of seeds."""
    method, batches, traced = plan.method, trainer.batches, _traced(config, plan)
    of = lane.pieces(
        plan.steps,
        batches,
        (lambda t: False) if trainer.often else (lambda t: bool(method.is_update_step(t))),
        config.eval_every_epochs,
    )
    sizes = int(of.rewires.sum()), int(of.ends.sum()), int(of.evaluates.sum())
    first = trainer.recipe

    def networks(numbers: dict[str, Any], seeds: lane.Seeds, of: lane.Pieces, places: Any, states: Any) -> lane.Found:
        now = plan.changed(**numbers) if numbers else method
        recipe = first._replace(method=now, tx=plan.wrap(now)(0, None))

        def one(place: Any, state: Any) -> lane.Found:
            return lane.train(recipe, None if trainer.often else False, sizes, seeds, of, place, state)

        if plan.mode == "vmap":
            return jax.vmap(one)(places, states)
        return jax.lax.map(lambda x: one(*x), (places, states))

    # As one program: each leaf for itself would be compiled for itself.
    states = jax.jit(lambda *states: jax.tree.map(lambda *x: jnp.stack(x), *states))(*trainer.states)
    numbers = {name: jnp.float32(value) for name, value in traced.items()}
    return shared.call(
        lambda: Program(networks), numbers, _seeds(trainer, sizes[1]), of, np.arange(len(plan.seeds)), states
    )


def _seeds(trainer: Trainer, epochs: int) -> lane.Seeds:
    """The data of all networks of a cell."""
    feed, numbers = trainer.feed, range(len(trainer.seeds))
    assert isinstance(feed, InMemory)  # or the cell is refused
    parts = [(split.validation, split.test) for split in feed.splits]
    stops = [-(-len(part) // EVALUATION_BATCH) for part in parts[0]]
    padded = max(stops), EVALUATION_BATCH
    return lane.Seeds(
        x=feed.sources[0].x,
        y=feed.sources[0].y,
        mean=np.stack([split.mean for split in feed.splits]),
        key=np.array(trainer.seeds, np.uint32),
        order=np.stack([[feed.order(i, epoch) for epoch in range(epochs)] for i in numbers]),
        rows=np.stack([[np.resize(part, padded) for part in of] for of in parts]),
        stops=np.array(stops, np.int32),
    )


def _epochs(plan: configuration.Plan, trainer: Trainer, found: lane.Found) -> Iterator[tuple[int, int, Epoch]]:
    """Number, last step and events of each epoch, as :meth:`Trainer.epoch` tells them."""
    updates = 0
    for number in range(found.sums.loss.shape[1]):
        first = number * trainer.batches
        batches = min(trainer.batches, plan.steps - first)
        due = [t for t in range(first + 1, first + batches + 1) if plan.method.is_update_step(t)]
        seen = [] if trainer.often else due
        after = [(t, {n: v[:, updates + i] for n, v in found.updates.items()}) for i, t in enumerate(seen)]
        updates += len(seen)
        lost = Lost(*(x[:, number] for x in found.sums.lost))
        yield (
            number,
            first + batches,
            Epoch(
                loss=Sums(found.sums.loss[:, number], None, lost).mean_loss(batches),
                accuracy=found.sums.correct[:, number].astype(np.float64) / (batches * trainer.batch_size),
                topology={n: v[:, number] for n, v in found.epochs.items()},
                mask_updates=after,
                updates=len(due),
                lost=lost,
            ),
        )


def _write(cell: Planned, trainer: Trainer, found: lane.Found, read: inputs.Inputs, start: float) -> Results:
    """Checks what was found as :mod:`experiments.training.run` does, and writes the folder.

    Raises:
      DivergedError: a loss or a gradient is not finite.
    """
    config, folder, plan, batches = cell.config, cell.folder, cell.plan, trainer.batches
    table = dstjax.summary(trainer.network(0).params, trainer.network(0).opt_state)
    epochs = list(_epochs(plan, trainer, found))
    first = 1
    for _, last, epoch in epochs:
        run.check_gradients(epoch, config.on_nonfinite, plan.seeds, trainer.leaves())
        run.check(epoch, first, last, plan.seeds, table, plan.method.promises, ended=last == plan.steps)
        first = last + 1
    split = trainer.feed.splits[0]  # type: ignore[attr-defined]
    number = found.evaluations[0].shape[1]
    sizes = [len(split.validation)] * (number - 1) + [len(split.test)]
    losses, right = found.evaluations
    *validation, test = [_means(losses[:, i], right[:, i], size) for i, size in enumerate(sizes)]
    watch = Watch(trainer)
    if table.masked:
        watch.look(0)
        if any(epoch.updates for _, _, epoch in epochs):
            watch.look(plan.steps, [{n: m[i] for n, m in found.masks.items()} for i in range(len(plan.seeds))])
    metrics, updates, evaluations = Metrics(folder, 0, "", 0, False, plan.seeds), 0, iter(validation)
    try:
        for number, last, epoch in epochs:
            watch.growth(epoch, [row.path for row in table.masked])
            results.record_epoch(metrics, epoch, last, batches, updates, plan, table)
            updates += epoch.updates
            if last == plan.steps or (number + 1) % config.eval_every_epochs == 0:
                results.record_evaluation(metrics, "validation", last, batches, next(evaluations))
        results.record_evaluation(metrics, "test", plan.steps, batches, test)
        metrics.size()
        measured = results.FinalState(epochs[-1][2].topology, test, validation[-1])
        summary = results.summarise(config, plan, measured, batches, table, updates, folder / "metrics.jsonl")
        summary["seconds"] = round(time.perf_counter() - start, 3)
        return run.finish(summary, folder, configuration.identity(config), read, metrics, table, found.pictures)
    finally:
        metrics.close()


def _means(losses: np.ndarray, right: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and accuracy of each network on the first ``size`` samples, float64[seeds]."""
    flat = [x.reshape(len(x), -1)[:, :size] for x in (losses, right)]
    return flat[0].mean(axis=1, dtype=np.float64), flat[1].mean(axis=1, dtype=np.float64)
