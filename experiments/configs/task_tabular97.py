"""Generated tables of 54 inputs and 7 classes, 97 % sparsity: a task that tells methods apart.

    python -m experiments.compare --config experiments/configs/task_tabular97.py --workdir DIR \
      --methods static,set,rigl,dst_ee --sparsities 0.97 --seeds 8

MLP 54-200-100-7, 1,500 steps of batch 64.
"""

from ml_collections import ConfigDict

from experiments.configs.tasks import task_config


def get_config(proxy: bool = True) -> ConfigDict:
    """The configuration, locked; the task is small, and has no other size."""
    del proxy
    return task_config("tabular97").lock()
