"""Pruning criteria: LeNet-5-Caffe on Fashion-MNIST.

    python -m experiments.train --config experiments/configs/criteria_lenet5_fashion_mnist.py --workdir DIR

100 epochs. The other criteria: ``--config.drop=set``, ``mest``, ``snip``, ``rsensitivity``; ``--config.grow=gradient``
for the other growth.

Expected time: 1 minute a seed on one accelerator (an estimate from 42,200 steps of 1 ms, not measured).

The paper's number: curves only (pruning criteria, Figures 1, 12, 13).

``--config.proxy=True``: one convolution and one hidden layer on scikit-learn's digits, 400 steps, under half a minute
on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria("lenet5_caffe", "fashion_mnist", epochs=100.0, learning_rate=0.01)
    if proxy:
        families.on_digits(config, sizes=(16, 64), steps=400, period=20)
        config.optimizer.learning_rate = 0.1
    return config.lock()
