"""400 digits among 448 inputs of noise, 97 % sparsity: a task on which growth by gradients loses to random growth.

    python -m experiments.compare --config experiments/configs/task_noisydigits97.py --workdir DIR \
      --methods static,set,rigl,balanced_momentum --sparsities 0.97 --seeds 8

MLP 512-300-100-10, 1,500 steps of batch 64.
"""

from ml_collections import ConfigDict

from experiments.configs.tasks import task_config


def get_config(proxy: bool = True) -> ConfigDict:
    """The configuration, locked; the task is small, and has no other size."""
    del proxy
    return task_config("noisydigits97").lock()
