"""A small vision transformer on scikit-learn's digits, 97 % sparsity: a task that tells methods apart.

    python -m experiments.compare --config experiments/configs/task_vit97.py --workdir DIR \
      --methods static,set,rigl,dst_ee --sparsities 0.97 --seeds 8

16 patches of 2 x 2 pixels, 32 features, two blocks with layer normalisation, AdamW, 1,000 steps of batch 32.
"""

from ml_collections import ConfigDict

from experiments.configs.tasks import task_config


def get_config(proxy: bool = True) -> ConfigDict:
    """The configuration, locked; the task is small, and has no other size."""
    del proxy
    return task_config("vit97").lock()
