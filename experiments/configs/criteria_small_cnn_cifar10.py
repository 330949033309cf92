"""Pruning criteria: small-CNN on CIFAR-10.

    python -m experiments.train --config experiments/configs/criteria_small_cnn_cifar10.py --workdir DIR

Three convolutions without padding, as the released code has them, 100 epochs. The other criteria:
``--config.drop=set``, ``mest``, ``snip``, ``rsensitivity``; ``--config.grow=gradient`` for the other growth.

Expected time: 2 minutes a seed on one accelerator (an estimate from 35,200 steps of 3 ms, not measured).

The paper's number: curves only (pruning criteria, Figure 1).

``--config.proxy=True``: the task ``vgg97``, a small VGG on scikit-learn's digits; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families, tasks


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria("small_cnn", "cifar10", epochs=100.0, learning_rate=0.01)
    if proxy:
        tasks.on_task(config, "vgg97")
    return config.lock()
