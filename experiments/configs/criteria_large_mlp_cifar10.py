"""Pruning criteria: large-MLP on CIFAR-10.

    python -m experiments.train --config experiments/configs/criteria_large_mlp_cifar10.py --workdir DIR

3072-1024-512-10, 100 epochs. The other criteria: ``--config.drop=set``, ``mest``, ``snip``, ``rsensitivity``;
``--config.grow=gradient`` for the other growth.

Expected time: 1 minute a seed on one accelerator (an estimate from 35,200 steps of 1 ms, not measured).

The paper's number: curves only (pruning criteria, Figures 1, 4, 5, 7, 8, 16); the ITOP rate after random growth is 0.7
with period 800 and 0.2 with 6400 at density 0.1 (Figure 11, text).

``--config.proxy=True``: the task ``digits98``, an MLP on scikit-learn's digits; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families, tasks


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria("large_mlp", "cifar10", epochs=100.0, learning_rate=0.01)
    if proxy:
        tasks.on_task(config, "digits98")
    return config.lock()
