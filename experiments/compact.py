"""Makes the networks of a finished run really smaller, and measures what that brings.

    python -m experiments.compact --workdir runs/digits [--batch_size 256] [--round_to 1]

For each seed: parameters and FLOPs before and after, test images on which the smaller network predicts something else
than the masked one (there should be none), and how long a batch takes in both, the median of many calls in turn on the
machine at hand. Prints the table of the first seed's layers too.
"""

import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dstjax
from dstjax.checks import check_integer
from experiments import command_line, tasks, turns
from experiments.training import configuration, finished, inputs, run, sealed
from experiments.training.checkpoint import Checkpoints
from experiments.training.trainer import Trainer

_NUMBERS = (("batch_size", "256"), ("round_to", "1"))
_ROUNDS, _SECONDS = 30, 0.02  # of each network in turn, each about so long


class Measured(NamedTuple):
    """What became of one network."""

    seed: int
    report: Any
    changed: int  # test samples with another prediction
    samples: int
    before: float  # seconds a batch
    after: float

    @property
    def faster(self) -> float:
        """How many times faster a batch is."""
        return self.before / self.after


def load(workdir: Path) -> tuple[Trainer, configuration.Plan]:
    """The trainer of a finished run, with the networks of its last checkpoint.

    Raises:
      ValueError: there is no such run, or no whole checkpoint of it.
    """
    finished.read(workdir)
    identity = sealed.read(workdir / "config.json")
    config = ConfigDict(identity)
    plan = run.plan_of_all(config, None)
    trainer = run.make_trainer(config, plan)
    read = inputs.fingerprints(plan.data, plan.seeds, plan.rules)
    checkpoints = Checkpoints(workdir / "checkpoints", configuration.without_display(identity), read)
    try:
        restored = checkpoints.restore(trainer.state())
    finally:
        checkpoints.close()
    if restored is None or restored[0] != plan.steps:
        raise ValueError(f"{workdir} has no checkpoint of its last step; train it again in another directory.")
    trainer.set_state(restored[1])
    return trainer, plan


def measure(trainer: Trainer, index: int, batch_size: int, round_to: int) -> Measured:
    """Makes one network smaller, and compares it with the masked one on all test samples."""
    state = trainer.network(index)
    params = dstjax.forward_params(state.params, state.opt_state, training=False)
    variables = {"params": params, **state.model_state}
    forward = functools.partial(trainer.model.apply, train=False)
    x = _samples(trainer, index)
    example = x[: min(batch_size, len(x))]
    smaller, fewer, report = dstjax.compact(forward, variables, state.opt_state, example, round_to=round_to)
    masked = jax.jit(forward)
    predicted = [np.asarray(tasks.answers(f(p, x))) for f, p in ((masked, variables), (smaller, fewer))]
    batch = x[np.resize(np.arange(len(x)), batch_size)]
    calls = [lambda: masked(variables, batch), lambda: smaller(fewer, batch)]
    times = [statistics.median(found) for found in turns.timed(calls, rounds=_ROUNDS, seconds=_SECONDS)]
    return Measured(trainer.seeds[index], report, int((predicted[0] != predicted[1]).sum()), len(x), *times)


def _samples(trainer: Trainer, index: int) -> jax.Array:
    """The test samples of a network, as it sees them."""
    found = []
    group = 0 if trainer.batched else index
    for source, rows, _, counts in trainer.feed.evaluation(group, "test"):
        # Of networks at once the rows and the mean differ, the samples are the same.
        rows, mean = (rows[index], source.mean[index]) if trainer.batched else (rows, source.mean)
        found.append(source.x[rows.reshape(-1)[np.flatnonzero(counts)]] - mean[None])
    return jnp.concatenate(found)


def table(found: Sequence[Measured], batch_size: int) -> str:
    """The table of all seeds."""
    lines = [f"seed  parameters before -> after       FLOPs  other predictions  ms a batch of {batch_size}  faster"]
    for m in found:
        before, after = m.report.parameters
        work = m.report.flops
        flops = f"{work[0] / max(work[1], 1):.1f}x less" if work else "unknown"
        parameters = f"{before:,} -> {after:,}, {before / after:.1f}x"
        changed, times = f"{m.changed} of {m.samples}", f"{m.before * 1e3:.3f} -> {m.after * 1e3:.3f}"
        lines.append(f"{m.seed:>4}  {parameters:>26}  {flops:>10}  {changed:>17}  {times:>18}  {m.faster:.1f}x")
    if len(found) > 1:
        smaller = [m.report.parameters[0] / m.report.parameters[1] for m in found]
        lines.append(
            f"mean of {len(found)}: {statistics.mean(smaller):.1f}x smaller (standard deviation "
            f"{statistics.stdev(smaller):.1f}), {statistics.mean(m.faster for m in found):.1f}x faster"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    given = sys.argv[1:] if arguments is None else arguments
    return command_line.run(given, __doc__, _main, "nothing was changed")


def _main(arguments: Sequence[str]) -> int:
    options = command_line.read(arguments, ["workdir", "batch_size", "round_to"])
    if not options.get("workdir"):
        raise ValueError("option --workdir is missing; expected the directory of a finished run.")
    batch_size, round_to = (_number(name, options.get(name, default)) for name, default in _NUMBERS)
    trainer, _ = load(Path(options["workdir"]))
    found = [measure(trainer, i, batch_size, round_to) for i in range(len(trainer.seeds))]
    print(found[0].report)
    print()
    print(table(found, batch_size))
    return 0


def _number(name: str, text: str) -> int:
    check_integer(name, int(text) if text.isdecimal() else text, 1)
    return int(text)


if __name__ == "__main__":
    command_line.start(main)
