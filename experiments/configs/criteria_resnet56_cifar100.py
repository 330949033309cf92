"""Pruning criteria: ResNet-56 on CIFAR-100.

    python -m experiments.train --config experiments/configs/criteria_resnet56_cifar100.py --workdir DIR

Projection shortcuts, 200 epochs. The other criteria: ``--config.drop=set``, ``mest``, ``snip``, ``rsensitivity``;
``--config.grow=gradient`` for the other growth.

Expected time: 6 minutes a seed on one accelerator (an estimate from 70,400 steps of 5 ms, not measured).

The paper's number: curves only (pruning criteria, Figure 1).

``--config.proxy=True``: nine narrow blocks on scikit-learn's digits, 150 steps, under a minute on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria("resnet56", "cifar100", epochs=200.0, learning_rate=0.1, weight_decay=1e-4)
    if proxy:
        families.on_digits(config, sizes=(8,), steps=150, period=10)
    return config.lock()
