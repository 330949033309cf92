"""Trains networks by a method of dynamic sparse training.

    python -m experiments.train --config experiments/configs/digits.py --workdir DIR \
      [--config.method=dst_ee --config.sparsity=0.95 --config.seeds=5 ...]

An interrupted run goes on where its last checkpoint was when the same command is given again. ``DIR`` holds in the end
config.json, metrics.jsonl, summary.json, masks.npz (the first masked layer) and checkpoints/. A growth rule of your own
is a function of one leaf in a file in the current directory: ``--config.grow=module:function``.

Exit status: 0; 1 where the loss is no longer finite; 2 for anything wrong with the arguments, the config or DIR.
"""

import contextlib
import fcntl
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

import dstjax
from experiments import command_line, configuration, results
from experiments.checkpoint import Checkpoints
from experiments.recording import Metrics, Progress, to_json, write_atomically
from experiments.training import Epoch, Trainer

Summary = dict[str, Any]
WARM_UP = 70 / 300  # the share of training before the two networks of DCIL learn from each other (its paper, 5.1)


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
) -> Summary:
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
    plan = configuration.plan(config, defaults)
    workdir = Path(workdir)
    identity = configuration.identity(config)
    finished = look(workdir, identity)
    if finished is not None:
        if not quiet:
            print(f"{workdir}: this run is finished; nothing to do.")
        return finished
    trainer = Trainer(
        plan.model,
        plan.make_tx,
        plan.method,
        plan.data,
        plan.seeds,
        plan.mode,
        config.batch_size,
        devices=plan.devices,
        shard_params=config.shard_params,
        warm_up=round(WARM_UP * plan.steps),
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(claim(workdir, identity))
        table = dstjax.summary(trainer.network(0).params, trainer.network(0).opt_state)
        if not quiet:
            print(
                f"{config.method}, {len(plan.seeds)} seed(s), {plan.mode}; {plan.data.provenance}\n{table}", flush=True
            )
        initial = trainer.pictures() if table.masked else {}
        checkpoints = Checkpoints(workdir / "checkpoints", configuration.without_display(identity))
        stack.callback(checkpoints.close)
        done = resume(trainer, checkpoints, workdir, quiet)
        metrics = Metrics(workdir, done.metrics_bytes, done.step, config.tensorboard, plan.seeds)
        stack.callback(metrics.close)
        progress = Progress(plan.steps, done.step, config.log_every_epochs, quiet)
        stack.callback(progress.close)
        step, updates = done.step, done.mask_updates
        while step < plan.steps:
            number, first = step // trainer.batches, step + 1
            epoch = trainer.epoch(number, min(trainer.batches, plan.steps - step))
            step = min(step + trainer.batches, plan.steps)
            check(epoch, first, step, plan.seeds, table, plan.method.counts, ended=step == plan.steps)
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
        checkpoints.wait()
        summary = results.summarise(config, plan, trainer, table, updates, workdir / "metrics.jsonl")
        summary["seconds"] = round(done.seconds + time.perf_counter() - start, 3)
        if initial:
            results.save_pictures(workdir / "masks.npz", table.masked[0].path, initial, trainer.pictures())
        write_atomically(workdir / "summary.json", to_json(summary, indent=1).encode() + b"\n")
    return summary


def resume(trainer: Trainer, checkpoints: Checkpoints, workdir: Path, quiet: bool) -> Done:
    """Puts the trainer where the newest whole checkpoint left it, and says so.

    Raises:
      ValueError: there are checkpoints, and none is whole.
    """
    restored = checkpoints.restore(trainer.state())
    if restored is None:
        if (workdir / "metrics.jsonl").exists() and not quiet:
            print(f"{workdir}: interrupted before its first checkpoint; starting from step 0.")
        return Done(0, 0.0, 0, 0)
    step, state, record, damaged = restored
    for line in damaged:  # even when quiet: it is not what the caller thinks it is
        print(f"{line}; going on from {checkpoints.directory / str(step)}.", file=sys.stderr)
    if not quiet:
        print(f"{workdir}: going on from the checkpoint at step {step}.")
    trainer.set_state(state)
    return Done(**record)


def look(workdir: Path, identity: dict[str, Any]) -> Summary | None:
    """Finds out what a workdir holds: the summary if it is this run and finished, None if it is this run or nothing.

    Raises:
      ValueError: it holds something else.
    """
    if not (workdir / "config.json").exists():
        if any((workdir / name).exists() for name in ("metrics.jsonl", "summary.json", "checkpoints")):
            raise ValueError(f"workdir {workdir} holds a run without its config.json; give another directory.")
        return None
    different = configuration.differences(identity, _read_json(workdir / "config.json"))
    if different:
        raise ValueError(f"workdir {workdir} holds another run; it differs in {', '.join(different)}.")
    path = workdir / "summary.json"
    return _read_json(path) if path.exists() else None


def claim(workdir: Path, identity: dict[str, Any]) -> IO[str]:
    """Makes the workdir this run's, and this process's for as long as the file that is returned stays open.

    Raises:
      ValueError: it cannot be made or written to, or another process trains in it.
    """
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


def parse(arguments: Sequence[str]) -> tuple[ConfigDict, ConfigDict, str]:
    """The config, the config before the command line changed it, and the workdir; see :mod:`experiments.command_line`.

    Raises:
      ValueError: an argument is missing, unknown or has a value that is not accepted.
    """
    config, defaults, options = command_line.parse(arguments, {"workdir": None})
    return config, defaults, options["workdir"]


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return 0
    try:
        config, defaults, workdir = parse(arguments)
        summary = train_and_evaluate(config, workdir, defaults=defaults)
    except (ValueError, DivergedError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, DivergedError) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    accuracy = ", ".join(f"{100 * a:.2f}" for a in summary["test_accuracy"])
    print(f"test accuracy {accuracy} % (mean {100 * summary['test_accuracy_mean']:.2f} %); see {workdir}/summary.json")
    return 0


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}.") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
