"""Trains networks by a method of dynamic sparse training.

    python -m experiments.train --config experiments/configs/digits.py --workdir DIR \
      [--config.method=dst_ee --config.sparsity=0.95 --config.seeds=5 ...]

An interrupted run goes on where its last checkpoint was when the same command is given again. ``DIR`` holds in the end
config.json, metrics.jsonl, summary.json, masks.npz (the first masked layer) and checkpoints/. A growth rule of your own
is a function of one leaf in a file in the current directory: ``--config.grow=module:function``.

On several hosts, or in several processes on one, the same command is started on each of them, with
``--config.devices=all`` and either JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
JAX_PROCESS_ID in the environment or, where JAX knows the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU),
``--distributed=cluster``. Process 0 alone writes to DIR, and prints.

Exit status: 0; 1 where the loss is no longer finite; 2 for anything wrong with the arguments, the config or DIR.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments import command_line, supervising

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def parse(arguments: Sequence[str]) -> "tuple[ConfigDict, ConfigDict, dict[str, str]]":
    """The config, the config before the command line changed it, and the options; see :mod:`experiments.command_line`.

    Raises:
      ValueError: an argument is missing, unknown or has a value that is not accepted.
    """
    return command_line.parse(arguments, {"workdir": None, "distributed": "environment"})


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    again = "the same command goes on from the last checkpoint."

    def run() -> int:
        return command_line.run(arguments, __doc__, _train, again, fields=True)

    several = os.environ.get("JAX_NUM_PROCESSES", "1") != "1" or {"cluster", "--distributed=cluster"} & {*arguments}
    return supervising.supervised(run) if several else run()


def _train(arguments: Sequence[str]) -> int:
    from experiments.training import hosts, run  # seconds of imports, which --help does without

    config, defaults, options = parse(arguments)
    hosts.join(options["distributed"])
    try:
        with hosts.others():
            summary = run.train_and_evaluate(config, options["workdir"], defaults=defaults)
    except run.DivergedError as error:
        return command_line.failed(error, 1)
    except hosts.LostError as error:
        command_line.failed(error, 2)
        os._exit(2)  # at the end of the process the runtime would wait for the others
    if hosts.is_first():
        accuracy = ", ".join(f"{100 * a:.2f}" for a in summary["test_accuracy"])
        mean, place = 100 * summary["test_accuracy_mean"], options["workdir"]
        print(f"test accuracy {accuracy} % (mean {mean:.2f} %); see {place}/summary.json")
    return 0


if __name__ == "__main__":
    command_line.start(main, sys.argv[1:])
