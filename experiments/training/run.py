"""One run: trains, goes on where it was interrupted, or finds that all is done already."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from ml_collections import ConfigDict

import dstjax
from experiments import stopping
from experiments.tasks import mutual
from experiments.training import configuration, hosts, inputs, partial, results, sealed
from experiments.training.checkpoint import CheckpointError, Checkpoints
from experiments.training.learning import Watch
from experiments.training.partial import Begun
from experiments.training.recording import Metrics, NoMetrics, Progress
from experiments.training.trainer import Epoch, Trainer
from experiments.training.workdir import Results, check_progress, claim, look, run_mark, usable


class Done(NamedTuple):
    """How far a run has come when a checkpoint is saved, beside the state of the networks."""

    step: int
    seconds: float
    metrics_bytes: int
    metrics_sha256: str
    mask_updates: int
    begun: str = ""  # an epoch that was left in its middle, see experiments.training.partial


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
    workdir = Path(workdir)
    with usable(workdir):
        return _train_and_evaluate(config, workdir, defaults, quiet or not hosts.is_first())


def _train_and_evaluate(config: ConfigDict, workdir: Path, defaults: ConfigDict | None, quiet: bool) -> Results:
    start = time.perf_counter()
    identity = configuration.identity(config)
    plan = hosts.together(lambda: plan_of_all(config, defaults))
    read = hosts.together(lambda: inputs.fingerprints(plan.data, plan.seeds, plan.rules))
    finished = hosts.from_first(lambda: look(workdir, identity, read))
    if finished is not None:
        if not quiet:
            print(f"{workdir}: this run is finished; nothing to do.")
        return finished
    trainer = make_trainer(config, plan)
    due = config.checkpoint_every_epochs * trainer.batches
    with contextlib.ExitStack() as stack:
        stack.enter_context(hosts.together(lambda: claim(workdir, identity)))
        table = dstjax.summary(trainer.network(0).params, trainer.network(0).opt_state)
        if not quiet:
            own = [f"{name}={config[name]}" for name in plan.rules if name != "method"]
            named = ", ".join([config.method, *own])
            print(f"{named}, {len(plan.seeds)} seed(s), {plan.mode}\n{plan.data.provenance}\n{table}", flush=True)
        initial = trainer.pictures() if table.masked else {}
        anew = hosts.from_first(lambda: check_progress(workdir, 2 * due))
        run = configuration.without_display(identity)
        checkpoints = hosts.together(lambda: Checkpoints(workdir / "checkpoints", run, read))
        stack.push(_closing(checkpoints))
        done = resume(trainer, checkpoints, workdir, quiet)
        if anew and not done.step and hosts.is_first():
            print(anew, file=sys.stderr)
        watch = Watch(trainer)
        if table.masked:
            watch.look(done.step)
        metrics = hosts.together(lambda: records(workdir, done, config.tensorboard, plan.seeds))
        stack.callback(metrics.close)
        masks = trainer.masks() if config.tensorboard and table.masked else []
        progress = Progress(plan.steps, done.step, config.log_every_epochs, quiet)
        stack.callback(progress.close)
        kept = contextlib.ExitStack()
        asked = stack.enter_context(kept).enter_context(stopping.deferred())
        step, updates = done.step, done.mask_updates
        begun = partial.from_text(done.begun) if done.begun else None

        def save(begun: Begun | None = None) -> None:
            seconds = done.seconds + time.perf_counter() - start
            rest = (metrics.size(), metrics.digest(), updates, "" if begun is None else partial.to_text(begun))
            checkpoints.save(step, trainer.state(), Done(step, seconds, *rest)._asdict())

        while step < plan.steps:
            number, first = step // trainer.batches, step + 1
            batches = min(trainer.batches, plan.steps - number * trainer.batches)
            epoch = trainer.epoch(number, batches, begun, asked)
            if isinstance(epoch, Begun):
                step, begun = number * trainer.batches + epoch.done, epoch
                leave(save, begun, checkpoints, step, asked())
            step, begun = number * trainer.batches + batches, None
            check_gradients(epoch, config.on_nonfinite, plan.seeds, trainer.leaves())
            check(epoch, first, step, plan.seeds, table, plan.method.promises, ended=step == plan.steps)
            watch.growth(epoch, [row.path for row in table.masked])
            results.record_epoch(metrics, epoch, step, trainer.batches, updates, plan, table)
            updates += epoch.updates
            if masks:
                now = trainer.masks()
                results.show_overlap(metrics, step, masks, now)
                masks = now
            progress.update(step, epoch.loss, epoch.accuracy, epoch.topology["exploration_rate"])
            last = step == plan.steps
            if last or (number + 1) % config.eval_every_epochs == 0:
                results.record_evaluation(metrics, "validation", step, trainer.batches, trainer.evaluate("validation"))
                if table.masked and (epoch.updates or plan.method.start.prune_step):
                    watch.look(step)
            if last or (number + 1) % config.checkpoint_every_epochs == 0:
                save()
        hosts.together(checkpoints.wait)
        (signalled,) = hosts.most(asked())
        if signalled:
            raise stopping.Interrupted(int(signalled), f"saved at step {step}")
        kept.close()
        results.record_evaluation(metrics, "test", step, trainer.batches, trainer.evaluate("test"))
        measured = results.measure(trainer)
        final = trainer.pictures() if initial else {}

        def ended() -> Results:
            metrics.size()
            summary = results.summarise(
                config, plan, measured, trainer.batches, table, updates, workdir / "metrics.jsonl"
            )
            summary["seconds"] = round(done.seconds + time.perf_counter() - start, 3)
            return finish(summary, workdir, identity, read, metrics, table, (initial, final))

        return hosts.from_first(ended)


def finish(
    summary: Results,
    workdir: Path,
    identity: dict[str, Any],
    read: inputs.Inputs,
    metrics: Metrics | NoMetrics,
    table: dstjax.Summary,
    pictures: tuple[dict[str, Any], dict[str, Any]],
) -> Results:
    """Writes masks.npz and summary.json, which says whose it is and what the other files were; a run ends with it."""
    summary |= {"run": run_mark(identity), "read": read, "files": {"metrics.jsonl": metrics.digest()}}
    if table.masked:
        results.save_pictures(workdir / "masks.npz", table.masked[0].path, *pictures)
        summary["files"]["masks.npz"] = sealed.file_digest(workdir / "masks.npz")
    sealed.write(workdir / "summary.json", summary)
    return summary


def leave(save: Callable[[Begun], None], begun: Begun, checkpoints: Checkpoints, step: int, number: int) -> NoReturn:
    """Saves in the middle of an epoch, and ends the run.

    Raises:
      Interrupted: always, once the checkpoint is whole.
    """
    save(begun)
    hosts.together(checkpoints.wait)
    number = number or signal.SIGTERM  # another process was asked
    raise stopping.Interrupted(number, f"saved at step {step}")


def _closing(checkpoints: Checkpoints) -> Callable[..., bool]:
    """Closes them at the end; an error that is under way goes before one of closing."""

    def close(kind: type | None, error: BaseException | None, trace: Any) -> bool:
        try:
            checkpoints.close()
        except CheckpointError:
            if error is None:
                raise
        return False

    return close


def make_trainer(config: ConfigDict, plan: configuration.Plan, **others: Any) -> Trainer:
    """What trains the networks of a plan; ``others`` are arguments of :class:`Trainer`, in place of the plan's too."""
    planned = dict(data=plan.data, mode=plan.mode, devices=plan.devices, warm_up=round(mutual.WARM_UP * plan.steps))
    named = {
        name: config[name] for name in ("batch_size", "shard_params", "label_smoothing", "accumulate", "on_nonfinite")
    }
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
    return Metrics(workdir, done.metrics_bytes, done.metrics_sha256, done.step, tensorboard, seeds)


def resume(trainer: Trainer, checkpoints: Checkpoints, workdir: Path, quiet: bool) -> Done:
    """Puts the trainer where the newest whole checkpoint left it, and says so.

    Raises:
      ValueError: there are checkpoints, and none is whole.
    """
    restored = checkpoints.restore(trainer.state())
    if restored is None:
        return Done(0, 0.0, 0, "", 0)
    step, state, record, damaged = restored
    for line in damaged if hosts.is_first() else []:  # even when quiet: it is not what the caller thinks it is
        print(f"{line}; going on from {checkpoints.directory / str(step)}.", file=sys.stderr)
    if not quiet:
        print(f"{workdir}: going on from the checkpoint at step {step}.")
    trainer.set_state(state)
    return Done(**record)


def check_gradients(epoch: Epoch, on_nonfinite: str, seeds: Sequence[int], leaves: Sequence[str]) -> None:
    """Stops where a gradient is not finite, unless such steps are skipped; says of these that there were some.

    Raises:
      DivergedError: names the first step, and the first leaf.
    """
    found = [
        f"seed {seed}: {number} step{'s' * (number > 1)}, the first of them step {step}, leaf {leaves[leaf]!r}"
        for seed, number, step, leaf in zip(seeds, *(x.tolist() for x in epoch.lost), strict=True)
        if number
    ]
    if found and on_nonfinite == "raise":
        raise DivergedError(
            f"the gradient is not finite ({'; '.join(found)}); a smaller learning rate may help, and "
            "--config.on_nonfinite=skip leaves such steps out."
        )
    if found and hosts.is_first():
        print(f"skipped steps whose gradient is not finite ({'; '.join(found)}).", file=sys.stderr)


def check(
    epoch: Epoch, first: int, last: int, seeds: Sequence[int], table: dstjax.Summary, counts: str, *, ended: bool
) -> None:
    """Stops where the loss is not finite, or where there are not as many active weights as the method promises.

    Raises:
      DivergedError: of the loss.
      RuntimeError: of the weights, which is a bug.
    """
    skipped = np.asarray(epoch.lost.number) > last - first  # all of them, so that there is no loss
    lost = [seed for seed, bad in zip(seeds, ~np.isfinite(epoch.loss) & ~skipped, strict=True) if bad]
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
