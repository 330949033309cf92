"""One run: trains, goes on where it was interrupted, or finds that all is done already."""

import contextlib
import fcntl
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

import dstjax
from experiments.tasks import mutual
from experiments.training import configuration, hosts, results
from experiments.training.checkpoint import Checkpoints
from experiments.training.finished import read_json
from experiments.training.recording import Metrics, NoMetrics, Progress, to_json, write_atomically
from experiments.training.trainer import Epoch, Trainer

Results = dict[str, Any]  # what summary.json holds


class Done(NamedTuple):
    """How far a run has come when a checkpoint is saved, beside the state of the networks."""

    step: int
    seconds: float
    metrics_bytes: int
    mask_updates: int


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


def train_and_evaluate(
    config: ConfigDict, workdir: str | Path, *, defaults: ConfigDict | None = None, quiet: bool = False
) -> Results:
    """Trains, or goes on training, or finds that all is done already.

    Args:
      config: as ``experiments/configs/digits.py`` makes it.
      workdir: directory of this run alone; made if it is not there.
      defaults: the config before it was changed for this run. Hyper-parameters that the method does not have are left
        aside where they equal these, and are an error otherwise; without ``defaults`` nothing counts as changed.
      quiet: print nothing.

    Returns:
      What summary.json holds.

    Raises:
      ValueError: of the config, or of a workdir that is not this run's or has no whole checkpoint left.
      DivergedError: the loss is no longer finite.
    """
    start = time.perf_counter()
    workdir = Path(workdir)
    identity = configuration.identity(config)
    quiet = quiet or not hosts.is_first()
    plan = hosts.together(lambda: plan_of_all(config, defaults))
    finished = hosts.from_first(lambda: look(workdir, identity))
    if finished is not None:
        if not quiet:
            print(f"{workdir}: this run is finished; nothing to do.")
        return finished
    trainer = make_trainer(config, plan)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hosts.together(lambda: claim(workdir, identity)))
        table = dstjax.summary(trainer.network(0).params, trainer.network(0).opt_state)
        if not quiet:
            print(
                f"{config.method}, {len(plan.seeds)} seed(s), {plan.mode}; {plan.data.provenance}\n{table}", flush=True
            )
        initial = trainer.pictures() if table.masked else {}
        run = configuration.without_display(identity)
        checkpoints = hosts.together(lambda: Checkpoints(workdir / "checkpoints", run))
        stack.callback(checkpoints.close)
        done = resume(trainer, checkpoints, workdir, quiet)
        metrics = hosts.together(lambda: records(workdir, done, config.tensorboard, plan.seeds))
        stack.callback(metrics.close)
        progress = Progress(plan.steps, done.step, config.log_every_epochs, quiet)
        stack.callback(progress.close)
        step, updates = done.step, done.mask_updates
        while step < plan.steps:
            number, first = step // trainer.batches, step + 1
            epoch = trainer.epoch(number, min(trainer.batches, plan.steps - step))
            step = min(step + trainer.batches, plan.steps)
            check(epoch, first, step, plan.seeds, table, plan.method.promises, ended=step == plan.steps)
            results.record_epoch(metrics, epoch, step, trainer.batches, updates, plan, table)
            updates += epoch.updates
            progress.update(step, epoch.loss, epoch.accuracy, epoch.topology["exploration_rate"])
            last = step == plan.steps
            if last or (number + 1) % config.eval_every_epochs == 0:
                results.record_evaluation(metrics, trainer, "validation", step)
            if last or (number + 1) % config.checkpoint_every_epochs == 0:
                seconds = done.seconds + time.perf_counter() - start
                checkpoints.save(step, trainer.state(), Done(step, seconds, metrics.size(), updates)._asdict())
        results.record_evaluation(metrics, trainer, "test", step)
        hosts.together(checkpoints.wait)
        measured = results.measure(trainer)
        final = trainer.pictures() if initial else {}

        def finish() -> Results:
            summary = results.summarise(
                config, plan, measured, trainer.batches, table, updates, workdir / "metrics.jsonl"
            )
            summary["seconds"] = round(done.seconds + time.perf_counter() - start, 3)
            if initial:
                results.save_pictures(workdir / "masks.npz", table.masked[0].path, initial, final)
            write_atomically(workdir / "summary.json", to_json(summary, indent=1).encode() + b"\n")
            return summary

        return hosts.from_first(finish)


def make_trainer(config: ConfigDict, plan: configuration.Plan, **others: Any) -> Trainer:
    """What trains the networks of a plan; ``others`` are arguments of :class:`Trainer`, in place of the plan's too."""
    planned = dict(data=plan.data, mode=plan.mode, devices=plan.devices, warm_up=round(mutual.WARM_UP * plan.steps))
    named = {name: config[name] for name in ("batch_size", "shard_params", "label_smoothing", "accumulate")}
    return Trainer(plan.model, plan.make_tx, plan.method, seeds=plan.seeds, **{**planned, **named, **others})


def plan_of_all(config: ConfigDict, defaults: ConfigDict | None) -> configuration.Plan:
    """The plan of a run, the same on all of its processes.

    Raises:
      ValueError: of the config, or the processes were started with different ones or with devices left out.
    """
    identity = configuration.identity(config)
    different = configuration.differences(identity, hosts.from_first(lambda: identity))
    if hosts.several() and different:  # one process differs from itself where a number is not one
        raise ValueError(f"this process and process 0 differ in {', '.join(different)}; give all the same command.")
    plan = configuration.plan(config, defaults)
    hosts.check_devices(plan.devices)
    return plan


def records(workdir: Path, done: Done, tensorboard: bool, seeds: Sequence[int]) -> Metrics | NoMetrics:
    """Where the records of this process go from the last checkpoint on.

    Raises:
      ValueError: there are fewer than the checkpoint has seen.
    """
    if not hosts.is_first():
        return NoMetrics()
    return Metrics(workdir, done.metrics_bytes, done.step, tensorboard, seeds)


def resume(trainer: Trainer, checkpoints: Checkpoints, workdir: Path, quiet: bool) -> Done:
    """Puts the trainer where the newest whole checkpoint left it, and says so.

    Raises:
      ValueError: there are checkpoints, and none is whole.
    """
    restored = checkpoints.restore(trainer.state())
    if restored is None:
        if not quiet and (workdir / "metrics.jsonl").exists():
            print(f"{workdir}: interrupted before its first checkpoint; starting from step 0.")
        return Done(0, 0.0, 0, 0)
    step, state, record, damaged = restored
    for line in damaged if hosts.is_first() else []:  # even when quiet: it is not what the caller thinks it is
        print(f"{line}; going on from {checkpoints.directory / str(step)}.", file=sys.stderr)
    if not quiet:
        print(f"{workdir}: going on from the checkpoint at step {step}.")
    trainer.set_state(state)
    return Done(**record)


def look(workdir: Path, identity: dict[str, Any]) -> Results | None:
    """Finds out what a workdir holds: the summary if it is this run and finished, None if it is this run or nothing.

    Raises:
      ValueError: it holds something else.
    """
    if not (workdir / "config.json").exists():
        if any((workdir / name).exists() for name in ("metrics.jsonl", "summary.json", "checkpoints")):
            raise ValueError(f"workdir {workdir} holds a run without its config.json; give another directory.")
        return None
    different = configuration.differences(identity, read_json(workdir / "config.json"))
    if different:
        raise ValueError(f"workdir {workdir} holds another run; it differs in {', '.join(different)}.")
    path = workdir / "summary.json"
    return read_json(path) if path.exists() else None


def claim(workdir: Path, identity: dict[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """Makes the workdir this run's, and this process's for as long as the file that is returned stays open.

    Of several processes the first one does so for all; its host alone has to see the workdir.

    Raises:
      ValueError: it cannot be made or written to, or another process trains in it.
    """
    if not hosts.is_first():
        return contextlib.nullcontext()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():
            write_atomically(workdir / "config.json", json.dumps(identity, indent=1).encode() + b"\n")
        lock = (workdir / "config.json").open()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system frees it however the process ends
        except BlockingIOError:
            lock.close()
            raise ValueError(f"workdir {workdir} is in use by another process.") from None
        return lock
    except OSError as error:
        raise ValueError(f"workdir {workdir} is not usable: {error.strerror}.") from error


def check(
    epoch: Epoch, first: int, last: int, seeds: Sequence[int], table: dstjax.Summary, counts: str, *, ended: bool
) -> None:
    """Stops where the loss is not finite, or where there are not as many active weights as the method promises.

    Raises:
      DivergedError: of the loss.
      RuntimeError: of the weights, which is a bug.
    """
    lost = [seed for seed, loss in zip(seeds, epoch.loss, strict=True) if not np.isfinite(loss)]
    if lost:
        raise DivergedError(f"the loss is not finite for seed(s) {lost} between step {first} and step {last}.")
    requested = np.array([row.requested for row in table.masked])
    for step, topology in [*epoch.mask_updates, (last, epoch.topology)]:
        active = topology["active"]
        wrong = (
            (counts == "kept" and (active != requested).any())
            or (counts == "reached" and ended and step == last and (active != requested).any())
            or (counts == "total" and ended and step == last and (active.sum(axis=1) != requested.sum()).any())
        )
        if wrong or topology["strays"].any():
            raise RuntimeError(
                f"step {step}: active weights {active.tolist()}, requested {requested.tolist()}; inactive weights "
                f"that are not zero: {topology['strays'].tolist()}."
            )
