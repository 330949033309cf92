"""Link prediction on a generated graph, 98 % sparsity: a task that tells methods apart.

    python -m experiments.compare --config experiments/configs/task_links.py --workdir DIR \
      --methods static,set,rigl,dst_ee --sparsities 0.98 --seeds 8

Two fully connected layers 16-128-1, uniform sparsity, 2,800 steps of batch 512.
"""

from ml_collections import ConfigDict

from experiments.configs.tasks import task_config


def get_config(proxy: bool = True) -> ConfigDict:
    """The configuration, locked; the task is small, and has no other size."""
    del proxy
    return task_config("links").lock()
