"""Generated spectra of 40 channels, 90 % sparsity: a task that tells methods apart.

    python -m experiments.compare --config experiments/configs/task_spectra90.py --workdir DIR \
      --methods static,set,rigl,dst_ee --sparsities 0.9 --seeds 8

MLP 40-300-100-10, 1,500 steps of batch 64.
"""

from ml_collections import ConfigDict

from experiments.configs.tasks import task_config


def get_config(proxy: bool = True) -> ConfigDict:
    """The configuration, locked; the task is small, and has no other size."""
    del proxy
    return task_config("spectra90").lock()
