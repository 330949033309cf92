"""Compares methods of dynamic sparse training: methods x sparsities, each over the same seeds.

    python -m experiments.compare --config experiments/configs/digits.py --methods dense,static,set,rigl,dst_ee \
      --sparsities 0.95,0.98,0.99 --seeds 5 --workdir DIR [--config.steps=1000 ...]

  --methods NAMES           names of dstjax.methods with commas between them, or all (but those of channels, which
                            experiments.latency compares); under names of your own also variants,
                            NAME=METHOD:FIELD=VALUE+FIELD=VALUE, as in mine=rigl:grow=my_rules:f, and methods of your
                            own, NAME=MODULE:FUNCTION or MODULE:FUNCTION
  --coefficients C,C,...    DST-EE is also run with these at one sparsity, for its exploration figure (default, where
                            dst_ee is among the methods: 1e-4,1e-3,1e-2,1e-1; none: without them)
  --coefficient-sparsity S  that sparsity (default: the one in the middle of --sparsities)
  --seeds N                 seeds 0 to N-1, or different seeds as N,N,...
  --path fast|steps         steps: every cell trains by programs of its own, with checkpoints (default: fast, many cells
                            by one program, each from its first step to its last; what cannot be trained so is named)
  --config.FIELD=VALUE      changes the config for every cell whose method has such a field

All methods have the data, network, optimiser, densities and times of mask updates of the config. What else it sets for
its own method, such as a criterion or a coefficient, stays with that one; others have their defaults.

Each cell trains in a folder of its own in DIR. The same command again continues where it was interrupted, of a cell on
the fast path at its beginning, and does not run finished cells again. DIR holds in the end results.csv (a row per cell
and seed) and report.html (for a browser).

Exit status: 0; 1 where a cell's loss is no longer finite (the others are run and reported); 2 for anything wrong with
the arguments, the config or DIR.
"""

import sys
from collections.abc import Sequence

from experiments import command_line


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command_line.run(arguments, __doc__, _compare, "the same command continues here.", fields=True)


def _compare(arguments: Sequence[str]) -> int:
    from experiments import grid, queue  # seconds of imports, which --help does without

    asked = grid.plan(arguments)
    failures = queue.run([grid.job(asked, name) for name in asked.cells], place=f" in {asked.workdir}", path=asked.path)
    return 1 if not grid.report(asked, failures) or failures else 0


if __name__ == "__main__":
    command_line.start(main, sys.argv[1:])
