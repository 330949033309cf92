"""Regrowing strategies: the MLP of SET on Fashion-MNIST.

    python -m experiments.train --config experiments/configs/regrowing_set_mlp_fashion_mnist.py --workdir DIR

The same network and recipe as on CIFAR-10, on data that the study does not have: what its rules do where the task is
nearly solved.

Expected time: 10 minutes a seed on one accelerator (an estimate from 540,000 steps of 1 ms, not measured).

The paper's number: none; the study is on CIFAR-10 alone.

``--config.proxy=True``: 64-200-50-200-10 on scikit-learn's digits, 600 steps, seconds on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.regrowing("fashion_mnist", proxy)
    if not proxy:
        config.distribution = families.set_densities((784, 4000, 1000, 4000), 20)
        config.update_period = 540
        config.protocol = None
    return config.lock()
