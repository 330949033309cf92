"""Makes the networks of a finished run really smaller, and measures what that brings.

    python -m experiments.compact --workdir runs/digits [--batch_size 256] [--round_to 1]

For each seed: parameters and FLOPs before and after, test images on which the smaller network predicts something else
than the masked one (there should be none), and how long a batch takes in both on the machine at hand: the median of
many calls in turn, each of one batch, or of a compiled loop over several, in which no call has to be started. Prints
the table of the first seed's layers too, and writes compact.json and compact.html, with a chart, into the directory.
--round_to 8 keeps a few dead units, so that widths are multiples of eight: on a CPU that is often faster.
"""

import functools
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dstjax
from dstjax.checks import check_integer
from experiments import command_line, tasks, turns
from experiments.report import compacted
from experiments.training import configuration, finished, inputs, run, sealed
from experiments.training.checkpoint import Checkpoints
from experiments.training.recording import write_atomically
from experiments.training.trainer import Trainer
from experiments.training.workdir import check_name

_NUMBERS = (("batch_size", "256"), ("round_to", "1"))
_ROUNDS, _SECONDS = 30, 0.02  # of each network in turn, each about so long
_LOOP, _BYTES = 32, 2**26  # batches of a compiled loop, or as many as take so many bytes


def load(workdir: Path) -> tuple[Trainer, configuration.Plan]:
    """The trainer of a finished run, with the networks of its last checkpoint.

    Raises:
      ValueError: there is no such run, or no whole checkpoint of it.
    """
    check_name(workdir)
    finished.read(workdir)
    identity = sealed.read(workdir / "config.json")
    config = ConfigDict(identity)
    if isinstance(config.devices, int) and config.devices > jax.device_count():
        with config.unlocked():  # it may have been trained on another machine
            config.devices = 1
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


def measure(trainer: Trainer, index: int, batch_size: int, round_to: int) -> tuple[compacted.Row, Any]:
    """Makes one network smaller, and compares it with the masked one on all test samples; its report too."""
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
    batches = jnp.stack([jnp.roll(batch, i, axis=0) for i in range(min(_LOOP, max(2, _BYTES // batch.nbytes)))])
    loops = [_over_batches(forward), _over_batches(smaller)]
    calls = [
        lambda: masked(variables, batch),
        lambda: smaller(fewer, batch),
        lambda: loops[0](variables, batches),
        lambda: loops[1](fewer, batches),
    ]
    times = [statistics.median(found) for found in turns.timed(calls, rounds=_ROUNDS, seconds=_SECONDS)]
    before, after, *looped = times
    row = compacted.Row(
        seed=trainer.seeds[index],
        parameters=report.parameters,
        flops=report.flops,
        changed=int((predicted[0] != predicted[1]).sum()),
        samples=len(x),
        call=(before, after),
        looped=(looped[0] / len(batches), looped[1] / len(batches)),
    )
    return row, report


def _over_batches(forward: Callable[[Any, jax.Array], Any]) -> Any:
    """One compiled function of the parameters and several batches, one after another."""
    return jax.jit(lambda params, batches: jax.lax.map(functools.partial(forward, params), batches))


def _samples(trainer: Trainer, index: int) -> jax.Array:
    """The test samples of a network, as it sees them."""
    found = []
    group = 0 if trainer.batched else index
    for source, rows, _, counts in trainer.feed.evaluation(group, "test"):
        # Of networks at once the rows and the mean differ, the samples are the same.
        rows, mean = (rows[index], source.mean[index]) if trainer.batched else (rows, source.mean)
        found.append(source.x[rows.reshape(-1)[np.flatnonzero(counts)]] - mean[None])
    return jnp.concatenate(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    given = sys.argv[1:] if arguments is None else arguments
    return command_line.run(given, __doc__, _main, "nothing was changed")


def _main(arguments: Sequence[str]) -> int:
    options = command_line.read(arguments, ["workdir", "batch_size", "round_to"])
    if not options.get("workdir"):
        raise ValueError("option --workdir is missing; expected the directory of a finished run.")
    batch_size, round_to = (_number(name, options.get(name, default)) for name, default in _NUMBERS)
    workdir = Path(options["workdir"])
    trainer, _ = load(workdir)
    measured = [measure(trainer, i, batch_size, round_to) for i in range(len(trainer.seeds))]
    found, layers = [row for row, _ in measured], str(measured[0][1])
    print(layers)
    print()
    print(compacted.text(found, batch_size))
    device = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    measured_on = f"{device.platform}: {device.device_kind}{cores}, jax {jax.__version__}"
    command = f"python -m experiments.compact --workdir {workdir} --batch_size {batch_size} --round_to {round_to}"
    rows = [{**row._asdict(), "batch_size": batch_size, "round_to": round_to, "machine": measured_on} for row in found]
    write_atomically(workdir / "compact.json", json.dumps(rows, indent=1).encode() + b"\n")
    title = f"{workdir.resolve().name}, made smaller"
    html = compacted.page(found, batch_size, title=title, machine=measured_on, layers=layers, command=command)
    write_atomically(workdir / "compact.html", html.encode())
    print(f"\nchart: {workdir / 'compact.html'}")
    return 0


def _number(name: str, text: str) -> int:
    check_integer(name, int(text) if text.isdecimal() else text, 1)
    return int(text)


if __name__ == "__main__":
    command_line.start(main)
